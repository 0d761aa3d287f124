"""What a session token says, and what it may be good for: decided for both sides, without keys or clocks.

A token is a compact JWS (RFC 7515) whose payload is ``Claims`` as JSON, signed by the orchestrator with
Ed25519. Who signs is ``orchestrator.tokens``, who believes is ``toolserver.tools.tokens``; both ask this file
what is right. Times are whole seconds since 1970, as JWTs have them (RFC 7519).
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
from typing import Annotated, Any, TypeVar

import msgspec

from protocol.errors import Unauthorized

ALGORITHM = "EdDSA"
"""The only one that is taken, whatever a token says of itself."""
SESSION_TYPE = "workspace-session+jwt"
TICKET_TYPE = "workspace-ticket+jwt"
"""What a token is for, in its header (RFC 8725, 3.11): neither kind is ever taken for the other."""
KEY_BYTES = 32
_ID_DIGITS = 16
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


TokenId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,200}\Z")]
"""As ``revoke`` takes them: a token of another id could not be taken back."""


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every token says."""

    sid: str
    """The session; a tool server takes tokens of its own session only."""
    sub: str
    """The user, or whoever acts for them: what the log calls the caller."""
    jti: TokenId
    """The token's own id, by which it is revoked."""
    iat: int
    nbf: int
    exp: int
    """Made at, good from, good until."""


class Claims(Statement, frozen=True, kw_only=True):
    """What a session token says."""

    scopes: list[Scope] = []
    """None: good for nothing on the tool server itself."""
    path: str = "."
    """Only this directory and what is below it, in normal form."""
    port: int | None = None
    """The one port whose pages may be seen, by who stands in front of the dev server."""


class Ticket(Statement, frozen=True, kw_only=True):
    """What the token in a signed address says: one request, once."""

    method: str
    """``GET`` or ``PUT``."""
    path: str
    """The address's path, decoded: ``/v1/files/src/a.ts``, ``/v1/archive``."""
    options: dict[str, str] = {}
    """The address's other options, all of them."""


T = TypeVar("T", Claims, Ticket)


def key_id(public: bytes) -> str:
    """What a key is called in a token's header (``kid``): the beginning of its SHA-256, in hexadecimal.

    >>> key_id(bytes(32))
    '66687aadf862bd77'
    """
    return hashlib.sha256(public).hexdigest()[:_ID_DIGITS]


def public_key(text: str) -> bytes:
    """An Ed25519 public key out of base64; raises ValueError with a sentence.

    >>> len(public_key("A" * 43 + "="))
    32
    """
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError("must be Ed25519 public keys, 32 bytes each in base64, with commas between")
    return raw


def read_header(token: str, kind: str) -> str | None:
    """The id of the key that a token says it is signed by, before anything of it is believed.

    Raises Unauthorized for what is no token of this ``kind``. Of a header's members only three are known, and
    none that is not is passed over: an extension that changes what a signature means would be one.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise Unauthorized(f"the token has {len(token)} characters; the limit is {MAX_TOKEN_CHARS}")
    first = token.partition(".")[0]
    try:
        header = json.loads(
            base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)), object_pairs_hook=without_doubles
        )
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or token.count(".") != 2:
        raise Unauthorized("the token is not one of this tool server, nor one that its orchestrator signed")
    if unknown := sorted(header.keys() - {"alg", "kid", "typ"}):
        raise Unauthorized(f"the token's header has {unknown[0][:20]!r}, which is not known here")
    if header.get("alg") != ALGORITHM:
        raise Unauthorized(
            f"the token is signed by {str(header.get('alg'))[:20]!r}; only {ALGORITHM} is taken"
        )
    if header.get("typ") != kind:
        raise Unauthorized(
            f"the token is of the type {str(header.get('typ'))[:40]!r}, and {kind!r} is needed"
        )
    named = header.get("kid")
    if named is not None and not isinstance(named, str):
        raise Unauthorized("the token's 'kid' is no string")
    return named


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


def refuse_untimely(claims: Statement, now: float) -> None:
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
        raise Unauthorized(f"the token is not good before {wait:.0f} seconds from now; or a clock is wrong")
    longest = MAX_TICKET_SECONDS if isinstance(claims, Ticket) else MAX_TOKEN_SECONDS
    # From when it was made: one for next week could not be revoked today, and be remembered for long enough.
    if not 0 < claims.exp - claims.iat <= longest:
        raise Unauthorized(f"the token is made for {claims.exp - claims.iat} seconds; the limit is {longest}")
