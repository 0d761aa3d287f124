"""A start in three steps: ends of pipes or a terminal, the spawn, and their being given away.

The spawn waits for the program to be there: half a millisecond, and fifty where more programs want to run
than there are processors, for the new one gets its turn like any other. So a start that may wait does so on
a thread while the last ones took long; one at a time, for the daemon wears the program's marks meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from toolserver.system import terminal, tree
from toolserver.system.bounds import bounded
from toolserver.system.caller import NOBODY
from toolserver.system.domain import Wish
from toolserver.system.limit_group import Group
from toolserver.system.limit_groups import LimitGroups, try_out
from toolserver.system.marks import LimitMarks
from toolserver.system.separation import Reached, Separation
from toolserver.system.spawn import DEVNULL, found, refuse_missing, spawn
from toolserver.system.spawner import Arrival, Spawner

T = TypeVar("T")

_LONG_SECONDS = 0.005
"""A spawn that took this long: ten times what it takes where there is room."""


@dataclass
class Launch:
    """A program that is about to be started, and the descriptors that it takes with it."""

    id: str
    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    number: int
    """Its mark, see ``marks``."""
    streams: tuple[int, int, int] = (DEVNULL, DEVNULL, DEVNULL)
    tried: Sequence[str] | None = None
    terminal_size: tuple[int, int] | None = None
    out: int = -1
    """Our end of its output; of ``err``, when that is not the same; of its input, when it is fed."""
    err: int = -1
    into: int = -1
    group: Group | None = None
    """That it was started in."""
    who: str = NOBODY
    """On whose behalf, see ``caller``."""
    adopted: bool = False
    """It is in the table now, where its end is learned."""
    _theirs: list[int] = field(default_factory=list)

    def within(self, options: Sequence[str]) -> None:
        """Give it limits of its own. Raises what a spawn would of a missing program."""
        program = found(self.argv[0], self.cwd, self.env)
        refuse_missing(program, self.cwd)
        self.tried, self.argv = self.argv, bounded([program, *self.argv[1:]], options)

    def on_pipes(self, pipe: Callable[[], tuple[int, int]], *, fed: bool, merged: bool) -> None:
        """Give it pipes, of which each is made by ``pipe``. ``merged``: one for both streams of output."""
        try:
            self.out, out = pipe()
            self._theirs.append(out)
            err = out
            if not merged:
                self.err, err = pipe()
                self._theirs.append(err)
            into = DEVNULL
            if fed:
                into, self.into = os.pipe()
                self._theirs.append(into)
            self.streams = into, out, err
        except BaseException:
            self.undo()
            raise

    def on_terminal(self, size: tuple[int, int]) -> None:
        """Give it a terminal of ``size`` (columns, rows). Raises what a spawn would of a missing program."""
        refuse_missing(self.argv[0], self.cwd)
        try:
            self.out, theirs, name = terminal.open_terminal(*size)
            self._theirs.append(theirs)
            self.streams = theirs, theirs, theirs
            # A second descriptor: reading and writing end at different times.
            self.into = os.dup(self.out)
        except BaseException:
            self.undo()
            raise
        self.tried, self.argv = self.argv, terminal.on_terminal(self.argv, name)
        self.terminal_size = size

    def hand_over(self) -> None:
        """It has its own now."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()

    def undo(self) -> None:
        """It was not started: close everything."""
        self.hand_over()
        for fd in (self.out, self.err, self.into):
            if fd >= 0:
                os.close(fd)


class SparePipes:
    """Two, for the output of the next program: made while the last one runs, when there is time."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """One that is there, or a new one: (reading, writing). Raises OSError where there is none."""
        return self._ready.pop() if self._ready else os.pipe()

    def make(self) -> None:
        """Have them ready again; where there is no room, the next start will say so."""
        with contextlib.suppress(OSError):
            while len(self._ready) < 2:
                self._ready.append(os.pipe())

    def close(self) -> None:
        """Let go of what is there."""
        for fd in (end for each in self._ready for end in each):
            os.close(fd)
        self._ready.clear()


class Starter:
    """Starts programs, marked. Used by the event loop's thread; ``off_loop`` by any number of tasks."""

    def __init__(self, marks: LimitMarks) -> None:
        self._marks = marks
        self._handicap = tree.Handicap()
        self._turn = threading.Lock()
        self._spawner: Spawner | None = None
        self._separated = False
        self._groups: LimitGroups | None = None
        self._took = 0.0

    def separate(self, separation: Separation) -> Reached:
        """From here on programs are started from a thread that has entered it; raises SeparationMissing."""
        reached = self._thread.call(lambda: separation.enter(hidden=tree.is_hidden()))
        self._separated = reached.wish is not Wish.NONE
        return reached

    def have_groups(self, groups: LimitGroups, open: Callable[[int], None]) -> None:
        """Have each program born in a control group, if ``open`` finds some for the thread of that number."""
        if not groups.wanted:
            return
        open(self._thread.call(threading.get_native_id))
        if groups.works:
            self._thread.call(lambda: try_out(groups, _nothing_in))
        if groups.works:
            self._groups = groups

    @property
    def at_once(self) -> bool:
        """Whether the next may be made on the loop: it needs no other thread, and the last was quick."""
        return not self._elsewhere and self._took <= _LONG_SECONDS

    def start(self, launch: Launch) -> int:
        """The program's pid. Raises what ``spawn`` does, with every descriptor closed."""
        if self._elsewhere:
            return self._thread.call(lambda: self._start(launch, keep_lock=False))
        return self._start(launch, keep_lock=True)

    def off_loop(self, launch: Launch, adopt: Callable[[int], T]) -> Arrival[T]:
        """The same on a thread; ``adopt`` gets the pid on the loop, once, and is what is waited for."""
        return self._thread.soon(lambda: self._start(launch, keep_lock=False), adopt)

    def close(self) -> None:
        """Start no more."""
        if self._spawner is not None:
            self._spawner.close()
        self._handicap.close()

    @property
    def _elsewhere(self) -> bool:
        """Whether only the thread is what programs are to be started from."""
        return self._separated or self._groups is not None

    @property
    def _thread(self) -> Spawner:
        if self._spawner is None:
            self._spawner = Spawner()
        return self._spawner

    def _start(self, launch: Launch, *, keep_lock: bool) -> int:
        """``keep_lock``: the interpreter's, for the moment that it takes."""
        begun = time.monotonic()
        try:
            if self._groups is not None:
                launch.group = self._groups.next()
            with self._turn, self._handicap, self._marks.handed_down(launch.number):
                pid = spawn(
                    launch.argv,
                    launch.cwd,
                    launch.env,
                    *launch.streams,
                    launch.tried,
                    mark=(tree.MARKER, launch.id),
                    keep_lock=keep_lock,
                    group=None if launch.group is None else launch.group.descriptor,
                )
        except BaseException:
            launch.undo()
            raise
        finally:
            self._took = time.monotonic() - begun
        launch.hand_over()
        if self._groups is not None and launch.group is not None:
            self._groups.given(launch.group)
        return pid


def _nothing_in(group: Group) -> int:
    """Start a program that does nothing, in this group."""
    return spawn(["/bin/sh", "-c", ":"], "/", {}, DEVNULL, DEVNULL, DEVNULL, group=group.descriptor)
