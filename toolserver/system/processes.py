"""Programs: started, listened to, waited for, ended, each in this one place.

The table knows every program of this daemon. How one is started is ``spawn``, its bytes are ``pipes``, its
end is ``reaping``, and whom it started is ``tree``. A program's end and the end of its output are two
things: a child of it may hold the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from resource import RUSAGE_SELF, getrusage, struct_rusage

from protocol.errors import Busy, NotFound
from protocol.limits import Limits
from toolserver.system import terminal, tree
from toolserver.system.input import Input
from toolserver.system.output import OutputLog
from toolserver.system.pipes import Pipes
from toolserver.system.reaping import Reaper
from toolserver.system.retention import Kept, too_many
from toolserver.system.spawn import DEVNULL, refuse_missing, spawn


@dataclass(frozen=True)
class Exit:
    """How a program ended. Times are seconds, memory bytes."""

    code: int
    """Its own code, or 128 + n when signal n ended it."""
    signal: str | None
    user_seconds: float
    """Of the program and of those of its children that it waited for; so for all three."""
    system_seconds: float
    peak_memory_bytes: int | None
    """Null when it is not above our own: the system counts ours into that of whatever we start."""

    @property
    def cpu_seconds(self) -> float:
        """User and system together."""
        return self.user_seconds + self.system_seconds

    @classmethod
    def of(cls, status: int, usage: struct_rusage) -> Exit:
        """What ``wait4`` told."""
        code = os.waitstatus_to_exitcode(status)
        name = signal_name(-code) if code < 0 else None
        ours = getrusage(RUSAGE_SELF).ru_maxrss
        peak = usage.ru_maxrss * 1024 if usage.ru_maxrss > ours else None
        return cls(128 - code if code < 0 else code, name, usage.ru_utime, usage.ru_stime, peak)


def signal_name(number: int) -> str:
    """A signal as callers read it; real-time signals have numbers only.

    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'SIG40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


class Process:
    """One command: its leader, its output, its end. Made by ``ProcessTable.start``."""

    def __init__(self, id: str, pid: int, argv: Sequence[str], cwd: str) -> None:
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
        self.timed_out_ms: int | None = None
        """The clock that ended it."""
        self.timeout_ms: int | None = None
        self.timeout_clock: str | None = None
        """Whose limit that is: the request's field, or the name in ``Limits``."""
        self.asked: object = None
        """What a caller asked for, to tell a repeated request from another one of the same id."""
        self.survivors: list[int] = []
        """Pids that outlived its clock's kill."""
        self._begun = time.monotonic()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        """Whether the leader still runs."""
        return not self._exit.done()

    @property
    def exit(self) -> Exit | None:
        """How it ended, once it did."""
        return self._exit.result() if self._exit.done() else None

    @property
    def duration_ms(self) -> float:
        """Until its end, or until now."""
        return ((self.ended or time.monotonic()) - self._begun) * 1000

    async def wait(self) -> Exit:
        """Until the leader has ended and its output is in; what its children still write is recorded too."""
        return await asyncio.shield(self._exit)

    def family(self) -> set[int]:
        """Live pids of the command and of everything it started."""
        return tree.family(self.pid, self.id, self.running)

    def _ended(self, end: Exit) -> None:
        self.ended = time.monotonic()
        self._exit.set_result(end)


class ProcessTable:
    """All programs of this daemon. Belongs to the event loop's thread."""

    def __init__(self, limits: Limits, spill_directory: Path) -> None:
        self._limits = limits
        self._spill_directory = spill_directory
        self._processes: dict[str, Process] = {}
        self._pipes = Pipes()
        self._reaper = Reaper()
        self._closing = False
        self._handicap = tree.Handicap()

    def open(self) -> None:
        """Adopt orphans from here on, and reap them. To be called on the main thread."""
        tree.become_subreaper()
        self._reaper.open()

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
        self._refuse_when_full()
        id = id or f"p{secrets.token_hex(8)}"
        environ = {**env, tree.MARKER: id}
        if pty is not None:
            return self._start_on_terminal(id, argv, cwd, environ, pty, shown_cwd)
        return self._start_on_pipes(id, argv, cwd, environ, fed, shown_cwd, merged)

    def forget_old(self) -> None:
        """Drop the records that the limits keep no longer; one that somebody reads stays until he is done."""
        kept = [_kept(each) for each in self._processes.values() if each.ended is not None]
        for id in too_many(kept, time.monotonic(), self._limits):
            process = self._processes.pop(id)
            process.stdout.abandon()
            process.stderr.abandon()

    def forget(self, process: Process) -> None:
        """Drop the record of a program that was the daemon's own errand."""
        self._processes.pop(process.id, None)
        process.stdout.release()
        process.stderr.release()

    async def stop(self, process: Process, grace_ms: int | None = None) -> tuple[list[int], list[int]]:
        """TERM to the whole family, a grace, KILL to what is left; gives (signalled, survivors)."""
        grace = (self._limits.stop_grace_ms if grace_ms is None else grace_ms) / 1000
        signalled: set[int] = set()
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 1.0)):
            signalled |= await self._signal_family(process, number, seconds)
        survivors = await asyncio.to_thread(process.family)
        if process.running and process.pid not in survivors:
            await process.wait()
        return sorted(signalled), sorted(survivors)

    async def close(self) -> list[int]:
        """End every program, then whatever of theirs is still below us; gives the pids that would not die."""
        self._closing = True
        candidates = [each for each in self._processes.values() if each.running or not each.stdout.closed]
        await asyncio.gather(*(self.stop(each) for each in candidates))
        survivors = await self._end_orphans()
        self._let_go()
        return survivors

    def _let_go(self) -> None:
        self._reaper.close()
        self._pipes.close()
        self._handicap.close()
        for process in self._processes.values():
            process.stdout.release()
            process.stderr.release()

    async def _end_orphans(self) -> list[int]:
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = await asyncio.to_thread(self._live_below)
            if not left:
                return []
            tree.send(left, number)
            for _ in range(20):
                await asyncio.sleep(0.05)
                self._reaper.sweep()
                if not await asyncio.to_thread(self._live_below):
                    return []
        return sorted(await asyncio.to_thread(self._live_below))

    def _live_below(self) -> set[int]:
        table = tree.processes()
        return {pid for pid in tree.descendants(os.getpid(), table) if table[pid].alive}

    async def _signal_family(self, process: Process, number: signal.Signals, seconds: float) -> set[int]:
        """Signal everyone once, latecomers too, until nobody is left; the pids that were reached.

        The pause between two looks grows, because a look is a walk over /proc.
        """
        deadline = time.monotonic() + seconds
        pause = 0.01
        told: set[int] = set()
        while members := await asyncio.to_thread(process.family):
            told.update(tree.send(members - told, number))
            if time.monotonic() >= deadline:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await (process.wait() if process.running else asyncio.sleep(pause))
            pause = min(pause * 2, 0.2)
        return told

    def _refuse_when_full(self) -> None:
        if self._closing:
            raise Busy("the tool server is stopping and starts nothing any more")
        running = sum(1 for each in self._processes.values() if each.running)
        if running >= self._limits.max_processes:
            raise Busy(
                f"{running} commands are running, which is the limit; stop one or wait for one",
                limit="maxProcesses",
                value=self._limits.max_processes,
            )

    def _start_on_pipes(
        self,
        id: str,
        argv: Sequence[str],
        cwd: str,
        env: dict[str, str],
        fed: bool,
        shown_cwd: str,
        merged: bool,
    ) -> Process:
        with contextlib.ExitStack() as child_ends:
            ours: list[int] = []
            try:
                out = _pipe(ours, child_ends)
                err = out if merged else _pipe(ours, child_ends)
                into = _stdin_pipe(ours, child_ends) if fed else DEVNULL
                with self._handicap.handed_down():
                    pid = spawn(argv, cwd, env, into, out, err)
            except BaseException:
                for fd in ours:
                    os.close(fd)
                raise
        process = Process(id, pid, argv, shown_cwd)
        process.stdout, process.stderr = self._log(), self._log()
        self._pipes.listen(ours[0], process.stdout)
        if merged:
            process.stderr.close()
        else:
            self._pipes.listen(ours[1], process.stderr)
        if fed:
            process.input = self._pipes.input(ours[-1], self._limits)
        return self._keep(process)

    def _start_on_terminal(
        self,
        id: str,
        argv: Sequence[str],
        cwd: str,
        env: dict[str, str],
        size: tuple[int, int],
        shown_cwd: str,
    ) -> Process:
        refuse_missing(argv[0], cwd)
        ours, theirs, name = terminal.open_terminal(*size)
        try:
            with self._handicap.handed_down():
                pid = spawn(terminal.on_terminal(argv, name), cwd, env, theirs, theirs, theirs, tried=argv)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        process = Process(id, pid, argv, shown_cwd)
        process.stdout, process.stderr = self._log(), self._log()
        process.stderr.close()
        self._pipes.listen(ours, process.stdout)
        # A second descriptor: reading and writing end at different times.
        process.input = self._pipes.input(os.dup(ours), self._limits, terminal=True)
        return self._keep(process)

    def _log(self) -> OutputLog:
        return OutputLog(self._spill_directory, self._limits.max_kept_output_bytes)

    def _keep(self, process: Process) -> Process:
        self._processes[process.id] = process

        def on_end(status: int, usage: struct_rusage) -> None:
            self._pipes.drain((process.stdout, process.stderr))
            process._ended(Exit.of(status, usage))
            if process.input is not None:
                process.input.program_ended()

        self._reaper.watch(process.pid, on_end)
        self.forget_old()
        return process


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


def _pipe(ours: list[int], child_ends: contextlib.ExitStack) -> int:
    read, write = os.pipe()
    ours.append(read)
    child_ends.callback(os.close, write)
    return write


def _stdin_pipe(ours: list[int], child_ends: contextlib.ExitStack) -> int:
    read, write = os.pipe()
    ours.append(write)
    child_ends.callback(os.close, read)
    return read
