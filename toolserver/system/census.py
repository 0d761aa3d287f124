"""Who belongs to which command, found in one walk over /proc.

A process group is not enough: a child may leave its session, lose its environment, or be re-parented when
its parent ends. The daemon is a subreaper, so whatever is orphaned becomes its own child; everything below a
command's process is the command's, and of the daemon's own children four things tell whose they are: the
mark on a limit, the cgroup, the session, the inherited variable.

Walks are shared: whoever asks while one is under way gets the next, all of them the same one. So a hundred
commands that are stopped at once cost as many walks as one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from toolserver.system import tree
from toolserver.system.cgroups import Cgroups
from toolserver.system.chase import caught
from toolserver.system.marks import LimitMarks, number_of
from toolserver.system.tree import Proc


@dataclass(frozen=True)
class Snapshot:
    """One moment. Only live processes below the daemon are in it; a zombie only waits to be reaped."""

    families: Mapping[str, list[Proc]]
    """By the command's id, the parents before their children."""
    strays: list[Proc]
    """Below the daemon, and of no command that is known: its record is gone, or every mark was removed."""
    children: frozenset[int] = frozenset()
    """Pids of the daemon's own, of dead ones too."""

    def of(self, id: str) -> list[Proc]:
        """The processes of one command."""
        return self.families.get(id, [])


class Census:
    """The commands, and who was started by them. Belongs to the event loop's thread, but for ``walk``."""

    def __init__(self, marks: LimitMarks, cgroups: Cgroups) -> None:
        self._marks = marks
        self._cgroups = cgroups
        self._numbers: dict[int, str] = {}
        self._leaders: dict[int, str] = {}
        """Also of programs that have ended: nobody gets their pid while somebody is in their session."""
        self._enrolled: dict[str, tuple[int, int]] = {}
        self._walking: asyncio.Task[Snapshot] | None = None
        self._next: asyncio.Task[Snapshot] | None = None

    def enrol(self, id: str, pid: int, number: int) -> None:
        """The command ``id`` is led by ``pid`` and marked with ``number``."""
        self._numbers[number] = id
        self._leaders[pid] = id
        self._enrolled[id] = number, pid

    def strike(self, id: str) -> None:
        """Its record is gone; what is left of it is a stray from here on."""
        number, pid = self._enrolled.pop(id)
        del self._numbers[number]
        if self._leaders.get(pid) == id:
            del self._leaders[pid]

    async def look(self) -> Snapshot:
        """A walk that begins after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._walk_after(self._walking))
        return await asyncio.shield(self._next)

    def walk(self) -> Snapshot:
        """Look now; blocks for some 15 microseconds a process of the machine."""
        return snapshot(tree.below(os.getpid(), tree.processes()), os.getpid(), self._owners())

    def chase(self, seen: Snapshot, id: str | None) -> list[Proc]:
        """Of a command, or of any and none, whom the walk has missed: see ``caught``. Blocks."""
        owner, leaders = self._owners(), set(self._leaders)

        def meant(proc: Proc) -> bool:
            return proc.pid not in self._leaders and (id is None or owner(proc) == id)

        return caught({*seen.children, *leaders}, meant)

    def _owners(self) -> Callable[[Proc], str | None]:
        """What tells whose a child of the daemon's is, as of now."""
        numbers, leaders, known = dict(self._numbers), dict(self._leaders), set(self._enrolled)
        placed = self._cgroups.members()

        def whose(proc: Proc) -> str | None:
            told = (
                numbers.get(number_of(proc.pid) or 0),
                placed.get(proc.pid),
                leaders.get(proc.session),
            )
            found = next((each for each in told if each is not None), None) or tree.marker_of(proc.pid)
            return found if found in known else None

        return whose

    async def close(self) -> None:
        """Wait for a walk under way."""
        tasks = [task for task in (self._walking, self._next) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _walk_after(self, before: asyncio.Task[Snapshot] | None) -> Snapshot:
        if before is not None:
            await asyncio.wait([before])
        # From here on it has begun: who asks now needs another.
        self._walking, self._next = self._next, None
        return await asyncio.to_thread(self.walk)


def snapshot(below: Iterable[Proc], us: int, whose: Callable[[Proc], str | None]) -> Snapshot:
    """Sort processes, parents first, by command: our own children by ``whose``, others as their parents.

    >>> procs = [Proc(2, 1, 2), Proc(3, 1, 3), Proc(4, 2, 2), Proc(5, 4, 5)]
    >>> seen = snapshot(procs, 1, lambda proc: {2: "a"}.get(proc.pid))
    >>> [proc.pid for proc in seen.of("a")], [proc.pid for proc in seen.strays]
    ([2, 4, 5], [3])
    """
    owners: dict[int, str | None] = {}
    families: dict[str, list[Proc]] = {}
    strays: list[Proc] = []
    children = set()
    for proc in below:
        if proc.parent == us:
            children.add(proc.pid)
        owner = owners[proc.pid] = whose(proc) if proc.parent == us else owners[proc.parent]
        if proc.alive:
            (strays if owner is None else families.setdefault(owner, [])).append(proc)
    return Snapshot(families, strays, frozenset(children))
