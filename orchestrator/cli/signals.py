"""Signals that ask ``up`` to end, as something that can be waited for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""HUP too: a closed terminal must not leave a workspace that nobody sees."""


class StopSignals:
    """Inside it, these signals do not end the process; ``number`` is the first that came, else 0."""

    def __init__(self) -> None:
        self.number = 0
        self._came = asyncio.Event()

    def came(self) -> bool:
        """Whether one has come."""
        return self._came.is_set()

    def __enter__(self) -> StopSignals:
        loop = asyncio.get_running_loop()
        for each in _STOPPING:
            loop.add_signal_handler(each, self._take, int(each))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for each in _STOPPING:
            loop.remove_signal_handler(each)

    async def or_until(
        self, work: Coroutine[Any, Any, T], told: Callable[[], None] | None = None
    ) -> T | None:
        """What ``work`` gives; None when a signal came first: then ``told`` is called, and it ends."""
        task = asyncio.create_task(work)
        came = asyncio.create_task(self._came.wait())
        try:
            await asyncio.wait({task, came}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            if told:
                told()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()):
                raise error
            return None
        finally:
            came.cancel()

    def _take(self, number: int) -> None:
        self.number = self.number or number
        self._came.set()
