"""Work handed on: one thread makes the next piece while another works on the last one.

It gains because making pieces (unpacking, hashing) and using them (writing files) leave Python's lock alone
for most of their time. At most one piece is under way, so nothing piles up.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Relay:
    """Gives pieces to ``work``, in order, on a thread that is started with the first one."""

    def __init__(self, work: Callable[[bytes], None]) -> None:
        self._work = work
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def give(self, piece: bytes) -> None:
        """Begin on ``piece`` once the last one is done; raises what that one raised."""
        self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "unpacking")
        self._last = self._pool.submit(self._work, piece)

    def wait(self) -> None:
        """Until nothing is under way; raises what the last piece raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """End the thread, once the piece under way is done."""
        if self._pool is not None:
            self._pool.shutdown()
