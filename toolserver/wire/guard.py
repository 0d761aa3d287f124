"""Who may come in: the token, and the page that a browser says it comes from."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import SplitResult, urlsplit

from protocol.errors import Forbidden, Unauthorized
from protocol.routes import SUBPROTOCOL_TOKEN, TOKEN_HEADER
from toolserver.tools.admission import EVERYTHING, STATIC, Admission
from toolserver.tools.tokens import Tokens


class Guard:
    """The rules of one daemon. Without a token it is bound to loopback (``Config`` sees to that)."""

    def __init__(
        self,
        token: str | None,
        token_sha256: str | None = None,
        tokens: Tokens | None = None,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
    ) -> None:
        # The digest is all that is needed to judge a token, and nobody can use it to come in.
        self._digest = token_sha256 or (token and _digest(token))
        self._tokens = tokens
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)

    def admit(self, headers: Mapping[str, str]) -> Admission:
        """Raise Unauthorized or Forbidden, or say who comes in and what they may."""
        self.refuse_foreign(headers)
        if not self._guarded:
            return EVERYTHING
        given = presented_token(headers)
        if given is None:
            raise Unauthorized(
                f"a token is needed: 'Authorization: Bearer TOKEN', or '{TOKEN_HEADER}: TOKEN'"
            )
        if self._digest and hmac.compare_digest(_digest(given), self._digest):
            return STATIC
        if self._tokens is not None and self._tokens.taken:
            return self._tokens.believe(given)
        raise Unauthorized("the token is not the one of this tool server")

    async def load_keys(self) -> None:
        """What ``KeysWanted`` asks for."""
        if self._tokens is not None:
            await self._tokens.load_soon()

    async def redeem(self, ticket: str, method: str, path: str, options: Mapping[str, str]) -> Admission:
        """As ``admit``, for an address that was signed for this one request."""
        if self._tokens is None or not self._tokens.taken:
            raise Unauthorized("this tool server knows no key that an address may be signed by")
        return await self._tokens.redeem(ticket, method, path, options)

    def refuse_foreign(self, headers: Mapping[str, str]) -> None:
        """Raise Forbidden for a page of another site, and for a name that is not this daemon's.

        A page can make its own name point here, and then be "our" origin. Where a token is asked for, it has
        none; so a program may call this daemon by any name, unless names are listed. A page may not.
        """
        origin, host = headers.get("Origin"), headers.get("Host", "")
        if origin is None or not self.lists(origin):
            refuse_foreign_origin(origin, host)
        if self._hosts or not self._guarded or origin is not None:
            refuse_foreign_name(host, self._hosts, guarded=self._guarded)

    def lists(self, origin: str) -> bool:
        """Whether pages of another origin may ask."""
        return origin in self._origins

    @property
    def lists_origins(self) -> bool:
        """Whether there are such pages at all."""
        return bool(self._origins)

    @property
    def _guarded(self) -> bool:
        return bool(self._digest) or (self._tokens is not None and self._tokens.taken)


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
    >>> refuse_foreign_origin("null", "")
    Traceback (most recent call last):
    protocol.errors.Forbidden: requests from pages of 'null' are not taken
    """
    if origin is not None and (not host or _parsed(origin, "").netloc != host):
        raise Forbidden(f"requests from pages of {origin[:200]!r} are not taken", origin=origin[:200])


def refuse_foreign_name(host: str, listed: Collection[str] = (), *, guarded: bool = False) -> None:
    """Raise Forbidden when this daemon is called by a name that is neither this machine's nor listed.

    An address is no name: nobody can make one point elsewhere.

    >>> refuse_foreign_name("localhost:3001"), refuse_foreign_name("127.0.0.1")
    (None, None)
    >>> refuse_foreign_name("ws.example:443", ["ws.example"])
    >>> refuse_foreign_name("a.ws.example", [".ws.example"])
    """
    name = (_parsed("//" + host, "//unreadable").hostname or "").lower()
    if name in ("", "localhost") or name.endswith(".localhost") or _is_address(name):
        return
    if name in listed or any(each[0] == "." and name.endswith(each) for each in listed):
        return
    if guarded:
        raise Forbidden(
            f"calls by the name {host[:200]!r} are not taken; TOOL_SERVER_ALLOWED_HOSTS lists those that are",
            host=host[:200],
        )
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
