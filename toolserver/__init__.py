"""The daemon inside a workspace: one HTTP and WebSocket server over the operations of ``protocol``."""
