"""Programs: started, listened to, waited for, ended, each in this one place.

Start is ``subprocess.Popen`` on its vfork path (no ``preexec_fn``, which forks and grows with our memory).
The end is told by a pidfd on the event loop and read with ``wait4``, so no exit status is ever taken by
somebody else. A program's end and the end of its output are two things: a child of it may hold the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from protocol.errors import Busy, Forbidden, InvalidRequest, NotFound, TooLarge, ToolError
from protocol.limits import Limits
from toolserver.system import terminal, tree
from toolserver.system.output import OutputLog

_READ_BYTES = 64 * 1024
_READ_BYTES_PER_TURN = 1024 * 1024
"""Of one stream's output, then the others' turn."""
_REAP_DELAY_SECONDS = 0.05
"""Orphans end in bursts; one sweep takes them all."""
_DRAIN_BYTES = 4 * 1024 * 1024
"""Read from a pipe when its program ends: more than a pipe can hold, so all that the program wrote is in."""

log = logging.getLogger("toolserver.processes")


@dataclass(frozen=True)
class Exit:
    """How a program ended. Times are seconds, memory bytes."""

    code: int
    """Its own code, or 128 + n when signal n ended it."""
    signal: str | None
    cpu_seconds: float
    peak_memory_bytes: int


class Process:
    """One command: its leader, its output, its end. Made by ``ProcessTable.start``."""

    def __init__(self, id: str, popen: subprocess.Popen[bytes], argv: Sequence[str], cwd: str) -> None:
        self.id = id
        self.pid = popen.pid
        self.argv = list(argv)
        self.cwd = cwd
        self.started = datetime.now(UTC)
        self.ended: float | None = None
        self.stdout: OutputLog
        self.stderr: OutputLog
        self.timed_out_ms: int | None = None
        """The clock that ended it."""
        self.timeout_ms: int | None = None
        self.asked: object = None
        """What a caller asked for, to tell a repeated request from another one of the same id."""
        self.survivors: list[int] = []
        """Pids that outlived its clock's kill."""
        self._popen = popen
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

    def _ended(self, status: int, cpu_seconds: float, peak_memory_bytes: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        name = signal.Signals(-code).name if code < 0 else None
        self._popen.returncode = code
        self.ended = time.monotonic()
        self._exit.set_result(Exit(128 - code if code < 0 else code, name, cpu_seconds, peak_memory_bytes))


class ProcessTable:
    """All programs of this daemon. Belongs to the event loop's thread."""

    def __init__(self, limits: Limits, spill_directory: Path) -> None:
        self._limits = limits
        self._spill_directory = spill_directory
        self._processes: dict[str, Process] = {}
        self._readers: dict[int, OutputLog] = {}
        self._writers: set[int] = set()
        self._pidfds: set[int] = set()
        self._closing = False
        self._old_handler: Any = signal.SIG_DFL
        self._reap_timer: asyncio.TimerHandle | None = None
        self._handicap = tree.Handicap()

    def open(self) -> None:
        """Adopt orphans from here on, and reap them. To be called on the main thread."""
        tree.become_subreaper()
        loop = asyncio.get_running_loop()
        # Not loop.add_signal_handler: uvloop keeps SIGCHLD for its own subprocesses, which are not used here.
        self._old_handler = signal.signal(
            signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(self._reap_soon)
        )

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
        stdin: bytes | None = None,
        pty: tuple[int, int] | None = None,
        id: str | None = None,
        shown_cwd: str = ".",
        merged: bool = False,
    ) -> Process:
        """Run ``argv`` in the host directory ``cwd``; ``pty`` is (columns, rows).

        ``merged`` puts both streams into ``stdout``, in the order in which they were written.

        Blocks for the one to two milliseconds of a vfork. Raises NotFound, Forbidden, InvalidRequest, Busy.
        """
        self._refuse_when_full()
        id = id or f"p{secrets.token_hex(8)}"
        environ = {**env, tree.MARKER: id}
        if pty is not None:
            return self._start_on_terminal(id, argv, cwd, environ, stdin, pty, shown_cwd)
        return self._start_on_pipes(id, argv, cwd, environ, stdin, shown_cwd, merged)

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
        signal.signal(signal.SIGCHLD, self._old_handler)
        self._let_go()
        return survivors

    def _let_go(self) -> None:
        loop = asyncio.get_running_loop()
        if self._reap_timer is not None:
            self._reap_timer.cancel()
        for fd in {*self._readers, *self._pidfds, *self._writers}:
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            os.close(fd)
        self._handicap.close()
        self._readers.clear()
        self._pidfds.clear()
        self._writers.clear()
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
                self._reap()
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
        stdin: bytes | None,
        shown_cwd: str,
        merged: bool,
    ) -> Process:
        with contextlib.ExitStack() as child_ends:
            ours: list[int] = []
            try:
                out = _pipe(ours, child_ends)
                err = subprocess.STDOUT if merged else _pipe(ours, child_ends)
                into = _stdin_pipe(ours, child_ends) if stdin else subprocess.DEVNULL
                with self._handicap.handed_down():
                    popen = _popen(argv, cwd, env, into, out, err)
            except BaseException:
                for fd in ours:
                    os.close(fd)
                raise
        process = Process(id, popen, argv, shown_cwd)
        process.stdout, process.stderr = self._log(), self._log()
        self._listen(ours[0], process.stdout)
        if merged:
            process.stderr.close()
        else:
            self._listen(ours[1], process.stderr)
        if stdin:
            self._feed(ours[-1], memoryview(stdin))
        return self._keep(process)

    def _start_on_terminal(
        self,
        id: str,
        argv: Sequence[str],
        cwd: str,
        env: dict[str, str],
        stdin: bytes | None,
        size: tuple[int, int],
        shown_cwd: str,
    ) -> Process:
        _refuse_missing(argv[0], cwd)
        ours, theirs, name = terminal.open_terminal(*size)
        try:
            with self._handicap.handed_down():
                popen = _popen(terminal.on_terminal(argv, name), cwd, env, theirs, theirs, theirs, tried=argv)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        process = Process(id, popen, argv, shown_cwd)
        process.stdout, process.stderr = self._log(), self._log()
        process.stderr.close()
        self._listen(ours, process.stdout)
        if stdin:
            # A second descriptor: reading and writing end at different times.
            self._feed(os.dup(ours), memoryview(stdin))
        return self._keep(process)

    def _log(self) -> OutputLog:
        return OutputLog(self._spill_directory, self._limits.max_kept_output_bytes)

    def _keep(self, process: Process) -> Process:
        self._processes[process.id] = process
        pidfd = os.pidfd_open(process.pid)
        self._pidfds.add(pidfd)
        asyncio.get_running_loop().add_reader(pidfd, self._on_exit, pidfd, process)
        self._forget_oldest()
        return process

    def _on_exit(self, pidfd: int, process: Process) -> None:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not pid:
            return
        asyncio.get_running_loop().remove_reader(pidfd)
        self._pidfds.discard(pidfd)
        os.close(pidfd)
        self._drain(process)
        process._ended(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def _forget_oldest(self) -> None:
        ended = [each for each in self._processes.values() if not each.running]
        for each in ended[: max(0, len(ended) - self._limits.max_kept_processes)]:
            del self._processes[each.id]
            each.stdout.release()
            each.stderr.release()

    def _listen(self, fd: int, into: OutputLog) -> None:
        os.set_blocking(fd, False)
        self._readers[fd] = into
        asyncio.get_running_loop().add_reader(fd, self._on_output, fd, into, _READ_BYTES_PER_TURN)

    def _on_output(self, fd: int, into: OutputLog, at_most: int) -> None:
        while at_most > 0:
            data = _read(fd)
            if data is None:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(fd)
                del self._readers[fd]
                os.close(fd)
                into.close()
                return
            into.append(data)
            at_most -= len(data)

    def _drain(self, process: Process) -> None:
        """The leader has ended, so all its output lies in the pipes: take it, and mark where it ends."""
        for fd, into in list(self._readers.items()):
            if into in (process.stdout, process.stderr):
                self._on_output(fd, into, _DRAIN_BYTES)
        process.stdout.settle()
        process.stderr.settle()

    def _feed(self, fd: int, data: memoryview) -> None:
        """Write ``data`` as the program takes it, then close. One that ends early simply takes less."""
        loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        rest = [data]

        def on_room() -> None:
            try:
                rest[0] = rest[0][os.write(fd, rest[0]) :]
            except BlockingIOError:
                return
            except OSError:
                rest[0] = rest[0][:0]
            if not rest[0]:
                loop.remove_writer(fd)
                self._writers.discard(fd)
                os.close(fd)

        self._writers.add(fd)
        loop.add_writer(fd, on_room)

    def _reap_soon(self) -> None:
        if self._reap_timer is None:
            self._reap_timer = asyncio.get_running_loop().call_later(_REAP_DELAY_SECONDS, self._reap)

    def _reap(self) -> None:
        """Take the status of adopted orphans; a status of our own programs is left to its pidfd."""
        self._reap_timer = None
        ours = {each.pid for each in self._processes.values() if each.running}
        for pid in tree.children_of_this_process():
            if pid not in ours:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _read(fd: int) -> bytes | None:
    """What is there; empty at the end, None when there is nothing yet."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        # A terminal whose last program is gone answers EIO.
        if error.errno != errno.EIO:
            log.warning("output ended with an error", extra={"data": {"reason": str(error)}})
        return b""


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


def _popen(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    tried: Sequence[str] | None = None,
) -> subprocess.Popen[bytes]:
    program = (tried or argv)[0]
    try:
        return subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise _not_started(error, program, cwd) from None


def _refuse_missing(program: str, cwd: str) -> None:
    """For a program that a shell is to become: what ``Popen`` would say, before there is a shell."""
    if not os.access(os.path.join(cwd, program), os.X_OK):
        there = os.path.exists(os.path.join(cwd, program))
        raise _not_started(PermissionError() if there else FileNotFoundError(), program, cwd)


def _not_started(error: OSError | ValueError, program: str, cwd: str) -> ToolError:
    if isinstance(error, FileNotFoundError):
        if os.path.exists(os.path.join(cwd, program)):
            what = f"{program!r} is there, but the program that its first line names is not"
        else:
            what = (
                f"there is no program {program!r}{'' if '/' in program else ' on the PATH'}; check its name"
            )
        return NotFound(what, program=program)
    if isinstance(error, PermissionError):
        return Forbidden(f"{program!r} may not be executed; is its x bit set?", program=program)
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return TooLarge("arguments and environment are too long for the system; use a file or stdin")
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENOMEM):
        return Busy(f"the system has no room for another process: {error.strerror}")
    reason = (isinstance(error, OSError) and error.strerror) or error
    return InvalidRequest(f"{program!r} cannot be started: {reason}", program=program)
