"""The end of a command with everything it started: TERM, a grace, KILL; and who was reached by what.

Everybody gets each signal once, latecomers too. What goes on forking while it is killed is stopped first:
a stopped process starts nobody, and still takes its place under a limit on processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from protocol.limits import Limits
from toolserver.system import tree
from toolserver.system.census import Census
from toolserver.system.cgroups import Cgroups
from toolserver.system.exits import signal_name
from toolserver.system.threads import whole
from toolserver.system.tree import Proc

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.2
"""Between two looks, which are walks over /proc."""
_PLAIN_KILLS = 2
"""Looks that may find somebody new before those that fork are stopped."""
_STOPPING_LOOKS = 50


@dataclass(frozen=True)
class Ended:
    """Somebody who was signalled, and is gone."""

    pid: int
    name: str
    signal: str
    """The last that it got."""


class Outcome(NamedTuple):
    """What became of a family."""

    killed: list[Ended]
    survivors: list[int]


class Ending:
    """How families end. Belongs to the event loop's thread."""

    def __init__(self, census: Census, cgroups: Cgroups, limits: Limits) -> None:
        self._census = census
        self._cgroups = cgroups
        self._kill_seconds = limits.kill_wait_ms / 1000

    async def end(self, id: str, grace_seconds: float, over: Callable[[], Awaitable[object]]) -> Outcome:
        """End the family of the command ``id``. ``over()`` is waited for between looks: its leader's end."""
        told: dict[tuple[int, int], Ended] = {}

        async def look() -> list[Proc]:
            seen = await self._census.look()
            return [*seen.of(id), *await asyncio.to_thread(self._census.chase, seen, id)]

        left = await self._ask(look, told, grace_seconds, over)
        if left:
            left = await self._kill(id, look, told, over)
        survivors = {proc.pid for proc in left}
        return Outcome([each for each in told.values() if each.pid not in survivors], sorted(survivors))

    async def end_strays(self) -> list[int]:
        """End whoever is below us and of no command; the pids that would not go."""
        told: dict[tuple[int, int], Ended] = {}

        async def look() -> list[Proc]:
            seen = await self._census.look()
            missed = await asyncio.to_thread(self._census.chase, seen, None)
            return [*seen.strays, *(proc for family in seen.families.values() for proc in family), *missed]

        async def no_leader() -> None:
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)

        left = await self._ask(look, told, self._kill_seconds / 2, no_leader)
        return sorted(proc.pid for proc in left and await self._kill("", look, told, no_leader))

    async def _ask(
        self,
        look: Callable[[], Awaitable[list[Proc]]],
        told: dict[tuple[int, int], Ended],
        seconds: float,
        over: Callable[[], Awaitable[object]],
    ) -> list[Proc]:
        """TERM, until nobody is left or the grace is over; those that are."""
        deadline = time.monotonic() + seconds
        pause = _FIRST_PAUSE_SECONDS
        while left := await look():
            new = [proc for proc in left if (proc.pid, proc.started) not in told]
            await _tell(new, signal.SIGTERM, told)
            # Who was stopped, as by Ctrl-Z, takes no TERM before he goes on.
            await asyncio.to_thread(tree.tell, [proc for proc in new if proc.stopped], signal.SIGCONT)
            if (rest := deadline - time.monotonic()) <= 0:
                break
            await _at_most(min(pause, rest), over)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        return left

    async def _kill(
        self,
        id: str,
        look: Callable[[], Awaitable[list[Proc]]],
        told: dict[tuple[int, int], Ended],
        over: Callable[[], Awaitable[object]],
    ) -> list[Proc]:
        """KILL, until nobody is left or it is pointless to wait; those that are."""
        deadline = time.monotonic() + self._kill_seconds
        pause, looks = _FIRST_PAUSE_SECONDS, 0
        while left := await look():
            standing: dict[tuple[int, int], Proc] = {}
            try:
                if looks >= _PLAIN_KILLS:
                    left = await _stopped(look, left, standing)
                await asyncio.to_thread(self._cgroups.kill, id, {proc.pid for proc in left})
                await _tell(left, signal.SIGKILL, told)
            except BaseException:
                # Cancelled, or a look failed: nobody is to stand still for good, holding all that he holds.
                await whole(tree.tell, list(standing.values()), signal.SIGKILL)
                raise
            if (rest := deadline - time.monotonic()) <= 0:
                break
            await _at_most(min(pause, rest), over)
            pause, looks = min(pause * 2, _LONGEST_PAUSE_SECONDS), looks + 1
        return left


async def _stopped(
    look: Callable[[], Awaitable[list[Proc]]], left: list[Proc], standing: dict[tuple[int, int], Proc]
) -> list[Proc]:
    """Everybody, once all of them stand still; ``standing`` gets whoever is told to."""
    for _ in range(_STOPPING_LOOKS):
        new = [proc for proc in left if (proc.pid, proc.started) not in standing]
        if not new:
            break
        standing.update({(proc.pid, proc.started): proc for proc in new})
        await whole(tree.tell, new, signal.SIGSTOP)
        left = await look()
    return left


async def _tell(procs: Iterable[Proc], number: signal.Signals, told: dict[tuple[int, int], Ended]) -> None:
    for proc in await asyncio.to_thread(tree.tell, procs, number):
        told[proc.pid, proc.started] = Ended(proc.pid, proc.name, signal_name(number))


async def _at_most(seconds: float, over: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await over()
