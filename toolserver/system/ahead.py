"""The next piece is fetched while the last one is used: for what has two sides that both take time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from toolserver.system.threads import until_done

T = TypeVar("T")


async def ahead(source: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The pieces of ``source``, in order, then what it raises; one is held while nobody takes it.

    Close it (``aclosing``): ``source`` is then cancelled where it stands, waited for and closed.
    """
    async with aclosing(source):
        fetching = asyncio.create_task(_next(source))
        try:
            while (piece := await fetching) is not None:
                fetching = asyncio.create_task(_next(source))
                yield piece
        finally:
            fetching.cancel()
            await until_done(fetching)


async def _next(source: AsyncGenerator[T]) -> T | None:
    return await anext(source, None)
