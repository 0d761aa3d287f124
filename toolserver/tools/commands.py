"""command, attach, output, send_input: a run has one name, one clock and one record, whoever asks for it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from protocol.codec import encode
from protocol.errors import Conflict, InvalidRequest
from protocol.limits import Limits
from protocol.messages.base import Encoding
from protocol.messages.commands import (
    Attach,
    Command,
    CommandAnswer,
    Output,
    OutputAnswer,
    SendInput,
    SendInputAnswer,
    Started,
    WhenSlow,
)
from protocol.paths import ROOT, WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.programs import Programs
from toolserver.tools.answers import answer_of, page_of
from toolserver.tools.call import Call
from toolserver.tools.follow import Pace, follow
from toolserver.tools.shell import argv_of_shell, command_environment, refuse_no_command
from toolserver.tools.text import decoded

_SHELL = "bash"
"""For a command line; sh where there is none."""
_TIDY_SECONDS = 60.0
"""Between two looks for records that are too old; a minute more or less is nothing to a day."""


class View(NamedTuple):
    """What a caller wants to be told of a run."""

    offsets: tuple[int, int] = (0, 0)
    """First bytes of (stdout, stderr)."""
    encoding: Encoding = Encoding.UTF8
    max_bytes: int | None = None
    when_slow: WhenSlow = WhenSlow.SPILL
    yield_ms: int | None = None
    raw: bool = False


def _view_of(request: Command | Attach, offsets: tuple[int, int]) -> View:
    return View(
        offsets,
        request.encoding,
        request.max_output_bytes,
        request.when_slow,
        request.yield_ms,
        request.raw_events,
    )


class Commands:
    """The handlers."""

    def __init__(self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits) -> None:
        self._table = table
        self._disk = disk
        self._env = env
        self._limits = limits
        self._root = disk.directory(ROOT)
        self._starting = asyncio.Lock()
        """One after the other, as the system starts them: a name is looked for and taken in one turn."""
        self._programs = Programs()
        self._ending: dict[Process, asyncio.Task[None]] = {}
        """By their clocks."""
        self._tidying: asyncio.Task[None] | None = None

    async def command(self, request: Command, call: Call) -> CommandAnswer:
        """Start it, or find the run that has this ``commandId`` already; then follow it to its end."""
        _refuse_negative(yieldMs=request.yield_ms, maxOutputBytes=request.max_output_bytes)
        process = self._running_already(request) or await self._start(request)
        view = _view_of(request, (0, 0))
        if request.background:
            await call.emit(Started(process_id=process.id, pid=process.pid))
            return self._answer(process, view)
        try:
            return await self._followed(process, call, view)
        except asyncio.CancelledError:
            if not call.abandoned:
                await asyncio.shield(self._table.stop(process))
                call.left = _left(process)
            raise

    async def attach(self, request: Attach, call: Call) -> CommandAnswer:
        """Follow a command from the offsets on."""
        offsets = request.from_offset, request.from_stderr_offset
        _refuse_negative(fromOffset=offsets[0], fromStderrOffset=offsets[1], yieldMs=request.yield_ms)
        _refuse_negative(maxOutputBytes=request.max_output_bytes)
        view = _view_of(request, offsets)
        return await self._followed(self._table.get(request.process_id), call, view)

    async def output(self, request: Output, call: Call) -> OutputAnswer:
        """A page of what is kept."""
        _refuse_negative(fromOffset=request.from_offset)
        limit = self._limits.max_output_bytes
        if request.max_bytes is not None and request.max_bytes < 4:
            raise InvalidRequest("'maxBytes' must be 4 or more, so that a character fits", field="maxBytes")
        process = self._table.get(request.process_id)
        limit = min(request.max_bytes or limit, limit)
        return page_of(process, request.stream, request.from_offset, limit, request.encoding)

    async def send_input(self, request: SendInput, call: Call) -> SendInputAnswer:
        """Feed it, as fast as it reads."""
        _refuse_negative(offset=request.offset, yieldMs=request.yield_ms)
        process = self._table.get(request.process_id)
        if process.input is None:
            raise Conflict(
                f"the standard input of {process.id!r} is not open; start it with 'stdinOpen' or 'pty'",
                process_id=process.id,
            )
        data = decoded(request.data, request.encoding, "data")
        wait_ms = self._limits.input_wait_ms if request.yield_ms is None else request.yield_ms
        taken = await process.input.feed(data, request.offset, request.eof, wait_ms / 1000)
        return SendInputAnswer(
            process_id=process.id,
            taken_bytes=taken,
            next_offset=process.input.taken,
            queued_bytes=process.input.queued,
            open=process.input.open,
        )

    async def close(self) -> None:
        """Stop what goes on in the background."""
        tasks = [*self._ending.values(), *([self._tidying] if self._tidying else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _running_already(self, request: Command) -> Process | None:
        if request.command_id is None:
            return None
        if not 0 < len(request.command_id) <= 128:
            raise InvalidRequest("'commandId' must have 1 to 128 characters", field="commandId")
        if "\0" in request.command_id:
            raise InvalidRequest("'commandId' holds a NUL character", field="commandId")
        process = self._table.find(request.command_id)
        if process is not None and process.asked != asked(request):
            raise Conflict(
                f"commandId {request.command_id!r} was given to another command; take a new one",
                command_id=request.command_id,
            )
        return process

    async def _start(self, request: Command) -> Process:
        timeout_ms, clock = self._clock_of(request)
        if request.pty is not None and not (1 <= request.pty.cols <= 1000 and 1 <= request.pty.rows <= 1000):
            raise InvalidRequest("a terminal has 1 to 1000 columns and rows", field="pty")
        stdin = decoded(request.stdin or "", request.stdin_encoding, "stdin")
        env = command_environment(request, self._env)
        path = self._disk.path(request.cwd)
        refuse_no_command(request)
        found = self._at_hand(request, path, env)
        if found is None:
            found = await asyncio.to_thread(self._looked_up, request, path, env)
        argv, cwd = found
        # Another request of the same commandId may have started it while the directory was looked up.
        async with self._starting:
            if (other := self._running_already(request)) is not None:
                return other
            process = await self._table.start_soon(
                argv,
                cwd=cwd,
                env=env,
                fed=request.stdin_open or bool(stdin),
                pty=None if request.pty is None else (request.pty.cols, request.pty.rows),
                id=request.command_id,
                shown_cwd=path,
                asked=asked(request) if request.command_id else None,
            )
            self._table.give_way(process)
        if process.input is not None:
            process.input.put(stdin)
            if request.pty is None and not request.stdin_open:
                process.input.end()
        if timeout_ms is not None:
            self._set_clock(process, timeout_ms, clock)
        self._tidying = self._tidying or asyncio.create_task(self._tidy())
        return process

    def _at_hand(
        self, request: Command, path: WorkspacePath, env: Mapping[str, str]
    ) -> tuple[list[str], str] | None:
        """What to run and where, without a thread: for a program by its path, or by a name that is known.

        The look at its directory waits for no more than the start, which goes there as well.
        """
        program = request.argv[0] if request.argv else _SHELL
        if "/" not in program:
            found = self._programs.known(program, _places(env))
            if found is None:
                return None
            program = found
        return _argv(request, program), self._root if path == ROOT else self._disk.directory(path)

    def _looked_up(
        self, request: Command, path: WorkspacePath, env: Mapping[str, str]
    ) -> tuple[list[str], str]:
        """The same by a look at the PATH; blocks, for that may lead over slow disks."""
        cwd = self._disk.directory(path)
        name = request.argv[0] if request.argv else _SHELL
        program = self._programs.look_up(name, _places(env), cwd, time.time_ns())
        return _argv(request, program or (name if request.argv else "/bin/sh")), cwd

    def _clock_of(self, request: Command) -> tuple[int | None, str]:
        """Its time limit, and whose that is."""
        if request.timeout_ms is not None and request.timeout_ms <= 0:
            raise InvalidRequest(
                "'timeoutMs' must be above 0; leave it out for the default", field="timeoutMs"
            )
        if request.timeout_ms is None and not request.background and request.yield_ms is None:
            return self._limits.command_timeout_ms, "commandTimeoutMs"
        return request.timeout_ms, "timeoutMs"

    def _set_clock(self, process: Process, timeout_ms: int, name: str) -> None:
        """The clock belongs to the process, not to the request that started it."""
        process.timeout_ms, process.timeout_clock = timeout_ms, name
        clock = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._time_is_over, process)
        process.when_ended(clock.cancel)

    def _time_is_over(self, process: Process) -> None:
        process.timed_out_ms = process.timeout_ms
        self._ending[process] = asyncio.create_task(self._end(process))
        self._ending[process].add_done_callback(lambda _: self._ending.pop(process, None))

    async def _end(self, process: Process) -> None:
        _, process.survivors = await self._table.stop(process)

    async def _tidy(self) -> None:
        """Records also grow old while nothing is started."""
        while True:
            await asyncio.sleep(min(_TIDY_SECONDS, self._limits.max_kept_process_age_ms / 1000))
            self._table.forget_old()

    async def _followed(self, process: Process, call: Call, view: View) -> CommandAnswer:
        await call.emit(Started(process_id=process.id, pid=process.pid))
        with process.stdout.being_read(), process.stderr.being_read():
            if view.yield_ms is None:
                await self._to_its_end(process, call, view)
            else:
                await self._for_a_while(process, call, view, view.yield_ms)
            return self._answer(process, view)

    async def _for_a_while(self, process: Process, call: Call, view: View, yield_ms: int) -> None:
        clock = asyncio.timeout(yield_ms / 1000)
        try:
            async with clock:
                await self._to_its_end(process, call, view)
        except TimeoutError:
            if not clock.expired():
                raise

    async def _to_its_end(self, process: Process, call: Call, view: View) -> None:
        if call.streaming:
            limits = self._limits
            pace = Pace(view.when_slow, limits.max_reader_lag_bytes, limits.reader_patience_ms / 1000)
            await follow(process, call, view.offsets, None if view.raw else view.encoding, pace)
        await process.wait()
        if process in self._ending:
            # Its clock still ends what it started: the answer is not to come before that is over.
            await asyncio.wait([self._ending[process]])

    def _answer(self, process: Process, view: View) -> CommandAnswer:
        limit = self._limits.max_output_bytes
        limit = limit if view.max_bytes is None else min(view.max_bytes, limit)
        return answer_of(process, view.offsets, view.encoding, limit)


def asked(request: Command) -> bytes:
    """What makes two requests ask for the same run: all that the program is given, and no more.

    >>> asked(Command(command="a", timeout_ms=5)) == asked(Command(command="a", background=True))
    True
    >>> asked(Command(command="a")) == asked(Command(command="a", env={"B": "c"}))
    False
    """
    told = msgspec.structs.replace(
        request,
        timeout_ms=None,
        background=False,
        yield_ms=None,
        when_slow=WhenSlow.SPILL,
        raw_events=False,
        encoding=Encoding.UTF8,
        max_output_bytes=None,
        env=dict(sorted(request.env.items())),
    )
    return hashlib.sha256(encode(told)).digest()


def _places(env: Mapping[str, str]) -> str:
    return env.get("PATH", os.defpath)


def _argv(request: Command, program: str) -> list[str]:
    """``program`` in place of its name, or as the shell of the command line."""
    if request.argv:
        return [program, *request.argv[1:]]
    return argv_of_shell(program, request.command or "", request.login)


def _left(process: Process) -> dict[str, Any]:
    """What is there of a command that was cancelled; ``output`` gives what it wrote."""
    return {
        "process_id": process.id,
        "exit_code": process.exit.code if process.exit else None,
        "signal": process.exit.signal if process.exit else None,
        "stdout_bytes": process.stdout.end,
        "stderr_bytes": process.stderr.end,
    }


def _refuse_negative(**values: int | None) -> None:
    for field, value in values.items():
        if value is not None and value < 0:
            raise InvalidRequest(f"{field!r} must be 0 or more", field=field)
