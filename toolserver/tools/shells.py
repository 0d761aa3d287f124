"""shell, shell_output, shell_restart, shell_stop, shells: who comes first, runs first, in one bash per name.

A shell is started when it is first asked for, and again when the one before has ended; an answer says so. Two
commands for one shell take turns, in the order in which they were asked for; what waits is bounded, and more
is refused as ``busy``. A command belongs to its shell: a lost socket leaves it running, a cancelled request
interrupts it as its clock would. Interrupted means: the command is over, the shell and its jobs stay.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from protocol.errors import Busy, Conflict, InvalidRequest, NotFound
from protocol.limits import Limits
from protocol.messages.base import Encoding
from protocol.messages.commands import Started
from protocol.messages.processes import Killed
from protocol.messages.shells import (
    Shell,
    ShellAnswer,
    ShellOutput,
    ShellOutputAnswer,
    ShellRestart,
    ShellRestartAnswer,
    Shells,
    ShellsAnswer,
    ShellStop,
    ShellStopAnswer,
)
from toolserver.system.caller import caller
from toolserver.system.disk import Disk
from toolserver.system.group_files import met
from toolserver.system.kept_shell import Ended, KeptShell
from toolserver.system.output import OutputLog, put_older_away
from toolserver.system.pipes import Pipes
from toolserver.system.processes import ProcessTable
from toolserver.tools.answers import shown
from toolserver.tools.call import Call
from toolserver.tools.follow import follow, text_of, whole_characters
from toolserver.tools.shell_slots import Run, Slot, refuse
from toolserver.tools.text import decoded

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ENDED_MEMORY_BYTES = 1024 * 1024
"""Of what a shell's ended commands wrote; the rest is in files."""
_PUT_AWAY_EVERY = 8
"""Commands of a shell: none is to wait for a look at all before it."""


class KeptShells:
    """The handlers."""

    def __init__(
        self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits, state_dir: Path
    ) -> None:
        self._table = table
        self._disk = disk
        self._env = env
        self._limits = limits
        self._directory = self.area(state_dir)
        self._spill_directory = state_dir
        self._pipes = Pipes()
        self._slots: dict[str, Slot] = {}
        self._leaving: set[Slot] = set()
        """Without their names already."""
        self._closed = False

    @staticmethod
    def area(state_dir: Path) -> Path:
        """What the shells themselves have to reach of the daemon's own area."""
        return state_dir / "sh"

    @property
    def process_ids(self) -> list[str]:
        """Of the shells themselves."""
        return [slot.shell.process.id for slot in self._all() if slot.shell is not None]

    def _all(self) -> list[Slot]:
        return [*self._slots.values(), *self._leaving]

    async def shell(self, request: Shell, call: Call) -> ShellAnswer:
        """Wait for its turn, then follow it to its end."""
        refuse(request, self._limits)
        stdin = None if request.stdin is None else decoded(request.stdin, request.stdin_encoding, "stdin")
        slot = self._slot(request.name)
        run = self._begin(slot, request, stdin)
        try:
            await run.wait_begun()
            await call.emit(Started(process_id=run.process.id, pid=run.process.pid))
            if call.streaming:
                await follow(run, call, (0, 0), request.encoding)
            return self._answer(slot, run, request, await run.wait())
        except asyncio.CancelledError:
            if not call.abandoned and not self._closed:
                await run.give_up()
            raise

    async def shell_output(self, request: ShellOutput, call: Call) -> ShellOutputAnswer:
        """A page of what is kept of one command."""
        run = self._known(request.name).runs.get(request.number)
        if run is None:
            raise NotFound(
                f"shell {request.name!r} keeps no output of a command {request.number}; only the newest "
                f"{self._limits.max_kept_shell_commands} are kept",
                name=request.name,
                number=request.number,
            )
        if min(request.from_offset, request.from_stderr_offset) < 0:
            raise InvalidRequest("an offset must be 0 or more", field="fromOffset")
        if request.max_bytes is not None and request.max_bytes < 4:
            raise InvalidRequest("'maxBytes' must be 4 or more, so that a character fits", field="maxBytes")
        limit = min(request.max_bytes or self._limits.max_output_bytes, self._limits.max_output_bytes)
        out = _page(run.stdout, request.from_offset, limit, request.encoding)
        err = _page(run.stderr, request.from_stderr_offset, limit, request.encoding)
        return ShellOutputAnswer(
            name=request.name,
            number=run.number,
            stdout=text_of(out[1], request.encoding),
            stderr=text_of(err[1], request.encoding),
            offset=out[0],
            stderr_offset=err[0],
            next_offset=out[0] + len(out[1]),
            next_stderr_offset=err[0] + len(err[1]),
            missing_bytes=out[2] + err[2],
            running=not run.task.done(),
            open_output=run.open_output,
        )

    async def shell_restart(self, request: ShellRestart, call: Call) -> ShellRestartAnswer:
        """A fresh one; also where there was none yet."""
        slot = self._slot(request.name)
        killed, survivors = await asyncio.shield(self._end(slot))
        async with slot.turn:
            shell = slot.shell if slot.alive and slot.shell else await self._fresh(slot, slot.generation)
        return ShellRestartAnswer(
            name=slot.name, process_id=shell.process.id, killed=killed, survivors=survivors
        )

    async def shell_stop(self, request: ShellStop, call: Call) -> ShellStopAnswer:
        """The shell, its command, its jobs, and all it knew."""
        slot = self._known(request.name)
        # At once: who asks for it from here on gets another, and not one that is forgotten under his command.
        del self._slots[slot.name]
        self._leaving.add(slot)
        killed, survivors = await asyncio.shield(self._left(slot))
        return ShellStopAnswer(name=slot.name, killed=killed, survivors=survivors)

    async def shells(self, request: Shells, call: Call) -> ShellsAnswer:
        """What there is."""
        return ShellsAnswer(shells=[self._slots[name].record() for name in sorted(self._slots)])

    async def close(self) -> None:
        """Let go of all; their processes are the table's to end."""
        self._closed = True
        slots = self._all()
        tasks = [run.task for slot in slots for run in slot.runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in slots:
            if slot.shell is not None:
                await slot.shell.close()
            for run in slot.runs.values():
                run.forget()
        self._pipes.close()

    # A name -------------------------------------------------------------------------------------

    def _slot(self, name: str) -> Slot:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                "a shell's name has 1 to 64 letters, digits, dots, hyphens or underscores", field="name"
            )
        if name not in self._slots:
            self._refuse_when_full(caller())
        return self._slots.setdefault(name, Slot(name))

    def _refuse_when_full(self, who: str) -> None:
        limits, end = self._limits, "which is the limit; end one with 'shell_stop'"
        if len(self._slots) >= limits.max_shells_in_all:
            raise Busy(
                f"{len(self._slots)} shells are kept, {end}",
                limit="maxShellsInAll",
                value=limits.max_shells_in_all,
            )
        if sum(slot.who == who for slot in self._slots.values()) >= limits.max_shells:
            raise Busy(
                f"{limits.max_shells} shells of this user are kept, {end}",
                limit="maxShells",
                value=limits.max_shells,
            )

    def _known(self, name: str) -> Slot:
        if name not in self._slots:
            raise NotFound(f"there is no shell {name!r}; 'shells' lists them", name=name)
        return self._slots[name]

    async def _end(self, slot: Slot) -> tuple[list[Killed], list[int]]:
        """End the shell with everything it started; who waits for it is told."""
        slot.generation += 1
        shell = slot.shell
        if shell is None:
            async with slot.turn:  # one that is just being started finds itself unwanted
                return [], []
        outcome = await self._table.stop(shell.process)
        async with slot.turn:
            await shell.close()
        killed = [Killed(pid=each.pid, name=each.name, signal=each.signal) for each in outcome.killed]
        return killed, outcome.survivors

    async def _left(self, slot: Slot) -> tuple[list[Killed], list[int]]:
        """End a shell that has lost its name, and all that is kept of it."""
        try:
            return await self._end(slot)
        finally:
            self._leaving.discard(slot)
            for run in slot.runs.values():
                run.forget()

    # A command ----------------------------------------------------------------------------------

    def _begin(self, slot: Slot, request: Shell, stdin: bytes | None) -> Run:
        if slot.waiting >= self._limits.max_shell_queue:
            raise Busy(
                f"{slot.waiting} commands wait for shell {slot.name!r}, which is the limit; "
                "wait for one, or use a shell of another name",
                limit="maxShellQueue",
                value=self._limits.max_shell_queue,
            )
        bound = self._limits.max_open_shell_outputs
        if len(slot.runs) >= bound and slot.held >= bound:
            raise Busy(
                f"jobs of {slot.held} earlier commands of this shell still hold their output, which is the "
                "limit; end some, or start jobs with their output redirected (>file 2>&1)",
                limit="maxOpenShellOutputs",
                value=bound,
            )
        slot.given += 1
        run = Run(slot.given, self._log(), self._log())
        slot.runs[run.number] = run
        slot.waiting += 1
        run.task = asyncio.create_task(self._take_turn(slot, run, request, stdin))
        # Nobody may be there any more to be told of a failure.
        run.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._forget_old(slot)
        return run

    async def _take_turn(self, slot: Slot, run: Run, request: Shell, stdin: bytes | None) -> Ended:
        generation = slot.generation
        try:
            try:
                await slot.turn.acquire()
            finally:
                slot.waiting -= 1
            try:
                return await self._run(slot, run, request, stdin, generation)
            finally:
                slot.turn.release()
        finally:
            run.ended = time.monotonic()
            for log in (run.stdout, run.stderr):
                log.settle()

    async def _run(self, slot: Slot, run: Run, request: Shell, stdin: bytes | None, generation: int) -> Ended:
        _refuse_other(slot, generation)
        if slot.shell is not None and slot.alive:
            shell = slot.shell
        else:
            run.started, run.restarted = True, slot.shell is not None
            shell = await self._fresh(slot, generation)
        run.process, run.begun = shell.process, time.monotonic()
        run.has_begun.set_result(None)
        seconds = (request.timeout_ms or self._limits.command_timeout_ms) / 1000
        before = shell.process.met_so_far()
        ended = await shell.run(request.command, stdin, (run.stdout, run.stderr), seconds, run.unwanted)
        run.limits_met = met(shell.process.met_so_far(), before)
        return ended

    async def _fresh(self, slot: Slot, generation: int) -> KeptShell:
        """Start one in place of whatever the name had; raises Conflict where it was stopped meanwhile."""
        if slot.shell is not None:
            await slot.shell.close()
        bash, cwd = await asyncio.to_thread(self._looked_up)
        shell = KeptShell(self._directory / secrets.token_hex(3), self._table, self._pipes, self._limits)
        await shell.start(bash, cwd, self._env)
        slot.shell = shell
        if generation != slot.generation:
            await asyncio.shield(self._undone(shell))
        _refuse_other(slot, generation)
        return shell

    async def _undone(self, shell: KeptShell) -> None:
        await self._table.stop(shell.process)
        await shell.close()

    def _looked_up(self) -> tuple[str, str]:
        """The bash of the commands' PATH, and the root; blocks."""
        bash = shutil.which("bash", path=self._env.get("PATH"))
        if bash is None:
            raise NotFound(
                "there is no bash on the PATH, and a kept shell needs one; 'command' runs lines in sh",
                program="bash",
            )
        return bash, self._disk.directory(self._disk.path("."))

    def _log(self) -> OutputLog:
        return OutputLog(self._spill_directory, self._limits.max_kept_output_bytes)

    def _forget_old(self, slot: Slot) -> None:
        """The oldest first; not one that waits, runs, or is being written to by what it left behind."""
        if slot.given % _PUT_AWAY_EVERY == 0:
            ended = [each for each in reversed(slot.runs.values()) if each.ended]
            put_older_away((log for each in ended for log in (each.stdout, each.stderr)), _ENDED_MEMORY_BYTES)
        if len(slot.runs) <= self._limits.max_kept_shell_commands:
            return
        old = [each for each in slot.runs.values() if each.ended and not each.open_output]
        for run in old[: max(0, len(slot.runs) - self._limits.max_kept_shell_commands)]:
            del slot.runs[run.number]
            run.forget()

    def _answer(self, slot: Slot, run: Run, request: Shell, ended: Ended) -> ShellAnswer:
        limit = self._limits.max_output_bytes
        limit = limit if request.max_output_bytes is None else min(request.max_output_bytes, limit)
        out = shown(run.stdout, 0, limit, request.encoding, "shell_output")
        err = shown(run.stderr, 0, limit, request.encoding, "shell_output")
        return ShellAnswer(
            name=slot.name,
            process_id=run.process.id,
            number=run.number,
            exit_code=ended.code,
            signal=ended.shell.signal if ended.shell else None,
            stdout=out.text,
            stderr=err.text,
            stdout_bytes=run.stdout.end,
            stderr_bytes=run.stderr.end,
            omitted_bytes=out.omitted + err.omitted,
            truncated=bool(out.omitted + err.omitted),
            replaced=out.replaced or err.replaced,
            timed_out=ended.interrupted and not run.unwanted.done(),
            timeout_ms=request.timeout_ms or self._limits.command_timeout_ms,
            timeout_clock="timeoutMs" if request.timeout_ms else "commandTimeoutMs",
            duration_ms=round((run.ended - run.begun) * 1000, 3),
            cwd=ended.cwd,
            started=run.started,
            restarted=run.restarted,
            shell_ended=ended.shell is not None,
            open_output=run.open_output,
            limits_met=run.limits_met,
        )


def _refuse_other(slot: Slot, generation: int) -> None:
    if generation != slot.generation:
        raise Conflict(
            f"shell {slot.name!r} was stopped or restarted while this command waited for it; ask again",
            name=slot.name,
        )


def _page(log: OutputLog, start: int, limit: int, encoding: Encoding) -> tuple[int, bytes, int]:
    """(offset, bytes, bytes missing before them); no character is cut while more may come."""
    piece = log.read(start, limit)
    data = piece.data
    if encoding is Encoding.UTF8 and not (log.closed and piece.offset + len(data) >= log.end):
        data = data[: whole_characters(data)]
    return piece.offset, data, piece.missing
