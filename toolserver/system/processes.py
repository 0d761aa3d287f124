"""Programs: started, listened to, waited for, ended, each in this one place.

The table knows every program of this daemon. One of them is a ``process``; how it is started is ``spawn``,
its bytes are ``pipes``, its end is ``reaping``, whom it started is ``census``, how all of them go is
``ending``, what is kept of them is ``records``, and what need not be done at once is ``chores``. A program's
end and the end of its output are two things: a child of it may hold the pipe.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from resource import struct_rusage

from protocol.errors import Busy
from protocol.limits import Limits
from toolserver.system import tree
from toolserver.system.bounds import Held, bounds, held
from toolserver.system.caller import caller
from toolserver.system.census import Census, Snapshot
from toolserver.system.cgroups import Cgroups
from toolserver.system.chores import Chores
from toolserver.system.ending import Ending, Outcome
from toolserver.system.exits import Exit, signal_name
from toolserver.system.group_files import CONTROLLERS, Wanted, giving_way
from toolserver.system.limit_groups import LimitGroups
from toolserver.system.marks import LimitMarks
from toolserver.system.output import OutputLog
from toolserver.system.pipes import Pipes
from toolserver.system.process import Process
from toolserver.system.reaping import Reaper
from toolserver.system.records import Records
from toolserver.system.separation import NOTHING_DONE, Separation
from toolserver.system.shares import Share, Shares
from toolserver.system.starting import Launch, SparePipes, Starter

__all__ = ["Exit", "Outcome", "Process", "ProcessTable", "Snapshot", "signal_name"]

_LONG_SECONDS = 60.0

log = logging.getLogger("toolserver.processes")


class ProcessTable:
    """All programs of this daemon. Belongs to the event loop's thread."""

    def __init__(self, limits: Limits, spill_directory: Path) -> None:
        self._limits = limits
        self._spill_directory = spill_directory
        self._pipes = Pipes()
        self._reaper = Reaper()
        self._marks = LimitMarks()
        self._cgroups = Cgroups()
        self._census = Census(self._marks, self._cgroups)
        self._ending = Ending(self._census, self._cgroups, limits)
        self._groups = LimitGroups(Wanted.of(limits))
        self._records = Records(limits, self._pipes, self._census)
        self._chores = Chores(limits, self._records, self._census, self._cgroups, self._groups)
        self._bounds = bounds(limits)
        self._shares = Shares(*_shares(limits))
        self._starts = 0
        self._closing = False
        self._starter = Starter(self._marks)
        self._spare = SparePipes()
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
        groups, kept = self._groups, self.separation.groups_kept
        return held(self._limits, groups.version, groups.missing, kept=kept)

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
        return self._records.output_bytes

    def get(self, id: str) -> Process:
        """The process of that id; raises NotFound when there is none, or its record is gone."""
        return self._records.get(id)

    def find(self, id: str) -> Process | None:
        """The process of that id, or None."""
        return self._records.find(id)

    def all(self) -> list[Process]:
        """Every process with a record, in the order of their start."""
        return self._records.all()

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
        self._chores.lower(process)
        if process.group is not None and self._groups.holds("cpu"):
            self._groups.soon(process.group, giving_way(process.group.version, self._limits.command_nice))
        return process

    def forget_old(self) -> None:
        """Drop the records that the limits keep no longer; one that somebody reads stays until he is done."""
        self._records.forget_old()

    def forget(self, process: Process) -> None:
        """Drop the record of a program that was the daemon's own errand."""
        self._records.strike(process)
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
        self._chores.soon()
        return outcome

    async def signal(self, process: Process, number: int, *, tree_too: bool = False) -> list[int]:
        """Send a signal to the program, or to all of its family; the pids that got it."""
        family = (await self._census.look()).of(process.id)
        meant = [proc for proc in family if tree_too or (proc.pid == process.pid and process.running)]
        return [proc.pid for proc in await asyncio.to_thread(tree.tell, meant, number)]

    async def close(self) -> list[int]:
        """End every program, then whatever of theirs is still below us; gives the pids that would not die."""
        self._closing = self._chores.closing = True
        # Whoever is on his way is among those that are ended: his start is over, and he is in the table.
        await asyncio.to_thread(self._starter.close)
        candidates = [each for each in self._records.all() if each.running or not each.stdout.closed]
        await asyncio.gather(*(self.stop(each) for each in candidates))
        survivors = await self._ending.end_strays()
        await self._let_go()
        return survivors

    async def _let_go(self) -> None:
        await self._chores.close()
        await self._census.close()
        self._reaper.sweep()
        self._reaper.close()
        self._pipes.close()
        self._spare.close()
        await asyncio.to_thread(self._groups.close)
        await asyncio.to_thread(self._cgroups.close)
        for process in self._records.all():
            process.stdout.release()
            process.stderr.release()

    def _open_groups(self, spawner: int) -> None:
        """The groups that hold limits; what they do not, the limits of each process do."""
        self._groups.open(self._cgroups, spawner, *self._cgroups.told())

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
        self._watch(process, launch)
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
        self._records.add(process)
        self._census.enrol(process.id, process.pid, launch.number)
        self._starts += 1
        self._chores.soon()
        # The program is on its way, and nobody waits for us.
        self._spare.make()
        return process

    def _log(self) -> OutputLog:
        return OutputLog(self._spill_directory, self._limits.max_kept_output_bytes)

    def _family(self, id: str) -> set[int]:
        return {proc.pid for proc in self._census.walk().of(id)}

    def _watch(self, process: Process, launch: Launch) -> None:
        """Learn of its end; where that cannot be had (OSError), it is ended, and was not started."""

        def on_end(status: int, usage: struct_rusage) -> None:
            self._shares.give_back(launch.who)
            self._pipes.drain((process.stdout, process.stderr))
            if process.group is not None:
                process.at_end = process.group.counts()
                process.group.over = True
                self._chores.soon()
            process.has_ended(Exit.of(status, usage))
            self._records.ended(process)
            if process.input is not None:
                process.input.program_ended()

        try:
            self._reaper.watch(process.pid, on_end)
        except OSError:
            tree.send_session(process.pid, signal.SIGKILL)
            launch.undo()
            if process.group is not None:
                process.group.over = True
            raise
        launch.adopted = True


def _shares(limits: Limits) -> tuple[Share, Share]:
    each, in_all = limits.max_processes, limits.max_processes_in_all
    end = "which is the limit; stop one or wait for one"
    return (
        Share("maxProcesses", each, f"{each} commands of this user are running, {end}"),
        Share("maxProcessesInAll", in_all, f"{in_all} commands are running, {end}"),
    )
