"""Which ports the workspace's processes listen on, and word of it when that changes.

The kernel tells nobody that a program began to listen, so its table is read: only while somebody wants to
know, every tenth of a second after something happened, and more and more rarely, down to once a second, while
nothing does. Each look is held against the present and not against the look before, so what one look missed
the next one finds; a socket whose owner is not known yet is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from toolserver.system import ports
from toolserver.system.census import Snapshot
from toolserver.system.ports import Listener
from toolserver.system.processes import ProcessTable

log = logging.getLogger("toolserver.processes")

_SHORTEST_SECONDS, _LONGEST_SECONDS, _GROWTH = 0.1, 1.0, 1.3
"""Pauses between looks: the next is this many times longer. A look takes about 0.2 ms."""


@dataclass(frozen=True)
class Open:
    """A listening socket of the workspace, and who has it."""

    listener: Listener
    process_id: str | None
    pid: int
    command: str
    """Its program's name."""


Present = dict[int, Open]
"""By the socket's inode."""


class PortWatch:
    """Looks for everybody who wants to know. Belongs to the event loop's thread."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._present: Present = {}
        self._changed = asyncio.Event()
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None

    async def present(self) -> list[Open]:
        """Those that are open now."""
        return _sorted((await self._found({})).values())

    async def changes(self) -> AsyncIterator[tuple[list[Open], list[Open]]]:
        """(closed, opened), first everything that is open, then each time that there is a difference.

        Whoever is slow is told the difference to what he was told last: nothing is queued for him.
        """
        told: Present = {}
        with self._watched():
            while True:
                changed, present = self._changed, self._present
                gone = [told[each] for each in told.keys() - present.keys()]
                gone += [told[each] for each in told.keys() & present.keys() if told[each] != present[each]]
                new = [present[each] for each in present if told.get(each) != present[each]]
                told = dict(present)
                if gone or new:
                    yield _sorted(gone), _sorted(new)
                if self._changed is changed:
                    await changed.wait()

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        self._watchers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._watchers -= 1

    async def _watch(self) -> None:
        pause, starts = _SHORTEST_SECONDS, -1
        while self._watchers:
            try:
                found = await self._found(self._present)
            except OSError as error:
                # Too many open files, as a rule: whoever waits is told by the next look.
                log.warning("a look at the ports failed", extra={"data": {"reason": str(error)}})
                found = self._present
            happened = found != self._present or starts != self._table.starts
            starts = self._table.starts
            self._tell(found)
            pause = _SHORTEST_SECONDS if happened else min(pause * _GROWTH, _LONGEST_SECONDS)
            await asyncio.sleep(pause)
        self._present = {}

    def _tell(self, found: Present) -> None:
        if found != self._present:
            self._present = found
            self._changed.set()
            self._changed = asyncio.Event()

    async def _found(self, known: Present) -> Present:
        """Those that are open, the owners in ``known`` taken as they are while they live."""
        listening = await asyncio.to_thread(ports.listeners)
        if not listening.keys() - known.keys() and await asyncio.to_thread(_hold, known, listening):
            return {inode: known[inode] for inode in listening}
        seen = await self._table.look()
        return await asyncio.to_thread(_owned, listening, seen)


def _hold(known: Present, listening: dict[int, Listener]) -> bool:
    """Whether those sockets are still their owners'."""
    return all(inode in ports.sockets_of(known[inode].pid) for inode in listening)


def _owned(listening: dict[int, Listener], seen: Snapshot) -> Present:
    """Of the sockets those that the workspace's processes have; the first of several, parents first."""
    found: Present = {}
    everybody = [(id, proc) for id, family in seen.families.items() for proc in family]
    for id, proc in [*everybody, *((None, proc) for proc in seen.strays)]:
        for inode in ports.sockets_of(proc.pid) if listening else ():
            if inode in listening and inode not in found:
                found[inode] = Open(listening[inode], id, proc.pid, proc.name)
    return found


def _sorted(found: Iterable[Open]) -> list[Open]:
    return sorted(found, key=lambda each: each.listener)
