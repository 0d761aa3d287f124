"""A bash that is kept: one command after the other, each with its output exact to the byte.

The law of the end. Every command has named pipes of its own as standard output and error, opened by bash for
that command and closed at its end. Then bash tells the end on another pipe. A write to a pipe is complete
when it returns, so by the time that is read, all that the command wrote lies in its pipes: they are emptied
until they say "nothing more", and that is the command's output, no byte less and none of another's. Where
they say "end of file", nobody holds them, and the names serve the next command. Where they do not, a job in
the background does: what it still writes is recorded with the command that started it, never with a later
one, and the next command gets new pipes.

So nothing in the output marks its end, nothing can be mistaken for it, and a job may hold its output as long
as it likes. What bash does not wait for (a process substitution, ``&``) may write after the end; it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import struct
import termios
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import Internal
from protocol.limits import Limits
from toolserver.system import shell_lines, tree
from toolserver.system.output import OutputLog
from toolserver.system.pipes import Pipes
from toolserver.system.processes import Exit, Process, ProcessTable

INTERRUPTED = 130
"""The status of a command that was interrupted, as after Ctrl-C."""
_RESTORE_SECONDS = 5.0
"""For a shell to answer after an interruption; a gut feeling, it has nothing to do but three builtins."""
_LOOK_SECONDS = 1.0
"""Between two looks at whether the shell can still tell an end."""
_BUSY_SECONDS = 30.0
"""How long a shell that got no processor time since it was interrupted is not taken for a deaf one. A gut
feeling."""
_MAX_REPLY_BYTES = 64 * 1024
_CHILDREN_BYTES = 16 * 1024
"""Room for one read, of which the kernel fills a page at most."""


_Reply = asyncio.Future[tuple[str, int, str, str]]
"""What ``shell_lines.reply`` gives, once bash has told it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what became of the shell."""

    code: int
    cwd: str = ""
    interrupted: bool = False
    shell: Exit | None = None
    """How the shell ended, when it did."""


@dataclass(frozen=True)
class _Places:
    """The named pipes of one command at a time."""

    stdout: str
    stderr: str


class KeptShell:
    """One bash. Belongs to the event loop's thread; runs one command at a time, which its caller sees to."""

    def __init__(self, directory: Path, table: ProcessTable, pipes: Pipes, limits: Limits) -> None:
        self.process: Process
        self.cwd = ""
        self._directory = directory
        self._table = table
        self._pipes = pipes
        self._limits = limits
        self._status = 0
        self._options = ""
        self._spare: _Places | None = None
        self._made = 0
        self._script = self._told = -1
        self._unwritten = b""
        self._read = b""
        self._awaited: tuple[str, _Reply] | None = None
        self._end: asyncio.Task[Exit]

    @property
    def alive(self) -> bool:
        """Whether it takes commands."""
        return self._script >= 0 and self.process.running

    async def start(self, bash: str, cwd: str, env: Mapping[str, str]) -> None:
        """Start it in the host directory ``cwd``; raises what ``ProcessTable.start`` raises."""
        await asyncio.to_thread(self._make, "bash", "t")
        self._script = os.open(self._directory / "bash", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._told = os.open(self._directory / "t", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Started beside its script, so that its messages begin with "bash:" and not with a path of ours.
            self.process = await self._table.start_soon([bash, "bash"], cwd=str(self._directory), env=env)
            self._table.give_way(self.process)
        except BaseException:
            os.close(self._script)
            os.close(self._told)
            self._script = self._told = -1
            await self.close()
            raise
        asyncio.get_running_loop().add_reader(self._told, self._on_reply)
        self._end = asyncio.create_task(self.process.wait())
        self._say(shell_lines.opening(cwd, self._replies))

    async def run(
        self,
        text: str,
        stdin: bytes | None,
        output: tuple[OutputLog, OutputLog],
        seconds: float,
        unwanted: asyncio.Future[None],
    ) -> Ended:
        """``text`` to its end, or until ``seconds`` have passed or ``unwanted`` is done: then interrupted."""
        places = await self._open(output)
        fed = await self._stdin(stdin)
        earlier = _children(self.process.pid)
        if earlier is None:
            earlier = await asyncio.to_thread(_started_since, self.process.pid, set())
        nonce, reply = self._expect()
        told = shell_lines.told(nonce, self._replies)
        self._say(
            shell_lines.command(text, self._status, fed or os.devnull, places.stdout, places.stderr, told)
        )
        try:
            await self._told_or_deaf(reply, unwanted, seconds)
            interrupted = not reply.done() and not self._end.done()
            if interrupted:
                await self._interrupt(reply, earlier)
            self._pipes.drain(output)
            return await self._ended(reply, interrupted)
        finally:
            await self._put_away(places, output, fed)

    async def close(self) -> None:
        """Let go of it; whether its processes end is up to who closes it."""
        loop = asyncio.get_running_loop()
        if self._script >= 0:
            loop.remove_writer(self._script)
            loop.remove_reader(self._told)
            os.close(self._script)
            os.close(self._told)
            self._script = self._told = -1
            self._end.cancel()
        await asyncio.to_thread(shutil.rmtree, self._directory, True)

    # One command ---------------------------------------------------------------------------------

    async def _open(self, output: tuple[OutputLog, OutputLog]) -> _Places:
        """Listen on both pipes before anybody writes to them."""
        places = self._spare or await self._new_places()
        self._spare = None
        for path, log in zip((places.stdout, places.stderr), output, strict=True):
            self._pipes.listen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), log)
        return places

    async def _new_places(self) -> _Places:
        self._made += 1
        names = f"{self._made}o", f"{self._made}e"
        await asyncio.to_thread(self._make, *names)
        return _Places(*(str(self._directory / name) for name in names))

    async def _stdin(self, data: bytes | None) -> str | None:
        """A file with the command's input: read at any pace, and none of it is left for the next command."""
        if data is None:
            return None
        path = self._directory / f"{self._made}i"
        await asyncio.to_thread(path.write_bytes, data)
        return str(path)

    async def _ended(self, reply: _Reply, interrupted: bool) -> Ended:
        if interrupted and reply.done():
            await self._restore()
        if self._end.done() and (interrupted or not reply.done()):
            end = self._end.result()
            return Ended(end.code, interrupted=interrupted, shell=end)
        if not reply.done():
            await self.close()  # whoever comes next gets another
            raise Internal("the shell did not end although it was killed; ask again for a fresh one")
        _, status, self._options, self.cwd = reply.result()
        self._status = INTERRUPTED if interrupted else status
        return Ended(self._status, self.cwd, interrupted)

    async def _put_away(self, places: _Places, output: tuple[OutputLog, OutputLog], fed: str | None) -> None:
        for log in output:
            log.settle()
        gone = [fed] if fed else []
        if all(log.closed for log in output) and self.alive:
            self._spare = places
        else:
            gone += [places.stdout, places.stderr]
        if gone:
            await asyncio.to_thread(_unlink, gone)

    async def _told_or_deaf(self, reply: _Reply, unwanted: asyncio.Future[None], seconds: float) -> None:
        """Until the end is told, or the time is over; a shell that will never tell it is ended.

        Bash reads its script byte by byte, so the line that tells the end lies unread while a command runs.
        When that was read and nothing told, it is given an empty line: one that reads this as well has gone
        on without a word. It runs nothing any more (``set -n``), may open nothing, or has other builtins.
        """
        ends: set[asyncio.Future[Any]] = {reply, self._end, unwanted}
        deadline = time.monotonic() + seconds
        asked = False
        while (left := deadline - time.monotonic()) > 0:
            await _first(ends, min(left, _LOOK_SECONDS))
            if any(each.done() for each in ends):
                return
            if self._unread():
                continue
            # It may have told and read on since; then that lies in the pipe.
            self._on_reply()
            if asked and not reply.done():
                await self._table.stop(self.process)
                await _first({self._end}, _RESTORE_SECONDS)
                return
            asked = True
            self._say(b"\n")

    # Interruption ----------------------------------------------------------------------------------

    async def _interrupt(self, reply: _Reply, earlier: set[int]) -> None:
        """INT, then TERM, then KILL to what the command started, until the shell is back; else end it.

        Jobs that earlier commands left in the background are not touched. The shell is told first, so that
        it goes on to nothing when the program that it waits for is gone. Who was stopped, as by Ctrl-Z, is
        sent on, the shell too: he takes no signal before. Where a busy machine lets the shell, or who was
        killed, not run at all, the pause has not begun.
        """
        pause_seconds = self._limits.shell_interrupt_ms / 1000
        latest = time.monotonic() + _BUSY_SECONDS
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for each in (shell_lines.INTERRUPT, signal.SIGCONT):
                tree.send([self.process.pid], each)
            deadline = time.monotonic() + pause_seconds
            told: set[int] = set()
            pause = 0.005
            while not reply.done() and not self._end.done() and time.monotonic() < deadline:
                found, starved = await asyncio.to_thread(_looked, self.process.pid, earlier)
                if starved:
                    deadline = max(deadline, min(time.monotonic() + pause_seconds, latest))
                # A program that forks on and on is killed whenever it is seen; others are asked once.
                new = found if number == signal.SIGKILL else found - told
                told |= set(tree.send(new, number))
                tree.send(new, signal.SIGCONT)
                await _first({reply, self._end}, pause)
                pause = min(pause * 2, 0.1)
            if reply.done() or self._end.done():
                return
        await self._table.stop(self.process)
        await _first({self._end}, _RESTORE_SECONDS)

    async def _restore(self) -> None:
        """Undo what the interruption has set in the shell; a shell that does not answer to that is ended."""
        nonce, reply = self._expect()
        self._say(shell_lines.disarmed(self._options) + shell_lines.told(nonce, self._replies))
        await _first({reply, self._end}, _RESTORE_SECONDS)
        if not reply.done() and not self._end.done():
            await self._table.stop(self.process)
            await _first({self._end}, _RESTORE_SECONDS)

    # Its script, and its replies -----------------------------------------------------------------

    @property
    def _replies(self) -> str:
        return str(self._directory / "t")

    def _expect(self) -> tuple[str, _Reply]:
        nonce = secrets.token_hex(8)
        future: _Reply = asyncio.get_running_loop().create_future()
        self._awaited = nonce, future
        return nonce, future

    def _on_reply(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read += os.read(self._told, _MAX_REPLY_BYTES)
        *whole, self._read = self._read.split(b"\0")
        if len(self._read) > _MAX_REPLY_BYTES:
            self._read = b""
        for each in whole:
            found = shell_lines.reply(each)
            # What is no reply, or one to nothing that was asked, was written by a program of the workspace.
            if found and self._awaited and secrets.compare_digest(found[0], self._awaited[0]):
                if not self._awaited[1].done():
                    self._awaited[1].set_result(found)
                self._awaited = None

    def _say(self, lines: bytes) -> None:
        if self._script < 0:
            raise Internal("this shell was closed")
        self._unwritten += lines
        self._write()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError):
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._script, self._unwritten) :]
        if self._unwritten:
            loop.add_writer(self._script, self._write)
        else:
            loop.remove_writer(self._script)

    def _unread(self) -> int:
        """Bytes of its script that it has not read yet."""
        (waiting,) = struct.unpack("i", fcntl.ioctl(self._script, termios.FIONREAD, bytes(4)))
        return len(self._unwritten) + int(waiting)

    def _make(self, *names: str) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            os.mkfifo(self._directory / name, 0o600)


def _started_since(shell: int, earlier: set[int]) -> set[int]:
    """Live pids below ``shell``, but for its children in ``earlier`` and what is below those."""
    table = tree.processes()
    ours = {pid for pid, proc in table.items() if proc.parent == shell and pid not in earlier}
    for pid in list(ours):
        ours |= tree.descendants(pid, table)
    return {pid for pid in ours if table[pid].alive}


def _looked(shell: int, earlier: set[int]) -> tuple[set[int], bool]:
    """(those below it, whether it or one of them would have acted on a signal if it had been let run)."""
    found = _started_since(shell, earlier)
    sent = [(shell, shell_lines.INTERRUPT), *((pid, signal.SIGKILL) for pid in found)]
    return found, any(tree.is_starved(pid, number) for pid, number in sent)


def _children(pid: int) -> set[int] | None:
    """Pids of its own children, those that wait to be reaped too; None where the kernel does not tell."""
    with contextlib.suppress(OSError):
        # Non-blocking only says so: nothing in /proc is waited for.
        fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # To the end: one read tells of some 600.
            return set(map(int, b"".join(iter(lambda: os.read(fd, _CHILDREN_BYTES), b"")).split()))
        finally:
            os.close(fd)
    return None


async def _first(futures: Collection[asyncio.Future[Any]], seconds: float) -> None:
    """Until one of them is done, or the time is over."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def _unlink(paths: list[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
