"""A tool server's address and what is sent along to be let in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from protocol import routes
from protocol.errors import InvalidRequest


def authorized(headers: Mapping[str, str], token: str | None) -> dict[str, str]:
    """``headers`` with the token: in Authorization, unless a proxy on the way has that one for itself.

    >>> authorized({"authorization": "Bearer proxy"}, "t")
    {'authorization': 'Bearer proxy', 'X-Workspace-Token': 't'}
    """
    if token is None:
        return dict(headers)
    taken = any(name.lower() == "authorization" for name in headers)
    return {**headers, **({routes.TOKEN_HEADER: token} if taken else {"Authorization": f"Bearer {token}"})}


def with_other_token(headers: Mapping[str, str], token: str) -> dict[str, str]:
    """What ``authorized`` made, with another token in its place.

    >>> with_other_token({"Authorization": "Bearer old"}, "new")
    {'Authorization': 'Bearer new'}
    """
    if routes.TOKEN_HEADER in headers:
        return {**headers, routes.TOKEN_HEADER: token}
    return {**headers, "Authorization": f"Bearer {token}"}


def websocket_url(base_url: str) -> str:
    """Where the WebSocket of the tool server at ``base_url`` is; raises InvalidRequest.

    >>> websocket_url("https://h/proxy/8080")
    'wss://h/proxy/8080/v1/ws'
    """
    scheme, separator, rest = base_url.partition("://")
    if scheme not in ("http", "https") or not separator:
        raise InvalidRequest(f"{base_url!r} is not an address of a tool server: give http://HOST:PORT")
    return f"{'ws' if scheme == 'http' else 'wss'}://{rest}{routes.WEBSOCKET}"


def is_loopback(base_url: str) -> bool:
    """Whether it is on this machine, where no proxy leads.

    >>> is_loopback("http://127.0.0.1:3001"), is_loopback("http://[::1]:1"), is_loopback("http://h")
    (True, True, False)
    """
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
