"""What a session token says, and what it may be good for: decided for both sides, without keys or clocks.

A token is a compact JWS (RFC 7515) whose payload is ``Claims`` as JSON, signed by the orchestrator with
Ed25519. Who signs is ``orchestrator.tokens``, who believes is ``toolserver.tools.tokens``; both ask this file
what is right. Times are whole seconds since 1970, as JWTs have them (RFC 7519).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from protocol.errors import Unauthorized

ALGORITHM = "EdDSA"
"""The only one that is taken, whatever a token says of itself."""
SESSION_TYPE = "workspace-session+jwt"
TICKET_TYPE = "workspace-ticket+jwt"
"""What a token is for, in its header (RFC 8725, 3.11): neither kind is ever taken for the other."""
MAX_TOKEN_CHARS = 4096
"""A token of all scopes and a path of 200 characters has 700; what is longer is not even looked at."""
MAX_TOKEN_SECONDS = 24 * 3600
"""No token lives longer, so that a revocation may be forgotten after so long. A gut feeling: a working day,
and the night after it."""
MAX_TICKET_SECONDS = 3600
"""A signed address is for now: its use is remembered for so long."""
LEEWAY_SECONDS = 30
"""By so much two clocks may differ: a token is taken so long before its time, and after it."""


class Scope(enum.Enum):
    """What a token may be good for."""

    READ = "read"
    WRITE = "write"
    COMMAND = "command"
    ARCHIVE = "archive"
    DEV = "dev"
    ADMIN = "admin"


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a session token says."""

    sid: str
    """The session; a tool server takes tokens of its own session only."""
    sub: str
    """The user, or whoever acts for them: what the log calls the caller."""
    jti: str
    """The token's own id, by which it is revoked."""
    iat: int
    nbf: int
    exp: int
    """Made at, good from, good until."""
    scopes: list[Scope] = []
    """None: good for nothing on the tool server itself."""
    path: str = "."
    """Only this directory and what is below it, in normal form."""
    port: int | None = None
    """The one port whose pages may be seen, by who stands in front of the dev server."""


class Ticket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the token in a signed address says: one request, once."""

    sid: str
    sub: str
    jti: str
    iat: int
    nbf: int
    exp: int
    method: str
    """``GET`` or ``PUT``."""
    path: str
    """The address's path, decoded: ``/v1/files/src/a.ts``, ``/v1/archive``."""
    options: dict[str, str] = {}
    """The address's other options, all of them."""


T = TypeVar("T", Claims, Ticket)


def read_payload(payload: bytes, kind: type[T]) -> T:
    """The claims out of a token's payload, whose signature was found good; raises Unauthorized.

    >>> read_payload(b'{"sid": "a", "sid": "b"}', Claims)
    Traceback (most recent call last):
    protocol.errors.Unauthorized: the token says 'sid' twice
    """
    try:
        return msgspec.convert(json.loads(payload, object_pairs_hook=without_doubles), kind)
    except msgspec.ValidationError as error:
        raise Unauthorized(f"the token's claims are not ones that are known here: {error}") from None
    except (ValueError, RecursionError):
        raise Unauthorized("the token's claims are not JSON") from None


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One member a name: of two, readers differ in which they believe. Raises Unauthorized."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Unauthorized(f"the token says {name[:20]!r} twice")
        found[name] = value
    return found


def refuse_untimely(claims: Claims | Ticket, now: float) -> None:
    """Raise Unauthorized outside the time that a token is good for, or when that is too long.

    >>> claims = Claims(sid="s", sub="u", jti="1", iat=1000, nbf=1000, exp=1600)
    >>> refuse_untimely(claims, 1600 + LEEWAY_SECONDS)
    >>> refuse_untimely(claims, 1601 + LEEWAY_SECONDS)
    Traceback (most recent call last):
    protocol.errors.Unauthorized: the token expired 31 seconds ago: fetch a new one
    """
    if now > claims.exp + LEEWAY_SECONDS:
        raise Unauthorized(f"the token expired {now - claims.exp:.0f} seconds ago: fetch a new one")
    if now < max(claims.nbf, claims.iat) - LEEWAY_SECONDS:
        wait = max(claims.nbf, claims.iat) - now
        raise Unauthorized(
            f"the token is good from {wait:.0f} seconds on only; or one of the clocks is wrong"
        )
    longest = MAX_TICKET_SECONDS if isinstance(claims, Ticket) else MAX_TOKEN_SECONDS
    if not 0 < claims.exp - claims.nbf <= longest:
        raise Unauthorized(f"the token is made for {claims.exp - claims.nbf} seconds; the limit is {longest}")


def same_options(given: Mapping[str, str], signed: Mapping[str, str]) -> bool:
    """Whether an address has the options that were signed, and no other.

    >>> same_options({"format": "zstd"}, {"format": "gzip"})
    False
    """
    return dict(given) == dict(signed)
