"""Blocking work on a thread, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def whole(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work`` on a thread; when cancelled, wait for its end first.

    A thread cannot be stopped. So that nothing is tidied away under it, the cancellation is held back until
    the work is done.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A caller may cancel twice: until the thread is done nothing takes us from here.
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            # Looked at, so that nobody complains of an error that nobody waits for any more.
            task.exception()
        raise
