"""dev_start, dev_stop: one dev server, with a life of its own.

Ready means that the port answered, and that a process of ours is the one that listens there; not that
some tool printed a URL. One that ends by itself is started again, for as long as that helps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from protocol.errors import Conflict, DevServerFailed, InvalidRequest, ToolError
from protocol.limits import Limits
from protocol.messages.devserver import DevStart, DevState, DevStatusAnswer, DevStop, Restart
from protocol.templates import filled
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.threads import finished
from toolserver.tools.call import Call
from toolserver.tools.devlaunch import Launching, check_hosts
from toolserver.tools.devlife import DevEvent, Life, Observer
from toolserver.tools.devlogs import DevLog
from toolserver.tools.install import last_lines
from toolserver.tools.readiness import Readying, ended, stopped, told, too_late
from toolserver.tools.restarts import Tally
from toolserver.tools.shell import dev_environment


class DevServer:
    """The handlers, and the one dev server of the workspace."""

    def __init__(
        self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits, host: str, port: int
    ) -> None:
        self.observer: Observer | None = None
        self.before_stop: Callable[[], Awaitable[None]] | None = None
        """Ends what would bring it up."""
        self._table = table
        self._limits = limits
        self._host = host
        self._default_port = port
        self._port = port
        env = dev_environment(env)
        self._launching = Launching(table, disk, env, host)
        self._readying = Readying(table, disk, env, host)
        self.life = Life(limits)
        self._command: str | None = None
        self._process: Process | None = None
        self.log = DevLog()
        self._last: DevStart | None = None
        self._ready_at = 0.0
        self._renewing = False
        self._verdict: str | None = None
        """Why this run was ended, where nobody asked for that."""
        self._remark: str | None = None
        """What went wrong on the way to this run, and did not keep it down."""
        self._ends = 0
        """How often somebody had it end: who was about to start it before that is not to, after it."""
        self._deciding = asyncio.Lock()
        self._getting_ready: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        """Will start it again, or anew."""

    @property
    def state(self) -> DevState:
        """Now."""
        return self.life.state

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
        self.check(request)
        ends = self._ends
        if self._renewing and self._tending is not None:
            # It is being started anew: that is what was asked for.
            await asyncio.wait([self._tending])
        async with self._deciding:
            if ends != self._ends:
                raise stopped()
            if not self.runs_as(request):
                await self._let_be()
                await self._launch(self._meant(request))
        try:
            await self._wait_ready(call)
        except asyncio.CancelledError:
            if not call.abandoned:
                await asyncio.shield(self.end())
            raise
        return self.status()

    def check(self, request: DevStart) -> None:
        """Raise InvalidRequest, OutsideWorkspace for what cannot be waited for, or looked after."""
        self._readying.check(request.readiness)
        check_hosts(request.allowed_hosts)
        if self.observer is not None:
            self.observer.check(request)

    def runs_as(self, request: DevStart) -> bool:
        """Whether it runs already, as asked; raises Conflict when it runs with another command."""
        if self.state not in (DevState.STARTING, DevState.READY):
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
        """Stop it with everything it started; it is not started again."""
        if self.before_stop is not None:
            await self.before_stop()
        await asyncio.shield(self.end())
        return self.status()

    async def runs_on(self) -> bool:
        """Once it runs again; False when it will not by itself."""
        process = self._process
        while self._process is process:
            ended = self.state in (DevState.DOWN, DevState.CRASHED)
            if ended and self.life.next_try is None and not self._renewing:
                return False
            await self.life.changes.news()
        return True

    def status(self) -> DevStatusAnswer:
        """The answer of all of them."""
        process = self._process
        end = process.exit if process else None
        return DevStatusAnswer(
            state=self.state,
            port=self._port,
            url=f"http://{self._host}:{self._port}/" if self.state is DevState.READY else None,
            pid=process.pid if process and process.running else None,
            process_id=process.id if process else None,
            command=self._command,
            exit_code=end.code if end and self.state is DevState.CRASHED else None,
            since=self.life.since.isoformat(),
            reason=self.life.reason,
            restarts=self.life.tally.restarts,
            next_try=self.life.next_try,
            next_event=self.life.changes.next,
        )

    def note(self, event: DevEvent, reason: str | None = None) -> None:
        """Let something happen to it."""
        self.life.note(event, reason)

    async def close(self) -> None:
        """End the tasks; the program itself ends with all others."""
        tasks = [each for each in (self._tending, self._getting_ready, self._watching) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wanted(self, request: DevStart) -> bool:
        """Whether there is a dev server to start: asked for, or found in the workspace."""
        command = self._meant(request).command
        return bool(command.strip()) if command is not None else await self._launching.found()

    async def _launch(self, request: DevStart, again: bool = False) -> None:
        """Start it; whoever calls decides, and has the lock. ``again``: nobody has asked for it."""
        port = self._port_of(request)
        argv, command = await self._launching.plan(request, port)
        if not again:
            self.life.tally, self._remark = Tally(), None
        self.life.next_try = None
        self.note(DevEvent.START)
        self._port, self._command, self._last = port, command, request
        try:
            if self._process is not None:
                # Of a run that crashed a child may be left, and hold the port.
                await self._table.stop(self._process)
            if self.observer is not None:
                await self.observer.launching(request)
            process = await self._launching.run(argv, request, port)
        except BaseException:
            if not again:
                self.note(DevEvent.EXITED)
                self.note(DevEvent.STOP)
            raise
        (self.log.go_on if again else self.log.begin)(process.stdout)
        self._process, self._verdict = process, None
        self.life.changes.wake()  # who follows the output waits for another run
        self._watching = asyncio.create_task(self._watch(process, again))
        self._getting_ready = asyncio.create_task(self._get_ready(process, request, again))
        # Its error is raised to whoever waits; when nobody does any more, the state tells enough.
        self._getting_ready.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _watch(self, process: Process, again: bool) -> None:
        end = await process.wait()
        if self._process is not process or self.state is DevState.STOPPING:
            return  # whoever stops it tells it
        lines = last_lines(process)
        what = self._verdict or f"it ended with exit code {end.code}: {told(lines)}"
        was_ready = self.state is DevState.READY
        if was_ready or (again and self.state is DevState.STARTING):
            self._failed(what, (time.monotonic() - self._ready_at) * 1000 if was_ready else 0, process)
        else:
            self.life.note(DevEvent.EXITED, what, exit_code=end.code, output=lines)

    def _failed(self, what: str, ready_ms: float = 0, process: Process | None = None) -> None:
        """It ended by itself, or could not be started again: what comes of it."""
        restart = self._last is not None and self._last.restart is Restart.ON_FAILURE
        code = process.exit.code if process is not None and process.exit is not None else None
        output = [] if process is None else last_lines(process)
        delay_ms = self.life.failed(what, ready_ms, restart, code, output)
        if delay_ms is not None:
            self._tending = asyncio.create_task(self._start_again(delay_ms))

    async def _start_again(self, delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)
        await self._launch_again()

    async def _launch_again(self) -> None:
        async with self._deciding:
            if self._last is None:
                return
            self.life.tally = self.life.tally.started_again()
            try:
                await self._launch(self._last, again=True)
            except (ToolError, OSError) as error:
                self.life.next_try = None
                self.note(DevEvent.START)  # where it failed before that: the table has no other way
                self._failed(str(error))

    def renew(self, why: str, install: Callable[[], Awaitable[str]] | None) -> bool:
        """Start it anew for ``why``, after ``install``, which gives what went wrong; whether that begins."""
        if self._renewing or self.state not in (DevState.READY, DevState.CRASHED):
            return False
        if self._tending is not None:
            self._tending.cancel()
        self._renewing = True
        self._tending = asyncio.create_task(self._renew(why, install))
        return True

    async def _renew(self, why: str, install: Callable[[], Awaitable[str]] | None) -> None:
        try:
            async with self._deciding:
                await self._stop(why)
            self._remark = None
            if install is not None:
                self.note(DevEvent.INSTALL, why)
                try:
                    self._remark = await install() or None
                finally:
                    self.note(DevEvent.INSTALLED, self._remark or why)
            await self._launch_again()
        finally:
            self._renewing = False
            self.life.changes.wake()

    async def _wait_ready(self, call: Call) -> None:
        """Until it is ready or has failed, its output told on the way."""
        assert self._getting_ready is not None
        telling = asyncio.create_task(
            self.log.follow(call, self.log.begin_of_run, self.runs_on) if call.streaming else asyncio.sleep(0)
        )
        ready = self._getting_ready
        try:
            await asyncio.shield(ready)
        except asyncio.CancelledError:
            if ready.cancelled() and not _is_being_cancelled():
                raise stopped() from None
            raise
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _get_ready(self, process: Process, request: DevStart, again: bool) -> None:
        timeout_ms = request.readiness.timeout_ms or self._limits.ready_timeout_ms
        try:
            await self._readying.wait(process, request.readiness, self._port, timeout_ms)
        except TimeoutError:
            error = await too_late(process, timeout_ms, self._host, self._port)
            self._verdict = error.message
            # One that nobody waits for has failed, and may be started again: its end tells so.
            await (self._table.stop(process) if again else self.end())
            raise error from None
        except DevServerFailed as error:
            if process.running:
                self._verdict = error.message
            # Of one that put itself into the background nothing is to be left.
            await self._table.stop(process)
            raise
        if self.observer is not None:
            await self.observer.answered(request)
            if not process.running:
                raise await ended(process)
        self._ready_at = time.monotonic()
        self.note(DevEvent.ANSWERED, self._remark)
        if self.observer is not None:
            self.observer.ready(request)

    @asynccontextmanager
    async def leaving(self) -> AsyncIterator[None]:
        """The content that it belongs to goes away: so does it, and what was asked of it. Starts wait."""
        self._ends += 1
        async with self._deciding:
            # Whole: who is cancelled in the midst of it would leave it as stopping.
            await finished(self._let_be_and_stop())
            self._last = None
            yield

    async def end(self) -> None:
        """End it with everything it started; nothing happens when it is down."""
        self._ends += 1
        # One decision after the other: a start under way would otherwise begin what was just stopped.
        async with self._deciding:
            await self._let_be_and_stop()

    async def _let_be_and_stop(self) -> None:
        await self._let_be()
        await self._stop()

    async def _let_be(self) -> None:
        """Nobody is to start it again. That one waits for the lock, or sleeps, or installs."""
        tending, self._tending, self.life.next_try = self._tending, None, None
        if tending is not None and tending is not asyncio.current_task():
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)

    async def _stop(self, why: str | None = None) -> None:
        self.note(DevEvent.STOP, why)
        process, ready = self._process, self._getting_ready
        if ready is not None and ready is not asyncio.current_task():
            # First, else it tells of an end that was asked for as if it were the program's own.
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        if process is not None and (process.running or not process.stdout.closed):
            await self._table.stop(process)
        self.note(DevEvent.EXITED, why)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
