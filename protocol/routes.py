"""The doors' addresses, named once for both sides."""

HEALTH = "/health"
READY = "/ready"
OPERATION = "/v1/{operation}"
WEBSOCKET = "/v1/ws"
ARCHIVE = "/v1/archive"
MANIFEST = "/v1/archive/manifest"
FILE = "/v1/files/{path}"
OPENAPI = "/openapi.json"
METRICS = "/metrics"
MCP = "/mcp"
PAGE = "/"

SUBPROTOCOL_JSON = "workspace.v1+json"
"""Text frames. Also what is spoken when none is offered."""
SUBPROTOCOL_MSGPACK = "workspace.v1+msgpack"
"""Binary frames."""
SUBPROTOCOL_TOKEN = "bearer."
"""A browser cannot set headers on a WebSocket; it offers ``bearer.<token>`` as one more subprotocol."""

CLOSE_UNAUTHORIZED = 4401
"""The WebSocket's close code when the token it is open by expired or was revoked; the reason says which."""
TICKET_OPTION = "ticket"
"""The option of a signed address: good for one request, once. No other token is taken from an address."""

TOKEN_HEADER = "X-Workspace-Token"
"""For proxies that strip ``Authorization``."""
REQUEST_ID_HEADER = "X-Request-Id"
VERSION_HEADER = "X-Tool-Server-Version"
"""Told by the WebSocket's handshake, as ``version`` is by /health."""

DEFAULT_PORT = 3001
DEFAULT_DEV_PORT = 4321
