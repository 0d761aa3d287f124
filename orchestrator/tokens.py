"""Session tokens and signed addresses, made on the host; and read there, by who stands before a dev server.

A tool server is told the public keys alone, so nothing in a sandbox can make one. What they say is in
``protocol.tokens``.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import msgspec

from orchestrator.keys import KeyRing, PublicKey
from protocol import routes
from protocol.errors import Forbidden, InvalidRequest, Unauthorized
from protocol.paths import workspace_path
from protocol.tokens import (
    ALGORITHM,
    MAX_TICKET_SECONDS,
    MAX_TOKEN_SECONDS,
    SESSION_TYPE,
    TICKET_TYPE,
    Claims,
    Scope,
    Statement,
    Ticket,
    read_header,
    read_payload,
    refuse_untimely,
)

_NAMES_BYTES = 12
"""Of a token's id: nobody has to guess one, it only must not come twice."""


@dataclass(frozen=True)
class Grant:
    """What a token is to be good for."""

    session_id: str
    user: str
    scopes: Sequence[Scope] = ()
    path: str = "."
    """Only this directory and what is below it, however it is spelled."""
    port: int | None = None
    """The port whose pages may be seen."""


@dataclass(frozen=True)
class Granted:
    """A token, and what it says."""

    token: str = field(repr=False)
    claims: Claims


def mint(ring: KeyRing, grant: Grant, lives: timedelta, now: datetime | None = None) -> Granted:
    """A session token, good at once; blocks. Raises InvalidRequest for one that nobody would take.

    Who has it is let in, whoever they are: it goes to one person or program, over a channel that is closed.
    """
    if grant.port is not None and not 0 < grant.port < 65536:
        raise InvalidRequest(f"a port is a number from 1 to 65535, not {grant.port}", field="port")
    made, until = _times(lives, MAX_TOKEN_SECONDS, now)
    claims = Claims(
        sid=grant.session_id,
        sub=grant.user,
        jti=_new_id(),
        iat=made,
        nbf=made,
        exp=until,
        scopes=[scope for scope in Scope if scope in grant.scopes],
        path=workspace_path(grant.path),
        port=grant.port,
    )
    return Granted(_signed(ring, SESSION_TYPE, claims), claims)


def signed_address(
    ring: KeyRing,
    base_url: str,
    grant: Grant,
    method: str,
    lives: timedelta,
    options: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> str:
    """An address for one download (``GET``) or upload (``PUT``), once: of ``grant.path``, or with the root of
    the whole archive. ``options`` are the door's own: ``{"format": "zstd"}``. Blocks; raises InvalidRequest.
    """
    if method not in ("GET", "PUT"):
        raise InvalidRequest(f"an address is signed for GET or PUT, not for {method!r}", field="method")
    made, until = _times(lives, MAX_TICKET_SECONDS, now)
    path = workspace_path(grant.path)
    door = routes.ARCHIVE if path == "." else routes.FILE.format(path=path)
    ticket = Ticket(
        sid=grant.session_id,
        sub=grant.user,
        jti=_new_id(),
        iat=made,
        nbf=made,
        exp=until,
        method=method,
        path=door,
        options=dict(options or {}),
    )
    query = urlencode({**ticket.options, routes.TICKET_OPTION: _signed(ring, TICKET_TYPE, ticket)})
    return f"{base_url.rstrip('/')}{quote(door)}?{query}"


def verify_preview(
    keys: Iterable[PublicKey], token: str, session_id: str, port: int, now: datetime | None = None
) -> Claims:
    """What a token says that is good for the pages at ``port`` of a session.

    For a proxy in front of dev servers. Revocation is the tool server's business, so give such tokens a short
    life. Raises Unauthorized, Forbidden for another port.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from jwt.api_jws import PyJWS
    from jwt.exceptions import PyJWTError

    named = read_header(token, SESSION_TYPE)
    jws = PyJWS(algorithms=[ALGORITHM])
    for key in keys:
        if named in (None, key.id):
            try:
                public = Ed25519PublicKey.from_public_bytes(key.raw)
                payload = jws.decode_complete(token, public, algorithms=[ALGORITHM])["payload"]
            except (PyJWTError, ValueError):
                continue
            return _good_for(read_payload(payload, Claims), session_id, port, _instant(now))
    raise Unauthorized("the token's signature is by none of this orchestrator's keys")


def _good_for(claims: Claims, session_id: str, port: int, now: datetime) -> Claims:
    refuse_untimely(claims, now.timestamp())
    if claims.sid != session_id:
        raise Unauthorized("the token is for another session")
    if claims.port != port:
        raise Forbidden(f"this token is not for the pages at port {port}", port=port)
    return claims


def _times(lives: timedelta, longest: int, now: datetime | None) -> tuple[int, int]:
    seconds = int(lives.total_seconds())
    if not 0 < seconds <= longest:
        raise InvalidRequest(f"it is good for 1 to {longest} seconds, not for {seconds}", field="expires")
    made = int(_instant(now).timestamp())
    return made, made + seconds


def _signed(ring: KeyRing, kind: str, claims: Statement) -> str:
    """The compact form of a JWS: three parts in base64, a dot between."""
    header = {"alg": ALGORITHM, "kid": ring.active.id, "typ": kind}
    while True:
        body = b".".join(_part(msgspec.json.encode(each)) for each in (header, claims))
        signed = ring.sign(body)
        if signed.key_id == header["kid"]:
            return (body + b"." + _part(signed.signature)).decode()
        header["kid"] = signed.key_id  # it changed meanwhile


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _new_id() -> str:
    return secrets.token_urlsafe(_NAMES_BYTES)


def _instant(now: datetime | None) -> datetime:
    return now or datetime.now(UTC)
