"""What need not be done the moment a program starts or ends, and is done for many at a time.

Old records go, programs give way that could not at first, or were missed because they were just being
forked, those who still run get a cgroup, and groups that nobody is in any more are removed.
"""

from __future__ import annotations

import asyncio
import logging

from protocol.limits import Limits
from toolserver.system.census import Census
from toolserver.system.cgroups import Cgroups
from toolserver.system.limit_groups import LimitGroups
from toolserver.system.priority import lower, lower_missed
from toolserver.system.process import Process
from toolserver.system.records import Records

log = logging.getLogger("toolserver.processes")

_CHORES_SECONDS = 0.1
"""After a start: a command that is over by then is never placed in a cgroup."""
_TIDY_SECONDS = 5.0
"""Between two looks whether what a command left behind in its group is gone."""
_PLACING_LOOKS = 2
"""Who was forked while the first look's finds were moved is found by the second."""


class Chores:
    """Those of one table. Belongs to the event loop's thread."""

    def __init__(
        self, limits: Limits, records: Records, census: Census, cgroups: Cgroups, groups: LimitGroups
    ) -> None:
        self._limits = limits
        self._records = records
        self._census = census
        self._cgroups = cgroups
        self._groups = groups
        self._timer: asyncio.TimerHandle | None = None
        self._at_work: asyncio.Task[None] | None = None
        self._not_lowered: set[Process] = set()
        self._looked_at_once: list[Process] = []
        """Given way; whom they were just starting then is seen by a second look."""
        self.closing = False
        """No more are begun."""

    def soon(self, seconds: float = _CHORES_SECONDS) -> None:
        """Have a look in so many seconds at the latest."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._timer.when() > loop.time() + seconds:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and not self.closing:
            self._timer = loop.call_later(seconds, self._begin)

    def lower(self, process: Process) -> None:
        """Have it give way; where that is refused, later."""
        if self._limits.command_nice and process.running:
            self._looked_at_once.append(process)
            self._lower(process)
            self.soon()

    def _lower(self, process: Process) -> None:
        if process.running and not lower(process.pid, self._limits.command_nice):
            self._not_lowered.add(process)

    async def close(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*filter(None, [self._at_work]), return_exceptions=True)

    def _begin(self) -> None:
        self._timer = None
        self._records.forget_old()
        self._lower_rest()
        self._lower_missed()
        if not (self._cgroups.works or self._groups.works):
            return
        if self._at_work is None or self._at_work.done():
            self._at_work = asyncio.create_task(self._place())
        else:
            self.soon()  # who was started since that one began is not among those it has looked at

    def _lower_rest(self) -> None:
        """Those that were refused, until one is again."""
        while self._not_lowered:
            process = self._not_lowered.pop()
            self._lower(process)
            if process in self._not_lowered:
                self.soon()
                return

    def _lower_missed(self) -> None:
        """Of each that runs on, once the starts that the first look fell into are over."""
        running = [each for each in self._looked_at_once if each.running]
        self._looked_at_once = []
        for process in running:
            if _is_due(process):
                lower_missed(process.pid, self._limits.command_nice)
            else:
                self._looked_at_once.append(process)
                self.soon()

    async def _place(self) -> None:
        """Put those who still run into cgroups, with what they have started by now; if that fails, later."""
        try:
            await self._place_all()
        except OSError as error:
            log.warning("commands are put into cgroups later", extra={"data": {"reason": str(error)}})
            self.soon(_TIDY_SECONDS)

    async def _place_all(self) -> None:
        running = [each for each in self._records.all() if each.running]
        new = [each for each in running if not each.placed and _is_due(each)]
        if any(not each.placed for each in running if each not in new):
            self.soon()
        for _ in range(_PLACING_LOOKS if new else 0):
            seen = await self._census.look()
            for each in new:
                pids = [proc.pid for proc in seen.of(each.id)]
                each.placed = await asyncio.to_thread(self._cgroups.place, each.id, pids) or each.placed
        if self._groups.used:
            await asyncio.to_thread(self._groups.tidy)
            self.soon(_TIDY_SECONDS)
        if self._cgroups.used:
            await asyncio.to_thread(
                self._cgroups.tidy, [each.id for each in self._records.all() if each.running]
            )


def _is_due(process: Process) -> bool:
    return process.duration_ms > _CHORES_SECONDS * 1000
