"""revoke, bind_session, and the renewal of a socket: what may be asked about tokens themselves."""

from __future__ import annotations

from datetime import UTC, datetime

from protocol.errors import Forbidden, InvalidRequest
from protocol.messages.access import (
    BindSession,
    BindSessionAnswer,
    RenewalAnswer,
    Revoke,
    RevokeAnswer,
)
from protocol.tokens import LEEWAY_SECONDS, Scope, public_key
from toolserver.tools.admission import Admission
from toolserver.tools.call import Call
from toolserver.tools.presence import Presence
from toolserver.tools.tokens import REVOKED, Tokens

_MAX_ID = 200
_MAX_KEYS = 16
"""A day's tokens, signed by as many keys: who rotates hourly needs them all at once no longer."""


class Access:
    """The handlers."""

    def __init__(self, tokens: Tokens, presence: Presence) -> None:
        self._tokens = tokens
        self.presence = presence
        """What is open, and by which token."""

    async def revoke(self, request: Revoke, _: Call) -> RevokeAnswer:
        """Refuse a token from now on, and close what is open by it."""
        _refuse_odd(request.token_id, "tokenId")
        closed = 0
        try:
            await self._tokens.revoke(request.token_id)
        finally:
            # Also where who asked is gone, or the disk is full: it is refused from here on.
            if self._tokens.is_revoked(request.token_id):
                closed = self.presence.end(request.token_id, REVOKED)
        return RevokeAnswer(token_id=request.token_id, closed=closed)

    async def bind_session(self, request: BindSession, call: Call) -> BindSessionAnswer:
        """Belong to a session, once; and take other keys, as often as they change."""
        _refuse_odd(request.session_id, "sessionId")
        if len(request.public_keys) > _MAX_KEYS:
            raise InvalidRequest(f"'publicKeys' holds at most {_MAX_KEYS}", field="publicKeys")
        try:
            keys = [public_key(each) for each in request.public_keys]
        except ValueError as error:
            raise InvalidRequest(f"'publicKeys' {error}", field="publicKeys") from None
        await self._tokens.bind(request, keys, call.admission)
        return BindSessionAnswer(session_id=request.session_id, key_ids=self._tokens.key_ids)

    def renewed(self, current: Admission, token: str) -> Admission:
        """What a socket is open by from now on; raises Unauthorized, Forbidden for another user's token."""
        if current.expires is None:
            raise Forbidden("this socket is open by a token that does not expire: there is nothing to renew")
        admission = self._tokens.believe(token)
        if admission.binds is not None or admission.who != current.who:
            raise Forbidden(
                "a socket is renewed by a token of the same user and session only; open another one for this"
            )
        return admission


def renewal_answer(admission: Admission) -> RenewalAnswer:
    """What its owner is told of a socket that was renewed."""
    expires = datetime.fromtimestamp((admission.expires or 0) - LEEWAY_SECONDS, UTC)
    return RenewalAnswer(
        token_id=admission.token_id or "",
        scopes=[scope for scope in Scope if scope in admission.scopes],
        expires=expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _refuse_odd(text: str, field: str) -> None:
    if not (0 < len(text) <= _MAX_ID and text.isascii() and text.isprintable()):
        raise InvalidRequest(f"{field!r} has 1 to {_MAX_ID} printable ASCII characters", field=field)
