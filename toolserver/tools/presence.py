"""Who is connected by which token: what stays open ends with the token that opened it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from toolserver.tools.admission import EXPIRED, Admission
from toolserver.tools.tokens import REVOKED


class Stay:
    """One socket, or one stream of events, and the token that it is open by."""

    def __init__(self, admission: Admission, end: Callable[[str], None]) -> None:
        self.admission = admission
        self.end = end
        """Called with the reason, in a turn of its own; closes it, and waits for nothing."""
        self._timer: asyncio.Handle | None = None
        self._wait()

    def renew(self, admission: Admission) -> None:
        """From now on it is open by another token."""
        self.admission = admission
        self.leave()
        self._wait()

    def end_soon(self, reason: str) -> None:
        """Its token is over already: whoever begins with it is ended as soon as it has begun."""
        self.leave()
        self._timer = asyncio.get_running_loop().call_soon(self.end, reason)

    def leave(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        if self.admission.expires is None:
            return
        left = self.admission.expires - time.time()
        if left <= 0:
            self.end_soon(EXPIRED)
            return
        # At most an hour at once: the loop's clock does not go while a machine sleeps, the token's does.
        self._timer = asyncio.get_running_loop().call_later(min(left, 3600.0), self._wait)


class Presence:
    """All that is open."""

    def __init__(self, is_revoked: Callable[[str], bool]) -> None:
        """``is_revoked``: whether the token of that id is, as ``Tokens`` knows it."""
        self._is_revoked = is_revoked
        self._stays: set[Stay] = set()

    @contextlib.contextmanager
    def stay(self, admission: Admission, end: Callable[[str], None]) -> Iterator[Stay]:
        """While something is open by a token; ``end`` is called when the token expires or is revoked."""
        stay = Stay(admission, end)
        self._stays.add(stay)
        if admission.token_id is not None and self._is_revoked(admission.token_id):
            # Since it was believed, while a handshake was answered or a body came.
            stay.end_soon(REVOKED)
        try:
            yield stay
        finally:
            self._stays.discard(stay)
            stay.leave()

    def end(self, token_id: str, reason: str) -> int:
        """Close all that is open by a token; how many that were."""
        ended = [stay for stay in self._stays if stay.admission.token_id == token_id]
        for stay in ended:
            stay.end(reason)
        return len(ended)
