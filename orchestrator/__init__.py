"""The host side: where workspaces run, whose they are, and what they may do."""
