"""Work that is never left behind half done: on a thread, most of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def whole(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work`` on a thread; when cancelled, wait for its end first.

    A thread cannot be stopped. So that nothing is tidied away under it, the cancellation is held back until
    the work is done.
    """
    return await finished(asyncio.to_thread(work, *args, **kwargs))


async def finished(work: Awaitable[T]) -> T:
    """What comes of ``work``, whose end is waited for first when cancelled, however often."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await until_done(task)
        raise


async def taken(let_go: Callable[[T], object], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``whole``, for what has to be given back: a descriptor, a file. What was made for somebody who is
    cancelled before he has it, ``let_go`` is given, on a thread too."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await until_done(task)
        finally:
            if task.exception() is None:
                await whole(let_go, task.result())
        raise


async def until_done(task: asyncio.Future[T]) -> None:
    """Wait for the end of ``task``, however often we are cancelled; that is raised then, its error is not."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if not task.cancelled():
        # Looked at, so that nobody complains of an error that nobody waits for any more.
        task.exception()
    if cancelled:
        raise asyncio.CancelledError
