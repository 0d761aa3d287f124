"""Work handed on: one thread makes the next piece while another works on the last one.

It gains because making pieces (reading, unpacking) and using them (hashing, packing, writing) leave Python's
lock alone for most of their time. At most one piece is under way, so nothing piles up.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Relay(Generic[T]):
    """Gives pieces to ``work``, in order, on a thread that is started with the first one."""

    def __init__(self, work: Callable[[bytes], T]) -> None:
        self._work = work
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[T] | None = None

    def give(self, piece: bytes) -> T | None:
        """Begin on ``piece`` once the last one is done: what came of that one, or what it raised."""
        made = self.wait()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "archive")
        self._last = self._pool.submit(self._work, piece)
        return made

    def wait(self) -> T | None:
        """Until nothing is under way: what came of the last piece, None without one, or what it raised."""
        last, self._last = self._last, None
        return None if last is None else last.result()

    def close(self) -> None:
        """End the thread, once the piece under way is done."""
        if self._pool is not None:
            self._pool.shutdown()
