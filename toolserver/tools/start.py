"""start: from an archive to a page that answers, as one request with its stages told.

It belongs to the workspace, not to the socket that it was asked on. Whoever loses that asks for the rest by
the number of an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from protocol.errors import Busy, Cancelled, InvalidRequest, NotFound, ToolError
from protocol.messages.archives import InjectAnswer
from protocol.messages.base import Event, Log
from protocol.messages.devserver import (
    DevStatusAnswer,
    InstallAnswer,
    Progress,
    Start,
    StartAnswer,
    StartEvent,
    Step,
)
from toolserver.tools.archives import Archives
from toolserver.tools.call import Call
from toolserver.tools.devlife import DevEvent
from toolserver.tools.devserver import DevServer
from toolserver.tools.install import Installs
from toolserver.tools.journal import Journal

T = TypeVar("T")

_KEPT_CHARACTERS = 1024 * 1024
"""Of events, for who comes later: an install prints some kilobytes."""
_NOTHING = InstallAnswer(package_manager=None, command=None, duration_ms=0.0)


class _Run:
    """One start, whoever waits for it."""

    def __init__(self, request: Start, first: int) -> None:
        self.request = request
        self.first = first
        """Number of its first event."""
        self.end: int | None = None
        """Number of the first event that is not its own, once it is over."""
        self.since = datetime.now(UTC)
        self.step = Step.EXTRACT
        self.injected: InjectAnswer | None = None
        self.installed = _NOTHING
        self.times: dict[str, float] = {}
        self.task: asyncio.Task[DevStatusAnswer]


class Starts:
    """The handler. It only puts the other families' operations in a row, one row at a time."""

    def __init__(self, archives: Archives, installs: Installs, dev: DevServer) -> None:
        self._archives = archives
        self._installs = installs
        self._dev = dev
        self._events = Journal[StartEvent](_KEPT_CHARACTERS)
        self._run: _Run | None = None
        dev.before_stop = self._stop

    async def start(self, request: Start, call: Call) -> StartAnswer:
        """Begin one, or join the one that is under way; its end, or how far it is."""
        _check(request)
        run, is_mine = self._chosen(request, call)
        begin = run.first if request.from_event is None else request.from_event
        try:
            number = await self._wait(run, begin, request.wait_ms, call)
        except asyncio.CancelledError:
            if is_mine and not call.abandoned:
                await _cancelled(run)
            raise
        return self._answer(run, request, number, call)

    async def close(self) -> None:
        """End the one that is under way."""
        if self._run is not None:
            await _cancelled(self._run)

    async def _stop(self) -> None:
        """The dev server is not wanted any more: nothing is to be installed for it."""
        run = self._run
        if run is not None and run.end is None and run.step is not Step.DEV_SERVER:
            await _cancelled(run)

    def _chosen(self, request: Start, call: Call) -> tuple[_Run, bool]:
        """The start that is meant, and whether it was begun here."""
        run, asked = self._run, msgspec.structs.replace(request, wait_ms=None)
        if request.from_event is not None:
            if run is None:
                raise NotFound("nothing was started yet; 'start' without 'fromEvent' begins")
            return run, False
        if run is not None and run.end is None:
            if run.request == asked:
                return run, False
            raise Busy(
                f"a start is under way in this workspace, at {run.step.value}; "
                f"follow it by 'fromEvent': {run.first}, or 'dev_stop' it",
                step=run.step.value,
                since=run.since.isoformat(),
                from_event=run.first,
            )
        self._dev.check(request.dev)
        return self._begun(asked, call), True

    def _begun(self, request: Start, call: Call) -> _Run:
        run = self._run = _Run(request, self._events.next)

        async def emit(event: Event) -> None:
            if isinstance(event, Progress | Log):
                weight = len(event.text) if isinstance(event, Log) else 1
                self._events.add(msgspec.structs.replace(event, number=self._events.next), weight)

        def over(task: asyncio.Task[DevStatusAnswer]) -> None:
            run.end = self._events.next
            run.request = Start()  # its archive is not to stay in memory
            self._events.wake()
            if not task.cancelled():
                task.exception()  # raised to whoever waits, if anybody does

        run.task = asyncio.create_task(self._all(run, Call(call.request_id, emit, call.admission)))
        run.task.add_done_callback(over)
        return run

    async def _wait(self, run: _Run, number: int, wait_ms: int | None, call: Call) -> int:
        """Until it is over, or for so long, its events told on the way; the number after those."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                while True:
                    for event in self._events.since(number) if call.streaming else ():
                        if run.end is None or event.number is None or event.number < run.end:
                            await call.emit(event)
                            number = (event.number or 0) + 1
                    if run.end is not None:
                        break
                    if number >= self._events.next or not call.streaming:
                        await self._events.news()
        return number

    def _answer(self, run: _Run, request: Start, number: int, call: Call) -> StartAnswer:
        events: list[StartEvent] = []
        end = self._events.next if run.end is None else run.end
        if not call.streaming:
            if request.from_event is not None or request.wait_ms is not None:
                events = [each for each in self._events.since(number) if (each.number or 0) < end]
            number = end
        if run.end is not None and run.task.cancelled():
            raise Cancelled("the start was cancelled")
        return StartAnswer(
            dev=self._dev.status() if run.end is None else run.task.result(),
            install=run.installed,
            files=run.injected.files if run.injected else None,
            durations_ms=run.times,
            running=run.end is None,
            next_event=max(number, run.first),
            events=events,
        )

    async def _all(self, run: _Run, call: Call) -> DevStatusAnswer:
        """Inject (when there is an archive), install, start the dev server."""
        request = run.request
        if request.archive is None and self._dev.runs_as(request.dev):
            # Nothing is installed under its feet.
            for step in (Step.EXTRACT, Step.INSTALL):
                await _tell(call, step, "skipped", "the dev server runs already")
            return await self._dev.dev_start(request.dev, call)
        run.injected = await self._inject(run, call)
        run.installed = await self._install(run, call)
        if not await self._dev.wanted(request.dev):
            await _tell(call, Step.DEV_SERVER, "skipped", "the workspace has no dev server")
            return self._dev.status()
        start = self._dev.dev_start(request.dev, call)
        return await _stage(run, call, Step.DEV_SERVER, "starting the dev server", start)

    async def _inject(self, run: _Run, call: Call) -> InjectAnswer | None:
        request = run.request
        if request.archive is None:
            await _tell(call, Step.EXTRACT, "skipped", "the content is in place")
            return None
        archive = self._archives.inject_bytes(
            request.archive, request.mode, request.digest, call.without_events()
        )
        return await _stage(run, call, Step.EXTRACT, "unpacking", archive)

    async def _install(self, run: _Run, call: Call) -> InstallAnswer:
        self._dev.note(DevEvent.INSTALL)
        try:
            install = self._installs.install(run.request.install, call)
            return await _stage(run, call, Step.INSTALL, "installing packages", install)
        finally:
            self._dev.note(DevEvent.INSTALLED)


def _check(request: Start) -> None:
    """Raise InvalidRequest for what cannot be meant.

    >>> _check(Start(from_event=3, wait_ms=100))
    """
    if request.wait_ms is not None and request.wait_ms < 0:
        raise InvalidRequest("'waitMs' is 0 or more; leave it out to wait for the end", field="waitMs")
    if request.from_event is not None and request != Start(
        from_event=request.from_event, wait_ms=request.wait_ms
    ):
        raise InvalidRequest(
            "'fromEvent' follows a start that was begun before: nothing but 'waitMs' goes with it",
            field="fromEvent",
        )


async def _cancelled(run: _Run) -> None:
    run.task.cancel()
    await asyncio.wait([run.task])


async def _stage(run: _Run, call: Call, step: Step, message: str, work: Awaitable[T]) -> T:
    run.step = step
    await _tell(call, step, "started", message)
    begun = time.monotonic()
    try:
        result = await work
    except ToolError as error:
        await _tell(call, step, "failed", error.message, _ms_since(begun))
        raise
    run.times[step.value] = _ms_since(begun)
    await _tell(call, step, "done", message, run.times[step.value])
    return result


def _ms_since(begun: float) -> float:
    return round((time.monotonic() - begun) * 1000, 3)


async def _tell(call: Call, step: Step, state: str, message: str, duration_ms: float | None = None) -> None:
    await call.emit(Progress(step=step, state=state, message=message, duration_ms=duration_ms))
