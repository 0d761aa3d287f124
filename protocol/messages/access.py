"""Access: whose session this is, by whom its tokens are signed, and which of them count no more."""

from __future__ import annotations

from protocol.messages.base import Answer, Request
from protocol.tokens import Scope


class Revoke(Request, frozen=True, kw_only=True):
    """Let a token or a signed address count no more; sockets and streams that it opened are closed."""

    token_id: str
    """The token's ``jti``. It is remembered for as long as any token lives."""


class RevokeAnswer(Answer, frozen=True, kw_only=True):
    """From now on it is refused."""

    token_id: str
    closed: int
    """Sockets and streams that were open by it."""


class BindSession(Request, frozen=True, kw_only=True):
    """Give a tool server that was started without a session the one it is for, once.

    Where no other token is known yet, it takes a signed one of that very session with the scope ``admin``.
    Asked again for the same session, it changes nothing but the keys.
    """

    session_id: str
    public_keys: list[str] = []
    """Ed25519, base64: from now on tokens are to be signed by one of these; none: keys stay as they are. Once
    bound, only the tool server's own token changes them; a restart goes back to those it is started with."""


class BindSessionAnswer(Answer, frozen=True, kw_only=True):
    """What it is bound to."""

    session_id: str
    key_ids: list[str]
    """Of the keys that tokens may be signed by."""


class Renewal(Request, frozen=True, kw_only=True):
    """The ``params`` of a WebSocket's ``renew`` frame: from now on the socket is open by this token."""

    token: str
    """A session token of the same user."""


class RenewalAnswer(Answer, frozen=True, kw_only=True):
    """What the socket is good for now."""

    token_id: str
    scopes: list[Scope]
    expires: str
    """ISO 8601 UTC: then the socket is closed, unless it is renewed again."""
