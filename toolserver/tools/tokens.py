"""Session tokens and signed addresses, believed or refused: by the orchestrator's public keys alone.

What a token has to say is decided by ``protocol.tokens``; here are the keys, the clock, and what counts no
more. A signature costs 0.1 to 0.2 ms, so a token that was found good is known by its digest from then on.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from protocol import routes
from protocol.errors import Conflict, Forbidden, ToolError, Unauthorized
from protocol.messages.access import BindSession
from protocol.paths import WorkspacePath, workspace_path
from protocol.tokens import (
    ALGORITHM,
    LEEWAY_SECONDS,
    MAX_TOKEN_SECONDS,
    SESSION_TYPE,
    TICKET_TYPE,
    Claims,
    Scope,
    Ticket,
    key_id,
    read_header,
    read_payload,
    refuse_untimely,
)
from toolserver.system.threads import whole
from toolserver.system.token_memory import TokenMemory
from toolserver.tools.admission import Admission

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_MAX_KNOWN = 1024
"""Tokens known by their digest, 1 KB each; the one that was not used for longest is forgotten first."""
_REMEMBERED_SECONDS = MAX_TOKEN_SECONDS + 2 * LEEWAY_SECONDS
REVOKED = "the token was revoked: fetch a new one"
_NO_SIGNATURE = "the token's signature is by none of the keys that this tool server knows"


class KeysWanted(Exception):
    """The keys are not read yet: await ``load_soon``, and ask again."""


class Tokens:
    """The signed tokens of one tool server. Without keys it takes none; they are read when first needed."""

    def __init__(
        self,
        memory: TokenMemory,
        public_keys: Iterable[bytes] = (),
        session_id: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memory
        self._saving = asyncio.Lock()
        self._clock = clock
        self.session_id = session_id or memory.session_id
        """None until it is bound."""
        # What it is told at its start is newer than what it was told in an earlier life.
        self._raw = tuple(public_keys) or tuple(memory.public_keys)
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._known: OrderedDict[bytes, tuple[Claims, Admission]] = OrderedDict()

    @property
    def taken(self) -> bool:
        """Whether there are keys to believe a token by."""
        return bool(self._raw)

    @property
    def key_ids(self) -> list[str]:
        """What the keys are called."""
        return [key_id(raw) for raw in self._raw]

    def is_revoked(self, token_id: str) -> bool:
        """Whether it was, be it believed before."""
        return self._memory.is_revoked(token_id)

    def load(self) -> None:
        """Import what checks signatures, and read the keys. Blocks for 0.1 s: so only once it is needed."""
        load_verifier()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._keys = {key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in self._raw}

    async def load_soon(self) -> None:
        """The same, where others go on meanwhile. The keys are read on the loop: there they change, too."""
        await asyncio.to_thread(load_verifier)
        self.load()

    def believe(self, token: str) -> Admission:
        """Who comes by this session token; raises Unauthorized."""
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        known = self._known.get(digest)
        if known is None:
            claims = read_payload(self._payload(token, SESSION_TYPE), Claims)
            admission = self._admission(claims)
        else:
            claims, admission = known
        refuse_untimely(claims, self._clock())
        if self._memory.is_spent(claims.jti):
            raise Unauthorized(REVOKED)
        if admission.binds is None:
            self._known[digest] = claims, admission
            self._known.move_to_end(digest)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        return admission

    async def redeem(self, token: str, method: str, path: str, options: Mapping[str, str]) -> Admission:
        """Who comes by this signed address, once; raises Unauthorized, Forbidden for another request."""
        ticket = read_payload(self._payload(token, TICKET_TYPE), Ticket)
        now = self._clock()
        refuse_untimely(ticket, now)
        self._refuse_other_session(ticket.sid)
        if ticket.method not in ("GET", "PUT") or not _has_one_use(ticket.path):
            # A socket that was opened by one would stay open for ever.
            raise Forbidden(f"addresses are signed for files and archives, not for {ticket.path[:200]!r}")
        if (ticket.method, ticket.path, ticket.options) != (method, path, dict(options)):
            raise Forbidden(
                f"this address was signed for {ticket.method} {ticket.path} with the options "
                f"{ticket.options}, and for no other request",
                method=ticket.method,
                path=ticket.path,
            )
        if not self._memory.spend(ticket.jti, ticket.exp + 2 * LEEWAY_SECONDS, now):
            raise Unauthorized("this address was used already, or revoked: fetch a new one")
        await self._save()
        return Admission(ticket.sub, frozenset((_scope_of(ticket),)), token_id=ticket.jti)

    async def revoke(self, token_id: str) -> None:
        """Let it count no more, also after a restart; raises Busy when too many are remembered."""
        now = self._clock()
        self._memory.revoke(token_id, now + _REMEMBERED_SECONDS, now)
        await self._save()

    async def bind(self, wanted: BindSession, public_keys: list[bytes], admission: Admission) -> None:
        """Belong to that session from now on; raises Conflict when it is another one's, Forbidden."""
        if public_keys:
            # Before anything is decided: what is believed while it is awaited is believed by the keys of now.
            await asyncio.to_thread(load_verifier)
        if admission.binds not in (None, wanted.session_id):
            raise Forbidden(
                f"this token is for the session {admission.binds!r}; it binds to no other",
                sessionId=admission.binds,
            )
        if self.session_id not in (None, wanted.session_id):
            raise Conflict(
                f"this tool server belongs to the session {self.session_id!r}, once and for all",
                sessionId=self.session_id,
            )
        if public_keys and admission.token_id is not None and admission.binds is None:
            # It would make itself good for ever.
            raise Forbidden(
                "the keys are changed by this tool server's own token, not by one that they signed"
            )
        self.session_id = wanted.session_id
        if public_keys:
            if not set(public_keys) & set(self._raw):
                self._memory.forget_revoked()
            self._raw = tuple(public_keys)
            self._known.clear()
            self.load()
        self._memory.bind(wanted.session_id, public_keys or self._memory.public_keys)
        await self._save()

    def _payload(self, token: str, kind: str) -> bytes:
        """What is signed, once the signature was found good."""
        named = read_header(token, kind)
        if not self._keys:
            raise KeysWanted
        from jwt.api_jws import PyJWS
        from jwt.exceptions import PyJWTError

        candidates = (
            self._keys.values() if named is None else [self._keys[named]] if named in self._keys else []
        )
        jws = PyJWS(algorithms=[ALGORITHM])
        for key in candidates:
            try:
                payload: bytes = jws.decode_complete(token, key, algorithms=[ALGORITHM])["payload"]
            except (PyJWTError, ValueError, RecursionError):
                continue
            return payload
        raise Unauthorized(_NO_SIGNATURE)

    def _admission(self, claims: Claims) -> Admission:
        if self.session_id is not None:
            self._refuse_other_session(claims.sid)
        return Admission(
            who=claims.sub,
            scopes=frozenset(claims.scopes),
            path=_prefix(claims.path),
            token_id=claims.jti,
            expires=claims.exp + LEEWAY_SECONDS,
            port=claims.port,
            binds=claims.sid if self.session_id is None else None,
        )

    def _refuse_other_session(self, session_id: str) -> None:
        if session_id != self.session_id:
            raise Unauthorized("the token is for another session")

    async def _save(self) -> None:
        async with self._saving:
            # Whole: one that goes on after a cancellation would put an older image in place of a newer one.
            await whole(self._memory.save, self._memory.image())


def load_verifier() -> None:
    """Import what checks signatures."""
    import jwt.api_jws  # noqa: F401
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: F401


def _prefix(path: str) -> WorkspacePath:
    """
    >>> _prefix("src"), _prefix(".")
    ('src', '.')
    """
    checked: WorkspacePath | None
    try:
        checked = workspace_path(path)
    except ToolError:
        checked = None
    if checked is None or checked != path:
        raise Unauthorized(f"the token's path {path[:100]!r} is not a workspace path in normal form")
    return checked


def _has_one_use(path: str) -> bool:
    """
    >>> _has_one_use("/v1/files/a"), _has_one_use("/v1/archive"), _has_one_use("/v1/ws")
    (True, True, False)
    """
    return path == routes.ARCHIVE or path.startswith(routes.FILE.format(path=""))


def _scope_of(ticket: Ticket) -> Scope:
    if ticket.path == routes.ARCHIVE:
        return Scope.ARCHIVE
    return Scope.WRITE if ticket.method == "PUT" else Scope.READ
