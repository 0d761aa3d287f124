"""dev_start, dev_stop, dev_status, dev_logs: one dev server, with a life of its own.

Ready means that the port answered, and that a process of ours is the one that listens there; not that
some tool printed a URL.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from protocol.errors import Conflict, DevServerFailed, InvalidRequest, NotFound
from protocol.limits import Limits
from protocol.messages.base import Encoding
from protocol.messages.devserver import (
    DevLogs,
    DevLogsAnswer,
    DevStart,
    DevState,
    DevStatus,
    DevStatusAnswer,
    DevStop,
    Readiness,
)
from protocol.paths import ROOT
from protocol.templates import StaticSite, dev_command, filled, probe_kinds
from toolserver.system import ports
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.call import Call
from toolserver.tools.devlife import DevEvent, after
from toolserver.tools.follow import follow
from toolserver.tools.install import as_log, error_line, last_lines
from toolserver.tools.project import look
from toolserver.tools.shell import dev_environment, shell_argv

_PAUSE_SECONDS = 0.05
"""Between two looks at whether it answers: a page is seen at most this late."""
_MAX_LOG_BYTES = 1024 * 1024


class DevServer:
    """The handlers, and the one dev server of the workspace."""

    def __init__(
        self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits, host: str, port: int
    ) -> None:
        self._table = table
        self._disk = disk
        self._env = dev_environment(env)
        self._limits = limits
        self._host = host
        self._default_port = port
        self._port = port
        self._state = DevState.DOWN
        self._since = datetime.now(UTC)
        self._command: str | None = None
        self._process: Process | None = None
        self._last: DevStart | None = None
        self._deciding = asyncio.Lock()
        self._getting_ready: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def state(self) -> DevState:
        """Now."""
        return self._state

    @property
    def port(self) -> int:
        """Where it listens, or would."""
        return self._port

    @property
    def process_id(self) -> str | None:
        """Of its last run."""
        return self._process.id if self._process else None

    async def dev_start(self, request: DevStart, call: Call) -> DevStatusAnswer:
        """Start it, or join the one that runs or is starting; answers once it is ready."""
        check_readiness(request.readiness)
        if request.readiness.file is not None:
            self._disk.path(request.readiness.file.path)
        async with self._deciding:
            if not self.runs_as(request):
                await self._launch(self._meant(request))
        try:
            await self._wait_ready(call)
        except asyncio.CancelledError:
            if not call.abandoned:
                await asyncio.shield(self.end())
            raise
        return self.status()

    def runs_as(self, request: DevStart) -> bool:
        """Whether it runs already, as asked; raises Conflict when it runs with another command."""
        if self._state not in (DevState.STARTING, DevState.READY):
            return False
        asked = self._meant(request)
        if asked.command and filled(asked.command, self._host, self._port_of(asked)) != self._command:
            raise Conflict(
                f"the dev server runs already, with another command ({self._command}); 'dev_stop' it first",
                command=self._command,
            )
        return True

    def _meant(self, request: DevStart) -> DevStart:
        """A request that asks for nothing in particular means the last one that did."""
        return self._last if request == DevStart() and self._last is not None else request

    def _port_of(self, request: DevStart) -> int:
        port = self._default_port if request.port is None else request.port
        if not 1 <= port <= 65535:
            raise InvalidRequest("'port' must be from 1 to 65535", field="port")
        return port

    async def dev_stop(self, request: DevStop, call: Call) -> DevStatusAnswer:
        """Stop it with everything it started."""
        await asyncio.shield(self.end())
        return self.status()

    async def dev_status(self, request: DevStatus, call: Call) -> DevStatusAnswer:
        """How it is."""
        return self.status()

    def dev_status_at_once(self, request: DevStatus) -> DevStatusAnswer:
        """The same."""
        return self.status()

    async def dev_logs(self, request: DevLogs, call: Call) -> DevLogsAnswer:
        """What it printed."""
        process = self._process
        if process is None:
            raise NotFound("no dev server was started yet; 'dev_start' starts one")
        if request.from_offset < 0 or (request.max_bytes is not None and request.max_bytes < 1):
            raise InvalidRequest("'fromOffset' must be 0 or more, 'maxBytes' above 0", field="fromOffset")
        if call.streaming and request.follow:
            await follow(process, as_log(call, "dev_server"), (request.from_offset, 0), Encoding.UTF8)
            return DevLogsAnswer(text="", from_offset=request.from_offset, next_offset=process.stdout.end)
        piece = process.stdout.read(
            request.from_offset, min(request.max_bytes or _MAX_LOG_BYTES, _MAX_LOG_BYTES)
        )
        return DevLogsAnswer(
            text=piece.data.decode(errors="replace"),
            from_offset=piece.offset,
            next_offset=piece.offset + len(piece.data),
        )

    def status(self) -> DevStatusAnswer:
        """The answer of all of them."""
        process = self._process
        end = process.exit if process else None
        return DevStatusAnswer(
            state=self._state,
            port=self._port,
            url=f"http://{self._host}:{self._port}/" if self._state is DevState.READY else None,
            pid=process.pid if process and process.running else None,
            process_id=process.id if process else None,
            command=self._command,
            exit_code=end.code if end and self._state is DevState.CRASHED else None,
            since=self._since.isoformat(),
        )

    def note(self, event: DevEvent) -> None:
        """Let something happen to it."""
        state = after(self._state, event)
        if state is not self._state:
            self._state, self._since = state, datetime.now(UTC)

    async def close(self) -> None:
        """End the tasks; the program itself ends with all others."""
        tasks = [task for task in (self._getting_ready, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wanted(self, request: DevStart) -> bool:
        """Whether there is a dev server to start: asked for, or found in the workspace."""
        command = self._meant(request).command
        if command is not None:
            return bool(command.strip())
        project = await look(self._disk)
        return dev_command(project.package, project.names) is not None

    async def _plan(self, request: DevStart, port: int) -> tuple[list[str], str]:
        """What to run, and how it is shown."""
        env = {**self._env, **request.env}
        if request.command is not None and request.command.strip():
            line = filled(request.command, self._host, port)
            return await asyncio.to_thread(shell_argv, line, env), line
        project = await look(self._disk)
        found = dev_command(project.package, project.names)
        if found is None:
            raise DevServerFailed(
                "no dev server to start: give 'command', a script 'dev' in package.json, or an index.html"
            )
        if isinstance(found, StaticSite):
            argv = [sys.executable, "-I", "-m", "toolserver.wire.static", self._host, str(port)]
            return argv, f"static site on {self._host}:{port}"
        line = filled(found, self._host, port)
        return await asyncio.to_thread(shell_argv, line, env), line

    async def _launch(self, request: DevStart) -> None:
        if self._state is DevState.STOPPING:
            raise Conflict("the dev server is stopping; ask again in a moment")
        port = self._port_of(request)
        argv, command = await self._plan(request, port)
        self.note(DevEvent.START)
        self._port, self._command, self._last = port, command, request
        try:
            if self._process is not None:
                # Of a run that crashed a child may be left, and hold the port.
                await self._table.stop(self._process)
            await self._refuse_taken(port)
            env = {**self._env, "HOST": self._host, "PORT": str(port), "BROWSER": "none", **request.env}
            cwd = await asyncio.to_thread(self._disk.directory, ROOT)
            process = self._table.start(argv, cwd=cwd, env=env, merged=True)
        except BaseException:
            self.note(DevEvent.EXITED)
            self.note(DevEvent.STOP)
            raise
        self._process = process
        self._watching = asyncio.create_task(self._watch(process))
        self._getting_ready = asyncio.create_task(self._get_ready(process, request.readiness))
        # Its error is raised to whoever waits; when nobody does any more, the state tells enough.
        self._getting_ready.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _refuse_taken(self, port: int) -> None:
        if await asyncio.to_thread(ports.is_free, self._host, port):
            return
        pid = await asyncio.to_thread(ports.owner, port)
        who = f"process {pid}" if pid else "another program"
        raise DevServerFailed(
            f"port {port} is taken by {who}; stop it, or give another 'port'", port=port, pid=pid
        )

    async def _watch(self, process: Process) -> None:
        await process.wait()
        if self._process is process:
            self.note(DevEvent.EXITED)

    async def _wait_ready(self, call: Call) -> None:
        """Until it is ready or has failed, its output told on the way."""
        assert self._getting_ready is not None
        assert self._process is not None
        telling = asyncio.create_task(
            follow(self._process, as_log(call, "dev_server"), (0, 0), Encoding.UTF8)
            if call.streaming
            else _nothing()
        )
        ready = self._getting_ready
        try:
            await asyncio.shield(ready)
        except asyncio.CancelledError:
            if ready.cancelled() and not _is_being_cancelled():
                raise DevServerFailed("the dev server was stopped before it was ready") from None
            raise
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _get_ready(self, process: Process, readiness: Readiness) -> None:
        timeout_ms = readiness.timeout_ms or self._limits.ready_timeout_ms
        probe = self._probe(process, readiness)
        try:
            # Around the question too: one that hangs must not outlast the clock.
            async with asyncio.timeout(timeout_ms / 1000):
                while not await probe() and process.running:  # noqa: ASYNC110 - another program is asked
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            raise await self._too_late(process, timeout_ms) from None
        if not process.running:
            raise await self._exited(process)
        self.note(DevEvent.ANSWERED)

    def _probe(self, process: Process, readiness: Readiness) -> Callable[[], Awaitable[bool]]:
        """The question to ask until the answer is yes."""
        if readiness.log is not None:
            return _log_probe(process, re.compile(readiness.log.pattern))
        if readiness.file is not None:
            path = self._disk.path(readiness.file.path)
            return lambda: asyncio.to_thread(self._disk.exists, path)
        if readiness.command is not None:
            line = readiness.command.command
            return lambda: self._succeeds(line)
        http = readiness.http
        if readiness.port:
            return lambda: self._listens(process)
        return lambda: self._answers(process, http.path if http else "/", http.status if http else None)

    async def _listens(self, process: Process) -> bool:
        if not await ports.accepts(self._host, self._port):
            return False
        return await self._is_ours(process)

    async def _answers(self, process: Process, path: str, wanted: int | None) -> bool:
        status = await ports.http_status(self._host, self._port, path)
        if status is None or (status != wanted if wanted else status >= 500):
            return False
        return await self._is_ours(process)

    async def _is_ours(self, process: Process) -> bool:
        family = await asyncio.to_thread(process.family)
        return await asyncio.to_thread(ports.listens, family, self._port)

    async def _succeeds(self, line: str) -> bool:
        cwd = await asyncio.to_thread(self._disk.directory, ROOT)
        env = {**self._env, "HOST": self._host, "PORT": str(self._port)}
        argv = await asyncio.to_thread(shell_argv, line, env)
        process = self._table.start(argv, cwd=cwd, env=env, merged=True)
        try:
            return (await process.wait()).code == 0
        finally:
            if process.running:
                await asyncio.shield(self._table.stop(process, grace_ms=0))
            self._table.forget(process)

    async def _exited(self, process: Process) -> DevServerFailed:
        end = await process.wait()
        lines = last_lines(process)
        return DevServerFailed(
            f"the dev server ended with exit code {end.code} before it was ready: {error_line(lines)}",
            exit_code=end.code,
            output=lines,
        )

    async def _too_late(self, process: Process, timeout_ms: int) -> DevServerFailed:
        family = await asyncio.to_thread(process.family)
        elsewhere = sorted(await asyncio.to_thread(ports.ports_of, family))
        hint = f"; it listens on {', '.join(map(str, elsewhere))}" if elsewhere else ""
        await self.end()
        return DevServerFailed(
            f"the dev server was not ready within {timeout_ms} ms (readiness.timeoutMs){hint}; it is stopped",
            clock="readiness.timeoutMs",
            value=timeout_ms,
            listening=elsewhere,
            output=last_lines(process),
        )

    async def leave(self) -> None:
        """The content that it belongs to goes away: so does it, and what was asked of it."""
        await self.end()
        self._last = None

    async def end(self) -> None:
        """End it with everything it started; nothing happens when it is down."""
        # One decision after the other: a start under way would otherwise begin what was just stopped.
        async with self._deciding:
            await self._end()

    async def _end(self) -> None:
        self.note(DevEvent.STOP)
        process, ready = self._process, self._getting_ready
        if process is not None and (process.running or not process.stdout.closed):
            await self._table.stop(process)
        self.note(DevEvent.EXITED)
        if ready is not None and ready is not asyncio.current_task():
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)


def check_readiness(readiness: Readiness) -> None:
    """Raise InvalidRequest when a readiness cannot be waited for.

    >>> check_readiness(Readiness(port=True))
    """
    if len(kinds := probe_kinds(readiness)) > 1:
        raise InvalidRequest(f"'readiness' takes one kind, not {' and '.join(kinds)}", field="readiness")
    if readiness.timeout_ms is not None and readiness.timeout_ms <= 0:
        raise InvalidRequest("'readiness.timeoutMs' must be above 0", field="readiness.timeoutMs")
    if readiness.http is not None and not re.fullmatch(r"/[^\s]*", readiness.http.path):
        raise InvalidRequest(
            "'readiness.http.path' begins with / and has no spaces", field="readiness.http.path"
        )
    try:
        re.compile(readiness.log.pattern if readiness.log else "")
    except re.error as error:
        raise InvalidRequest(
            f"'readiness.log.pattern' is no regular expression: {error}", field="readiness.log.pattern"
        ) from None


def _log_probe(process: Process, pattern: re.Pattern[str]) -> Callable[[], Awaitable[bool]]:
    """Asks whether a line matched; every line is looked at once, the last one again while it grows."""
    position, rest = 0, b""

    async def probe() -> bool:
        nonlocal position, rest
        piece = process.stdout.read(position, _MAX_LOG_BYTES)
        position = piece.offset + len(piece.data)
        *lines, rest = (rest + piece.data).split(b"\n")
        return any(pattern.search(line.decode(errors="replace").rstrip("\r")) for line in [*lines, rest])

    return probe


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _nothing() -> None:
    """For callers that take no events."""
