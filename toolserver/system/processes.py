"""Programs: started, listened to, waited for, ended, each in this one place.

The table knows every program of this daemon. How one is started is ``spawn``, its bytes are ``pipes``, its
end is ``reaping``, whom it started is ``census``, and how all of them go is ``ending``. A program's end and
the end of its output are two things: a child of it may hold the pipe.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from resource import struct_rusage

from protocol.errors import Busy, NotFound
from protocol.limits import Limits
from toolserver.system import tree
from toolserver.system.bounds import Held, bounds, held
from toolserver.system.caller import caller
from toolserver.system.census import Census, Snapshot
from toolserver.system.cgroups import Cgroups
from toolserver.system.ending import Ending, Outcome
from toolserver.system.exits import Exit, signal_name
from toolserver.system.group_files import CONTROLLERS, Wanted, giving_way, met
from toolserver.system.input import Input
from toolserver.system.limit_groups import Group, LimitGroups
from toolserver.system.marks import LimitMarks
from toolserver.system.output import OutputLog, put_older_away
from toolserver.system.pipes import Pipes
from toolserver.system.priority import lower
from toolserver.system.reaping import Reaper
from toolserver.system.retention import Kept, too_many
from toolserver.system.separation import NOTHING_DONE, Separation
from toolserver.system.shares import Share, Shares
from toolserver.system.starting import Launch, SparePipes, Starter

__all__ = ["Exit", "Outcome", "Process", "ProcessTable", "Snapshot", "signal_name"]

_CHORES_SECONDS = 0.1
"""After a start: a command that is over by then is never placed in a cgroup."""
ENDED_MEMORY_BYTES = 8 * 1024 * 1024
"""Of all ended programs' output; the rest is in files. 256 of them with 1 MB each held 80 MiB before."""
_TIDY_SECONDS = 5.0
"""Between two looks whether what a command left behind in its group is gone."""
_PLACING_LOOKS = 2
"""Who was forked while the first look's finds were moved is found by the second."""
_LONG_SECONDS = 60.0

log = logging.getLogger("toolserver.processes")


class Process:
    """One command: its leader, its output, its end. Made by ``ProcessTable.start``."""

    def __init__(
        self, id: str, pid: int, argv: Sequence[str], cwd: str, family: Callable[[str], set[int]]
    ) -> None:
        self.id = id
        self.pid = pid
        self.argv = list(argv)
        self.cwd = cwd
        self.started = datetime.now(UTC)
        self.ended: float | None = None
        self.stdout: OutputLog
        self.stderr: OutputLog
        self.input: Input | None = None
        """Where it is fed; None when its standard input is empty."""
        self.terminal_size: tuple[int, int] | None = None
        """Columns and rows that its terminal began with; None when it has none."""
        self.timed_out_ms: int | None = None
        """The clock that ended it."""
        self.timeout_ms: int | None = None
        self.timeout_clock: str | None = None
        """Whose limit that is: the request's field, or the name in ``Limits``."""
        self.asked: object = None
        """What a caller asked for, to tell a repeated request from another one of the same id."""
        self.survivors: list[int] = []
        """Pids that outlived its clock's kill."""
        self.placed = False
        """In a cgroup of its own."""
        self.group: Group | None = None
        """That holds it to its limits."""
        self.at_end: dict[str, int] = {}
        """How often it had met each of those by its end, by their names for callers."""
        self._family = family
        self._begun = time.monotonic()
        self._when_ended: list[Callable[[], object]] = []
        self.exit: Exit | None = None
        """How it ended, once it did."""

    @property
    def running(self) -> bool:
        """Whether the leader still runs."""
        return self.exit is None

    @property
    def limits_met(self) -> list[str]:
        """Limits of its own that it has met by its end."""
        return met(self.at_end)

    def met_so_far(self) -> dict[str, int]:
        """How often it has met each, now or by its end."""
        return self.group.counts() if self.group is not None and self.running else self.at_end

    @property
    def duration_ms(self) -> float:
        """Until its end, or until now."""
        return ((self.ended or time.monotonic()) - self._begun) * 1000

    async def wait(self) -> Exit:
        """Until the leader has ended and its output is in; what its children still write is recorded too."""
        if self.exit is None:
            # One of the caller's own, which its cancellation may cancel: a shield costs a turn of the loop.
            over = asyncio.get_running_loop().create_future()
            call = self.when_ended(lambda: None if over.done() else over.set_result(None))
            try:
                await over
            finally:
                self._when_ended = [each for each in self._when_ended if each is not call]
        assert self.exit is not None
        return self.exit

    def when_ended(self, call: Callable[[], object]) -> Callable[[], object]:
        """Have ``call`` called in the turn of the loop in which its end is learned; gives it back."""
        if self.exit is None:
            self._when_ended.append(call)
        else:
            call()
        return call

    def family(self) -> set[int]:
        """Live pids of the command and of everything it started. Blocks for a walk over /proc."""
        return self._family(self.id)

    def _ended(self, end: Exit) -> None:
        self.ended = time.monotonic()
        self.exit = end
        calls, self._when_ended = self._when_ended, []
        for call in calls:
            call()


class ProcessTable:
    """All programs of this daemon. Belongs to the event loop's thread."""

    def __init__(self, limits: Limits, spill_directory: Path) -> None:
        self._limits = limits
        self._spill_directory = spill_directory
        self._processes: dict[str, Process] = {}
        self._over: dict[str, Process] = {}
        """Those that have ended, in the order of their ends."""
        self._pipes = Pipes()
        self._reaper = Reaper()
        self._marks = LimitMarks()
        self._cgroups = Cgroups()
        self._census = Census(self._marks, self._cgroups)
        self._ending = Ending(self._census, self._cgroups, limits)
        self._groups = LimitGroups(Wanted.of(limits))
        self._bounds = bounds(limits)
        self._shares = Shares(*_shares(limits))
        self._starts = self._forgotten_bytes = 0
        self._chores: asyncio.TimerHandle | None = None
        self._at_chores: asyncio.Task[None] | None = None
        self._closing = False
        self._starter = Starter(self._marks)
        self._spare = SparePipes()
        self._not_lowered: set[Process] = set()
        self.separation = NOTHING_DONE
        """What keeps programs from the daemon, once it is open."""

    def open(self, separation: Separation | None = None) -> None:
        """Adopt orphans from here on, and reap them. To be called on the main thread.

        With ``separation``, what is started is kept from the daemon; raises SeparationMissing.
        """
        if separation is not None:
            self.separation = self._starter.separate(separation)
            told = {each.name: each.why for each in self.separation.properties if not each.holds}
            data = {"tier": self.separation.tier.value, "open": told}
            log.info("separation", extra={"data": data})
        tree.become_subreaper()
        self._cgroups.open()
        self._starter.have_groups(self._groups, self._open_groups)
        self._reaper.open()
        self._bounds = bounds(self._limits, [each for each in CONTROLLERS if self._groups.holds(each)])
        if open_limits := {each.name: each.why for each in self.held if not each.holds}:
            log.warning("limits that do not hold", extra={"data": open_limits})
        log.info("families", extra={"data": {"foundBy": self.means}})

    @property
    def held(self) -> list[Held]:
        """The limits of each command that are wished for, and what holds them here."""
        return held(self._limits, self._groups.version, self._groups.missing)

    @property
    def means(self) -> list[str]:
        """How the processes of a command are found, here."""
        kinds = {"descent": True, "limit": self._marks.works, "session": True, "variable": True}
        return [*(kind for kind, works in kinds.items() if works), *(["cgroup"] * self._cgroups.works)]

    @property
    def starts(self) -> int:
        """Programs started so far; who looks for what they do sees by it that there is something new."""
        return self._starts

    async def look(self) -> Snapshot:
        """Who is there now, and of which command."""
        return await self._census.look()

    @property
    def output_bytes(self) -> int:
        """Written by all programs so far, whether it is still kept or not."""
        kept = sum(each.stdout.end + each.stderr.end for each in self._processes.values())
        return self._forgotten_bytes + kept

    def get(self, id: str) -> Process:
        """The process of that id; raises NotFound when there is none, or its record is gone."""
        try:
            return self._processes[id]
        except KeyError:
            raise NotFound(
                f"there is no process {id!r}, or its record is no longer kept; 'processes' lists them",
                process_id=id,
            ) from None

    def find(self, id: str) -> Process | None:
        """The process of that id, or None."""
        return self._processes.get(id)

    def all(self) -> list[Process]:
        """Every process with a record, in the order of their start."""
        return list(self._processes.values())

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        fed: bool = False,
        pty: tuple[int, int] | None = None,
        id: str | None = None,
        shown_cwd: str = ".",
        merged: bool = False,
    ) -> Process:
        """Run ``argv`` in the host directory ``cwd``; ``pty`` is (columns, rows).

        One that is ``fed``, or has a terminal, gets what its ``input`` is given; else its input is empty.
        ``merged`` puts both streams into ``stdout``, in the order in which they were written.

        Blocks for the one to two milliseconds of a vfork. Raises NotFound, Forbidden, InvalidRequest, Busy.
        """
        launch = self._launch(id, argv, cwd, env, fed, pty, merged)
        try:
            return self._adopt(launch, self._starter.start(launch), argv, shown_cwd)
        except BaseException:
            self._not_started(launch)
            raise

    async def start_soon(  # noqa: PLR0913 - what a program is started with
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        fed: bool = False,
        pty: tuple[int, int] | None = None,
        id: str | None = None,
        shown_cwd: str = ".",
        merged: bool = False,
        asked: object = None,
    ) -> Process:
        """``start``, from its own thread where that is needed, and nobody waits for it on a busy machine.

        A cancellation takes effect after it: the program is never there without being known. ``asked`` is the
        process's from the first moment at which others may find it.
        """
        launch = self._launch(id, argv, cwd, env, fed, pty, merged)

        on_its_way = self._reaper.starting()

        def adopt(pid: int) -> Process:
            # In the turn in which it is there, before who asked for it is woken; and counted once.
            try:
                process = self._adopt(launch, pid, argv, shown_cwd)
                process.asked = asked
                return process
            finally:
                on_its_way.over()

        try:
            if self._starter.at_once:
                return adopt(self._starter.start(launch))
            with on_its_way:
                return await self._starter.off_loop(launch, adopt).value()
        except BaseException:
            self._not_started(launch)
            raise

    def give_way(self, process: Process) -> Process:
        """Have it, and what it starts, get less of the processors where the daemon wants them too."""
        if process.running and not lower(process.pid, self._limits.command_nice):
            self._not_lowered.add(process)
        if process.group is not None and self._groups.holds("cpu"):
            self._groups.soon(process.group, giving_way(process.group.version, self._limits.command_nice))
        return process

    def forget_old(self) -> None:
        """Drop the records that the limits keep no longer; one that somebody reads stays until he is done."""
        for id in self._too_many():
            process = self._processes[id]
            self._strike(process)
            process.stdout.abandon()
            process.stderr.abandon()
        if self._most_kept_bytes > ENDED_MEMORY_BYTES:
            self._put_away()

    @property
    def _most_kept_bytes(self) -> int:
        """Records hold no more than what was read, and the beginnings of it a second time."""
        return 2 * (self._pipes.read_bytes - self._forgotten_bytes)

    def _too_many(self) -> Sequence[str]:
        """Ids of the records to drop. To look at each of 256 keeps the loop for 0.7 ms, ten times a second
        while commands come and go: mostly it is only their number, and the oldest go."""
        now, limits = time.monotonic(), self._limits
        oldest = next(iter(self._over.values()), None)
        if oldest is None:
            return ()
        young = (now - (oldest.ended or now)) * 1000 <= limits.max_kept_process_age_ms
        if young and self._most_kept_bytes <= limits.max_kept_output_in_all_bytes:
            excess = max(0, len(self._over) - limits.max_kept_processes)
            free = (each.id for each in map(_kept, self._over.values()) if not (each.open or each.followed))
            found = list(itertools.islice(free, excess))
            if len(found) == excess:
                return found
        return too_many(map(_kept, self._over.values()), now, limits)

    def _strike(self, process: Process) -> None:
        del self._processes[process.id]
        self._over.pop(process.id, None)
        self._forgotten_bytes += process.stdout.end + process.stderr.end
        self._census.strike(process.id)

    def _put_away(self) -> None:
        ended = reversed(self._over.values())
        put_older_away((log for each in ended for log in (each.stdout, each.stderr)), ENDED_MEMORY_BYTES)

    def forget(self, process: Process) -> None:
        """Drop the record of a program that was the daemon's own errand."""
        if self._processes.get(process.id) is process:
            self._strike(process)
        process.stdout.release()
        process.stderr.release()

    async def stop(self, process: Process, grace_ms: int | None = None) -> Outcome:
        """TERM to the whole family, a grace, KILL to what is left; gives (killed, survivors)."""
        grace = (self._limits.stop_grace_ms if grace_ms is None else grace_ms) / 1000

        async def over() -> None:
            # Its end is waited for; the rest of the family ends without a word.
            await (process.wait() if process.running else asyncio.sleep(grace + _LONG_SECONDS))

        outcome = await self._ending.end(process.id, grace, over)
        if process.running and process.pid not in outcome.survivors:
            await process.wait()
        self._chores_soon()
        return outcome

    async def signal(self, process: Process, number: int, *, tree_too: bool = False) -> list[int]:
        """Send a signal to the program, or to all of its family; the pids that got it."""
        family = (await self._census.look()).of(process.id)
        meant = [proc for proc in family if tree_too or (proc.pid == process.pid and process.running)]
        return [proc.pid for proc in await asyncio.to_thread(tree.tell, meant, number)]

    async def close(self) -> list[int]:
        """End every program, then whatever of theirs is still below us; gives the pids that would not die."""
        self._closing = True
        candidates = [each for each in self._processes.values() if each.running or not each.stdout.closed]
        await asyncio.gather(*(self.stop(each) for each in candidates))
        survivors = await self._ending.end_strays()
        await self._let_go()
        return survivors

    async def _let_go(self) -> None:
        if self._chores is not None:
            self._chores.cancel()
        await asyncio.gather(*filter(None, [self._at_chores]), return_exceptions=True)
        await self._census.close()
        self._reaper.sweep()
        self._reaper.close()
        self._pipes.close()
        self._spare.close()
        self._starter.close()
        await asyncio.to_thread(self._groups.close)
        await asyncio.to_thread(self._cgroups.close)
        for process in self._processes.values():
            process.stdout.release()
            process.stderr.release()

    def _chores_soon(self, seconds: float = _CHORES_SECONDS) -> None:
        """What need not be done at once is done for many at a time."""
        loop = asyncio.get_running_loop()
        if self._chores is not None and self._chores.when() > loop.time() + seconds:
            self._chores.cancel()
            self._chores = None
        if self._chores is None and not self._closing:
            self._chores = loop.call_later(seconds, self._begin_chores)

    def _open_groups(self, spawner: int) -> None:
        """The groups that hold limits; what they do not, the limits of each process do."""
        self._groups.open(self._cgroups, spawner, *self._cgroups.told())

    def _begin_chores(self) -> None:
        self._chores = None
        self.forget_old()
        self._lower_rest()
        grouped = self._cgroups.works or self._groups.works
        if grouped and (self._at_chores is None or self._at_chores.done()):
            self._at_chores = asyncio.create_task(self._place())

    def _lower_rest(self) -> None:
        """Those that were refused, until one is again."""
        while self._not_lowered:
            process = self._not_lowered.pop()
            if process.running and not lower(process.pid, self._limits.command_nice):
                self._not_lowered.add(process)
                self._chores_soon()
                return

    async def _place(self) -> None:
        """Put those who still run into cgroups, with what they have started by now."""
        running = [each for each in self._processes.values() if each.running]
        new = [each for each in running if not each.placed and each.duration_ms > _CHORES_SECONDS * 1000]
        if any(not each.placed for each in running if each not in new):
            self._chores_soon()
        for _ in range(_PLACING_LOOKS if new else 0):
            seen = await self._census.look()
            for each in new:
                pids = [proc.pid for proc in seen.of(each.id)]
                each.placed = await asyncio.to_thread(self._cgroups.place, each.id, pids) or each.placed
        if self._groups.used:
            await asyncio.to_thread(self._groups.tidy)
            self._chores_soon(_TIDY_SECONDS)
        if self._cgroups.used:
            await asyncio.to_thread(self._cgroups.tidy, [each.id for each in self.all() if each.running])

    def _refuse_when_full(self) -> None:
        if self._closing:
            raise Busy("the tool server is stopping and starts nothing any more")
        self._shares.refuse(caller())

    def _launch(
        self,
        id: str | None,
        argv: Sequence[str],
        cwd: str,
        env: Mapping[str, str],
        fed: bool,
        pty: tuple[int, int] | None,
        merged: bool,
    ) -> Launch:
        self._refuse_when_full()
        id = id or f"p{os.urandom(8).hex()}"
        launch = Launch(id, argv, cwd, env, self._marks.new(), who=caller())
        if self._bounds:
            launch.within(self._bounds)
        if pty is not None:
            launch.on_terminal(pty)
        else:
            launch.on_pipes(self._spare.take, fed=fed, merged=merged)
        self._shares.take(launch.who)
        return launch

    def _not_started(self, launch: Launch) -> None:
        """Unless it was after all, and something else went wrong."""
        if not launch.adopted:
            self._shares.give_back(launch.who)

    def _adopt(self, launch: Launch, pid: int, argv: Sequence[str], shown_cwd: str) -> Process:
        process = Process(launch.id, pid, argv, shown_cwd, self._family)
        process.group = launch.group
        if launch.group is not None and launch.group.version == self._cgroups.VERSION:
            self._cgroups.adopt(launch.id, next(iter(launch.group.directories.values())))
            process.placed = True
        process.stdout, process.stderr = self._log(), self._log()
        process.terminal_size = launch.terminal_size
        self._pipes.listen(launch.out, process.stdout)
        if launch.err < 0:
            process.stderr.close()
        else:
            self._pipes.listen(launch.err, process.stderr)
        if launch.into >= 0:
            on_terminal = launch.terminal_size is not None
            process.input = self._pipes.input(launch.into, self._limits, terminal=on_terminal)
        launch.adopted = True
        # The program is on its way, and nobody waits for us.
        self._spare.make()
        return self._keep(process, launch.number, launch.who)

    def _log(self) -> OutputLog:
        return OutputLog(self._spill_directory, self._limits.max_kept_output_bytes)

    def _family(self, id: str) -> set[int]:
        return {proc.pid for proc in self._census.walk().of(id)}

    def _keep(self, process: Process, number: int, who: str) -> Process:
        self._processes[process.id] = process
        self._census.enrol(process.id, process.pid, number)
        self._starts += 1

        def on_end(status: int, usage: struct_rusage) -> None:
            self._shares.give_back(who)
            self._pipes.drain((process.stdout, process.stderr))
            if process.group is not None:
                process.at_end = process.group.counts()
                process.group.over = True
                self._chores_soon()
            process._ended(Exit.of(status, usage))
            if self._processes.get(process.id) is process:
                self._over[process.id] = process
            if process.input is not None:
                process.input.program_ended()

        self._reaper.watch(process.pid, on_end)
        self._chores_soon()
        return process


def _shares(limits: Limits) -> tuple[Share, Share]:
    each, in_all = limits.max_processes, limits.max_processes_in_all
    end = "which is the limit; stop one or wait for one"
    return (
        Share("maxProcesses", each, f"{each} commands of this user are running, {end}"),
        Share("maxProcessesInAll", in_all, f"{in_all} commands are running, {end}"),
    )


def _kept(process: Process) -> Kept:
    logs = process.stdout, process.stderr
    assert process.ended is not None
    return Kept(
        process.id,
        process.ended,
        sum(each.kept_bytes for each in logs),
        open=not all(each.closed for each in logs),
        followed=any(each.followed for each in logs),
    )
