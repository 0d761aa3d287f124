"""How late the event loop is: what every request waits at least."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_LOOK_SECONDS = 1.0
_KEPT = 60


class Lag:
    """Looks once a second, at a cost of some microseconds, and calls ``each_time`` then."""

    def __init__(self, each_time: Callable[[], None] = lambda: None) -> None:
        self._each_time = each_time
        self._found: deque[float] = deque([0.0], _KEPT)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def last(self) -> float:
        """Seconds, at the last look."""
        return self._found[-1]

    @property
    def worst(self) -> float:
        """Seconds, of the last minute."""
        return max(self._found)

    def begin(self) -> None:
        """From now on, until ``end``."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _LOOK_SECONDS

        def look() -> None:
            self._found.append(max(0.0, loop.time() - due))
            self._each_time()
            self.begin()

        self._timer = loop.call_at(due, look)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
