"""Who has a kept shell's name now, who waits for it, and what is kept of those who had it."""

from __future__ import annotations

import asyncio
import contextlib

from protocol.errors import InvalidRequest, TooLarge
from protocol.limits import Limits
from protocol.messages.shells import Shell, ShellRecord
from toolserver.system.caller import caller
from toolserver.system.kept_shell import Ended, KeptShell
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process


class Run:
    """One command on its way."""

    def __init__(self, number: int, stdout: OutputLog, stderr: OutputLog) -> None:
        self.number = number
        self.stdout = stdout
        self.stderr = stderr
        self.task: asyncio.Task[Ended]
        self.process: Process
        """The shell's."""
        self.started = self.restarted = False
        self.limits_met: list[str] = []
        """Of the shell's own, while this command ran."""
        self.begun = 0.0
        self.ended = 0.0
        loop = asyncio.get_running_loop()
        self.has_begun: asyncio.Future[None] = loop.create_future()
        self.unwanted: asyncio.Future[None] = loop.create_future()

    @property
    def open_output(self) -> bool:
        """Whether something may still write to it."""
        return not (self.stdout.closed and self.stderr.closed)

    async def wait(self) -> Ended:
        """Its end; the run itself goes on when who waits is cancelled."""
        return await asyncio.shield(self.task)

    async def wait_begun(self) -> None:
        """Until its turn has come; raises what kept it from that."""
        await asyncio.wait((self.has_begun, self.task), return_when=asyncio.FIRST_COMPLETED)
        if not self.has_begun.done():
            await self.task

    def forget(self) -> None:
        """Let go of its output."""
        for log in (self.stdout, self.stderr):
            with contextlib.suppress(OSError):
                log.abandon()

    async def give_up(self) -> None:
        """Interrupt it, or take it out of the queue; until it is over."""
        if not self.has_begun.done():
            self.task.cancel()
        elif not self.unwanted.done():
            self.unwanted.set_result(None)
        await asyncio.shield(asyncio.wait([self.task]))


class Slot:
    """One name: the shell that has it now, and who waits for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.who = caller()
        """Who was the first to ask for it."""
        self.shell: KeptShell | None = None
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.given = 0
        self.generation = 0
        """Counts stops and restarts: who waited for an earlier one is not to run in a later one."""
        self.runs: dict[int, Run] = {}

    @property
    def alive(self) -> bool:
        """Whether there is a shell that takes commands."""
        return self.shell is not None and self.shell.alive

    @property
    def held(self) -> int:
        """Commands that are over and whose output something in the background still holds open."""
        return sum(1 for each in self.runs.values() if each.ended and each.open_output)

    def record(self) -> ShellRecord:
        """For a list."""
        return ShellRecord(
            name=self.name,
            process_id=self.shell.process.id if self.shell else "",
            running=self.alive,
            busy=self.turn.locked(),
            waiting=self.waiting,
            commands=self.given,
            cwd=self.shell.cwd if self.shell and self.alive else "",
        )


def refuse(request: Shell, limits: Limits) -> None:
    """What no shell is to be asked; raises InvalidRequest or TooLarge."""
    if not request.command.strip():
        raise InvalidRequest("the command is empty", field="command")
    if "\0" in request.command:
        raise InvalidRequest("the command holds a NUL character", field="command")
    if len(request.command.encode()) > limits.max_shell_command_bytes:
        raise TooLarge(
            f"the command has more than {limits.max_shell_command_bytes} bytes; write it to a file "
            "and source that",
            limit="maxShellCommandBytes",
            value=limits.max_shell_command_bytes,
        )
    if request.timeout_ms is not None and request.timeout_ms <= 0:
        raise InvalidRequest("'timeoutMs' must be above 0; leave it out for the default", field="timeoutMs")
    if request.max_output_bytes is not None and request.max_output_bytes < 0:
        raise InvalidRequest("'maxOutputBytes' must be 0 or more", field="maxOutputBytes")
