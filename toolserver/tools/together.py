"""What can wait a little, done together: on the event loop, soon, and never much of it at a time.

A small step by itself is dear, because by its turn all that it needs has left the processor's caches; many
of them in a row are not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_SECONDS = 0.005
_PER_TURN = 16
"""Some 0.1 ms for the line that tells of a request; then the others' turn."""
_MOST = 64
"""Beyond it each that comes has another one done: nobody ever waits for more of them than that."""


class Together(Generic[T]):
    """Items in the order in which they came, each given to ``work``, which neither waits nor raises."""

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self._waiting: deque[T] = deque()
        self._timer: asyncio.Handle | None = None

    def put(self, item: T) -> None:
        """One more; on the event loop alone."""
        self._waiting.append(item)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._some)
        elif len(self._waiting) > _MOST:
            self._work(self._waiting.popleft())

    def finish(self) -> None:
        """All that wait, now: before somebody looks at what becomes of them."""
        while self._waiting:
            self._work(self._waiting.popleft())

    def _some(self) -> None:
        for _ in range(min(_PER_TURN, len(self._waiting))):
            self._work(self._waiting.popleft())
        self._timer = asyncio.get_running_loop().call_soon(self._some) if self._waiting else None
