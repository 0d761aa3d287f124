"""Starts on this machine take turns: its processors are what a start waits for.

Fifty that start together each take fifty times as long, and the patience of every one runs out; one after
another, a few at once, the last one is up just as early, and the first ones long before.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType

AT_ONCE_PER_CORE = 2
"""A start is Python's imports, but for moments in which it waits: one more per core fills them."""


class Turns:
    """``async with turns:`` around a start; whoever comes while enough are under way waits, in order."""

    def __init__(self, at_once: int | None = None) -> None:
        self._free = asyncio.Semaphore(at_once or AT_ONCE_PER_CORE * (os.cpu_count() or 1))

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.release()
