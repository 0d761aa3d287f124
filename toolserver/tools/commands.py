"""command, attach."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from protocol.errors import Conflict, InvalidRequest
from protocol.limits import Limits
from protocol.messages.base import Encoding
from protocol.messages.commands import (
    Attach,
    Command,
    CommandAnswer,
    Started,
)
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.call import Call
from toolserver.tools.follow import follow, text_of, whole_characters
from toolserver.tools.shell import command_argv, resolved

_CONTINUATIONS = bytes(range(0x80, 0xC0))
"""Bytes that go on with a character of UTF-8 and begin none."""


class Commands:
    """The handlers."""

    def __init__(self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits) -> None:
        self._table = table
        self._disk = disk
        self._env = env
        self._limits = limits
        self._clocks: dict[Process, asyncio.Task[None]] = {}

    async def command(self, request: Command, call: Call) -> CommandAnswer:
        """Start it, or find the run that has this ``commandId`` already; then follow it to its end."""
        process = self._running_already(request) or await self._start(request)
        if request.background:
            await call.emit(Started(process_id=process.id, pid=process.pid))
            return self._answer(process, (0, 0), request.encoding, request.max_output_bytes)
        try:
            return await self._followed(process, call, (0, 0), request.encoding, request.max_output_bytes)
        except asyncio.CancelledError:
            if not call.abandoned:
                await asyncio.shield(self._table.stop(process))
            raise

    async def attach(self, request: Attach, call: Call) -> CommandAnswer:
        """Follow a command from the offsets on."""
        if min(request.from_offset, request.from_stderr_offset) < 0:
            raise InvalidRequest("an offset must be 0 or more", field="fromOffset")
        process = self._table.get(request.process_id)
        offsets = request.from_offset, request.from_stderr_offset
        return await self._followed(process, call, offsets, request.encoding, request.max_output_bytes)

    def _running_already(self, request: Command) -> Process | None:
        if request.command_id is None:
            return None
        if not 0 < len(request.command_id) <= 128:
            raise InvalidRequest("'commandId' must have 1 to 128 characters", field="commandId")
        process = self._table.find(request.command_id)
        if process is not None and process.asked not in (None, _asked(request)):
            raise Conflict(
                f"commandId {request.command_id!r} was given to another command; take a new one",
                command_id=request.command_id,
            )
        return process

    async def _start(self, request: Command) -> Process:
        timeout_ms = self._timeout_ms(request)
        if request.pty is not None and not (1 <= request.pty.cols <= 1000 and 1 <= request.pty.rows <= 1000):
            raise InvalidRequest("a terminal has 1 to 1000 columns and rows", field="pty")
        env = {**self._env, **request.env}
        path = self._disk.path(request.cwd)
        argv, cwd = await asyncio.to_thread(self._looked_up, request, path, env)
        # Another request of the same commandId may have started it while the directory was looked up.
        process = self._running_already(request) or self._table.start(
            argv,
            cwd=cwd,
            env=env,
            stdin=None if request.stdin is None else request.stdin.encode(),
            pty=None if request.pty is None else (request.pty.cols, request.pty.rows),
            id=request.command_id,
            shown_cwd=path,
        )
        process.asked = _asked(request)
        if timeout_ms is not None and process.timeout_ms is None:
            self._set_clock(process, timeout_ms)
        return process

    def _looked_up(
        self, request: Command, path: WorkspacePath, env: Mapping[str, str]
    ) -> tuple[list[str], str]:
        """What to run and where; blocks, for a PATH may lead over slow disks."""
        argv = command_argv(request, env)
        cwd = self._disk.directory(path)
        return resolved(argv, env, cwd), cwd

    def _timeout_ms(self, request: Command) -> int | None:
        if request.timeout_ms is not None and request.timeout_ms <= 0:
            raise InvalidRequest(
                "'timeoutMs' must be above 0; leave it out for the default", field="timeoutMs"
            )
        if request.timeout_ms is None and not request.background:
            return self._limits.command_timeout_ms
        return request.timeout_ms

    def _set_clock(self, process: Process, timeout_ms: int) -> None:
        """The clock belongs to the process, not to the request that started it."""
        process.timeout_ms = timeout_ms
        clock = asyncio.create_task(self._end_in_time(process, timeout_ms))
        self._clocks[process] = clock
        clock.add_done_callback(lambda _: self._clocks.pop(process, None))

    async def _end_in_time(self, process: Process, timeout_ms: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await process.wait()
        if process.running:
            process.timed_out_ms = timeout_ms
            _, process.survivors = await self._table.stop(process)

    async def close(self) -> None:
        """Stop the clocks."""
        clocks = list(self._clocks.values())
        for clock in clocks:
            clock.cancel()
        await asyncio.gather(*clocks, return_exceptions=True)

    async def _followed(
        self,
        process: Process,
        call: Call,
        offsets: tuple[int, int],
        encoding: Encoding,
        max_bytes: int | None,
    ) -> CommandAnswer:
        await call.emit(Started(process_id=process.id, pid=process.pid))
        if call.streaming:
            await follow(process, call, offsets, encoding)
        await process.wait()
        if process.timed_out_ms is not None and process in self._clocks:
            # Its clock still ends what it started: the answer is not to come before that is over.
            await asyncio.wait([self._clocks[process]])
        return self._answer(process, offsets, encoding, max_bytes)

    def _answer(
        self, process: Process, offsets: tuple[int, int], encoding: Encoding, max_bytes: int | None
    ) -> CommandAnswer:
        limit = self._limits.max_output_bytes
        limit = limit if max_bytes is None else max(0, min(max_bytes, limit))
        stdout, out_omitted = _shown(process.stdout, offsets[0], limit, encoding)
        stderr, err_omitted = _shown(process.stderr, offsets[1], limit, encoding)
        end = process.exit
        return CommandAnswer(
            process_id=process.id,
            running=process.running,
            exit_code=end.code if end else None,
            signal=end.signal if end else None,
            stdout=stdout,
            stderr=stderr,
            stdout_bytes=process.stdout.end,
            stderr_bytes=process.stderr.end,
            omitted_bytes=out_omitted + err_omitted,
            truncated=bool(out_omitted + err_omitted),
            timed_out=process.timed_out_ms is not None,
            timeout_ms=process.timeout_ms,
            duration_ms=round(process.duration_ms, 3),
            survivors=process.survivors,
        )


def _asked(request: Command) -> tuple[object, ...]:
    """What makes two requests ask for the same run."""
    return request.command, tuple(request.argv or ()), request.cwd


def _shown(log: OutputLog, start: int, limit: int, encoding: Encoding) -> tuple[str, int]:
    """Head and tail for an answer, with a line between them that tells what is left out."""
    head, tail, omitted = log.ends(limit, start)
    if not omitted or encoding is Encoding.BASE64:
        return text_of(head + tail, encoding), omitted
    # Cut between characters; what a cut character had is left out with the rest.
    whole, late = head[: whole_characters(head)], tail.lstrip(_CONTINUATIONS)
    omitted += len(head) - len(whole) + len(tail) - len(late)
    head, tail = whole, late
    note = f"\n[… {omitted} bytes left out; 'attach' gives them …]\n"
    return text_of(head, encoding) + note + text_of(tail, encoding), omitted
