"""Events with numbers, kept for a while: whoever lost its socket asks for the rest by number.

Adding never waits for a reader. Numbers have no holes; one that is missing in what a reader gets was dropped
because more had come since than is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

E = TypeVar("E")


class Journal(Generic[E]):
    """Belongs to the event loop.

    >>> journal = Journal[str](max_weight=5)
    >>> journal.add("one", 3), journal.add("two", 3), journal.since(1)
    (1, 2, ['two'])
    """

    def __init__(self, max_weight: int) -> None:
        """``max_weight``: of all that is kept, in ``add``'s unit; the newest is always kept."""
        self.next = 1
        """Number of the event that comes next."""
        self._max_weight = max_weight
        self._weight = 0
        self._kept: deque[tuple[int, E, int]] = deque()
        self._changed = asyncio.Event()

    def add(self, event: E, weight: int = 1) -> int:
        """Take it; its number."""
        number, self.next = self.next, self.next + 1
        self._kept.append((number, event, weight))
        self._weight += weight
        while self._weight > self._max_weight and len(self._kept) > 1:
            self._weight -= self._kept.popleft()[2]
        self.wake()
        return number

    def since(self, number: int) -> list[E]:
        """What is kept from ``number`` on."""
        return [event for each, event, _ in self._kept if each >= number]

    def wake(self) -> None:
        """Have all who wait look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def news(self) -> None:
        """Until something is added, or ``wake`` is called."""
        await self._changed.wait()
