"""When to look at what was noticed: at once where a change is over, else when it should be.

A save is several notices: a new file, its content, a name taken over. Looked at in between it would be told
as what it never was. But some notices are the last of their kind, whoever saves: a known file that was
written is closed, or another one has taken its name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container

from toolserver.system.inotify import CLOSE_WRITE, DELETE, IS_DIRECTORY, MOVED_FROM, MOVED_TO

_GATHER_SECONDS = 0.01
"""Between a notice and the look at what it names, at most: one save in an editor is five notices."""
_REST = 4
"""Times as long as the last look took, until one that does not gather: a file that is written all the time
takes a fifth of a processor at most."""


class Settling:
    """The paths that were noticed since the last look, and more may come of them."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._over = asyncio.Event()
        self._rested = 0.0
        """By the loop's clock."""

    def notice(self, path: str, mask: int, known: Container[str]) -> None:
        """One more notice; ``known`` are the paths that were there at the last look."""
        if ends(mask, path in known):
            self._open.discard(path)
        else:
            self._open.add(path)

    def expect_more(self) -> None:
        """Nobody knows what has happened."""
        self._open.add("")

    def weigh(self, *, under_way: bool) -> None:
        """Whether it is over, as far as was noticed. What one request does is told together, at its end."""
        if self._open or under_way:
            self._over.clear()
        else:
            self._over.set()

    async def gather(self) -> None:
        """Until what belongs together is there, or for so long that it should be."""
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_SECONDS):
                await asyncio.sleep(self._rested - clock())
                await self._over.wait()

    def look(self) -> None:
        """All that was noticed so far is about to be looked at."""
        self._open.clear()

    def looked(self, seconds: float) -> None:
        """It took so long."""
        self._rested = asyncio.get_running_loop().time() + _REST * seconds


def ends(mask: int, is_known: bool) -> bool:
    """Whether such a notice is the last of a change.

    A file that takes the place of another, or is written in place; and a passing one that nobody was told of.

    >>> ends(MOVED_TO, True), ends(CLOSE_WRITE, True), ends(MOVED_FROM, False)
    (True, True, True)

    A new file may be one that is about to take a name. A known one that went may be about to come again, as
    where an editor keeps the old one under another name.

    >>> ends(CLOSE_WRITE, False), ends(MOVED_FROM, True), ends(MOVED_TO | IS_DIRECTORY, True)
    (False, False, False)
    """
    if mask & IS_DIRECTORY:
        return False
    return bool(mask & (CLOSE_WRITE | MOVED_TO if is_known else MOVED_FROM | MOVED_TO | DELETE))
