"""What of tokens must outlive the daemon's process: which count no more, and whose session this is.

A file in the state directory, replaced whole. Without it a restart would make a revoked token good again.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from protocol.errors import Busy
from protocol.limits import Limits
from toolserver.system.disk import refused

FILE = "tokens.json"


class _Kept(msgspec.Struct):
    session_id: str | None = None
    public_keys: list[bytes] = []
    spent: dict[str, float] = {}
    """Used addresses by id, and until when each has to be remembered: seconds since 1970."""
    revoked: dict[str, float] = {}
    """Tokens, likewise."""


class TokenMemory:
    """The file's content; ``save`` blocks, the rest does not. Made at the start; raises OSError when there is
    a file that cannot be read."""

    def __init__(self, state_dir: Path, max_spent: int = Limits().max_spent_tokens) -> None:
        self._path = state_dir / FILE
        self._max_spent = max_spent
        self._kept = self._read()

    @property
    def session_id(self) -> str | None:
        """The session that this tool server was bound to."""
        return self._kept.session_id

    @property
    def public_keys(self) -> list[bytes]:
        """The keys that it was given then; they count where it is started without any."""
        return self._kept.public_keys

    def bind(self, session_id: str, public_keys: list[bytes]) -> None:
        """Remember whose session this is."""
        self._kept.session_id, self._kept.public_keys = session_id, public_keys

    def spend(self, address_id: str, until: float, now: float) -> bool:
        """Let an address count no more; False when it did not any more. Raises Busy past the limit."""
        if self.is_spent(address_id):
            return False
        if len(self._kept.spent) + len(self._kept.revoked) >= self._max_spent:
            self._forget_over(now)
        if len(self._kept.spent) + len(self._kept.revoked) >= self._max_spent:
            raise self._full(
                f"{self._max_spent} tokens are revoked or used, which is the limit; "
                "each is forgotten within a day"
            )
        self._kept.spent[address_id] = until
        return True

    def revoke(self, token_id: str, until: float, now: float) -> None:
        """Let a token count no more. Raises Busy when too many are revoked: none is forgotten before its end,
        for it would be good again. The last quarter is left to addresses, so that downloads go on."""
        if self.is_spent(token_id):
            return
        share = self._max_spent - self._max_spent // 4
        if len(self._kept.revoked) >= share:
            self._forget_over(now)
        if len(self._kept.revoked) >= share:
            raise self._full(
                f"{share} revoked tokens are remembered, which is the limit; each is forgotten within a "
                "day, and all of them when this tool server gets other keys (bind_session)"
            )
        self._kept.revoked[token_id] = until

    def is_spent(self, token_id: str) -> bool:
        """Whether it counts no more."""
        return token_id in self._kept.spent or token_id in self._kept.revoked

    def is_revoked(self, token_id: str) -> bool:
        """Whether it was revoked; a used address is not."""
        return token_id in self._kept.revoked

    def forget_revoked(self) -> None:
        """No key is left by which they could be good."""
        self._kept.revoked.clear()

    def _forget_over(self, now: float) -> None:
        kept = self._kept
        kept.spent = {each: end for each, end in kept.spent.items() if end >= now}
        kept.revoked = {each: end for each, end in kept.revoked.items() if end >= now}

    def _full(self, told: str) -> Busy:
        return Busy(told, limit="maxSpentTokens", value=self._max_spent)

    def image(self) -> bytes:
        """What ``save`` writes, taken on the loop, where nobody changes it meanwhile."""
        return msgspec.json.encode(self._kept)

    def save(self, image: bytes) -> None:
        """Put it on the disk, one at a time; raises NoSpace and the like."""
        fresh = self._path.with_suffix(".part")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(image)
                file.flush()
                os.fsync(fd)  # else a machine that loses its power may have the name, and nothing in it
            os.replace(fresh, self._path)
        except OSError as error:
            raise refused(error, self._path.name) from None

    def _read(self) -> _Kept:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return _Kept()
        except (OSError, msgspec.MsgspecError) as error:
            # To begin anew would make revoked tokens good, and let any session have this tool server.
            raise OSError(
                f"which tokens were revoked is not known, for {self._path} cannot be read ({error}); "
                "bring it back, or remove it to begin without"
            ) from error
