"""Who may come in: the token, and the page that a browser says it comes from."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from protocol.errors import Forbidden, Unauthorized
from protocol.routes import SUBPROTOCOL_TOKEN, TOKEN_HEADER
from toolserver.tools.admission import EVERYTHING, STATIC, Admission


class Guard:
    """The rules of one daemon. Without a token it is bound to loopback (``Config`` sees to that)."""

    def __init__(self, token: str | None, token_sha256: str | None = None) -> None:
        # The digest is all that is needed to judge a token, and nobody can use it to come in.
        self._digest = token_sha256 or (token and _digest(token))

    def admit(self, headers: Mapping[str, str]) -> Admission:
        """Raise Unauthorized or Forbidden, or say who comes in and what they may."""
        refuse_foreign_origin(headers.get("Origin"), headers.get("Host", ""))
        if not self._digest:
            refuse_foreign_name(headers.get("Host", ""))
            return EVERYTHING
        given = presented_token(headers)
        if given is None:
            raise Unauthorized(
                f"a token is needed: 'Authorization: Bearer TOKEN', or '{TOKEN_HEADER}: TOKEN'"
            )
        if not hmac.compare_digest(_digest(given), self._digest):
            raise Unauthorized("the token is not the one of this tool server")
        return STATIC


def _digest(token: str) -> str:
    """
    >>> _digest("0123456789abcdef")[:12]
    '9f9f5111f7b2'
    """
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def presented_token(headers: Mapping[str, str]) -> str | None:
    """The token out of the headers, in the order in which they are believed.

    >>> presented_token({"Authorization": "Bearer abc"}), presented_token({})
    ('abc', None)
    """
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if TOKEN_HEADER in headers:
        return headers[TOKEN_HEADER]
    offered = (part.strip() for part in headers.get("Sec-WebSocket-Protocol", "").split(","))
    return next(
        (part.removeprefix(SUBPROTOCOL_TOKEN) for part in offered if part.startswith(SUBPROTOCOL_TOKEN)), None
    )


def refuse_foreign_origin(origin: str | None, host: str) -> None:
    """Raise Forbidden when a browser's page of another site asks; programs send no Origin.

    >>> refuse_foreign_origin("http://127.0.0.1:3001", "127.0.0.1:3001")
    >>> refuse_foreign_origin("https://evil.example", "127.0.0.1:3001")
    Traceback (most recent call last):
    protocol.errors.Forbidden: requests from pages of 'https://evil.example' are not taken
    """
    if origin is not None and _parsed(origin, "").netloc != host:
        raise Forbidden(f"requests from pages of {origin[:200]!r} are not taken", origin=origin[:200])


def refuse_foreign_name(host: str) -> None:
    """Raise Forbidden when this daemon is called by a name that is not this machine's.

    Where no token is asked for, a page could make its own name point to 127.0.0.1, and then be "our" origin.

    >>> refuse_foreign_name("localhost:3001"), refuse_foreign_name("127.0.0.1")
    (None, None)
    """
    name = _parsed("//" + host, "//unreadable").hostname or ""
    if name not in ("", "localhost") and not name.endswith(".localhost") and not _is_address(name):
        raise Forbidden(
            f"without a token only calls by this machine's own names are taken, not by {host[:200]!r}; "
            "use 127.0.0.1, or set TOOL_SERVER_TOKEN",
            host=host[:200],
        )


def _parsed(text: str, otherwise: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit(otherwise)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
