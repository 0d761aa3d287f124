"""Many at once, or one alone: file operations share the tree, an injection has it to itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocol.errors import Busy

_PATIENCE_SECONDS = 30.0
"""A shared turn is one file operation: longer than this, a disk hangs."""


class Gate:
    """Shared and exclusive turns. One that waits for its exclusive turn goes before later shared ones."""

    def __init__(self) -> None:
        self._sharing = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._alone = asyncio.Lock()

    @property
    def free(self) -> bool:
        """Whether a shared turn is to be had without waiting: for what is over before anybody else runs."""
        return not self._alone.locked()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """A turn beside others."""
        if self._alone.locked():
            async with self._alone:
                self._enter()
        else:
            self._enter()
        try:
            yield
        finally:
            self._sharing -= 1
            if not self._sharing:
                self._empty.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """A turn alone, once those under way are done; raises Busy when they are not for too long."""
        async with self._alone:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._empty.wait()
            except TimeoutError:
                raise Busy(f"file operations went on for {_PATIENCE_SECONDS:g} s; try again") from None
            yield

    def _enter(self) -> None:
        self._sharing += 1
        self._empty.clear()
