"""start: from an archive to a page that answers, as one request with its stages told."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

from protocol.messages.archives import InjectAnswer
from protocol.messages.devserver import DevStatusAnswer, InstallAnswer, Progress, Start, StartAnswer, Step
from toolserver.tools.archives import Archives
from toolserver.tools.call import Call
from toolserver.tools.devlife import DevEvent
from toolserver.tools.devserver import DevServer
from toolserver.tools.install import Installs

T = TypeVar("T")


class Starts:
    """The handler. It only puts the other families' operations in a row."""

    def __init__(self, archives: Archives, installs: Installs, dev: DevServer) -> None:
        self._archives = archives
        self._installs = installs
        self._dev = dev

    async def start(self, request: Start, call: Call) -> StartAnswer:
        """Inject (when there is an archive), install, start the dev server."""
        self._dev.check(request.dev)
        times: dict[str, float] = {}
        if request.archive is None and self._dev.runs_as(request.dev):
            return await self._running(request, call)
        injected = await self._inject(request, call, times)
        installed = await self._install(request, call, times)
        dev = await self._start_dev(request, call, times)
        return StartAnswer(
            dev=dev, install=installed, files=injected.files if injected else None, durations_ms=times
        )

    async def _running(self, request: Start, call: Call) -> StartAnswer:
        """It runs as asked: nothing is installed under its feet."""
        for step in (Step.EXTRACT, Step.INSTALL):
            await _tell(call, step, "skipped", "the dev server runs already")
        dev = await self._dev.dev_start(request.dev, call)
        nothing = InstallAnswer(package_manager=None, command=None, duration_ms=0.0)
        return StartAnswer(dev=dev, install=nothing, files=None, durations_ms={})

    async def _inject(self, request: Start, call: Call, times: dict[str, float]) -> InjectAnswer | None:
        if request.archive is None:
            await _tell(call, Step.EXTRACT, "skipped", "the content is in place")
            return None
        archive = self._archives.inject_bytes(
            request.archive, request.mode, request.digest, call.without_events()
        )
        return await _stage(call, Step.EXTRACT, "unpacking", archive, times)

    async def _install(self, request: Start, call: Call, times: dict[str, float]) -> InstallAnswer:
        self._dev.note(DevEvent.INSTALL)
        try:
            install = self._installs.install(request.install, call)
            return await _stage(call, Step.INSTALL, "installing packages", install, times)
        finally:
            self._dev.note(DevEvent.INSTALLED)

    async def _start_dev(self, request: Start, call: Call, times: dict[str, float]) -> DevStatusAnswer:
        if not await self._dev.wanted(request.dev):
            await _tell(call, Step.DEV_SERVER, "skipped", "the workspace has no dev server")
            return self._dev.status()
        start = self._dev.dev_start(request.dev, call)
        return await _stage(call, Step.DEV_SERVER, "starting the dev server", start, times)


async def _stage(call: Call, step: Step, message: str, work: Awaitable[T], times: dict[str, float]) -> T:
    await _tell(call, step, "started", message)
    begun = time.monotonic()
    result = await work
    times[step.value] = round((time.monotonic() - begun) * 1000, 3)
    await _tell(call, step, "done", message, times[step.value])
    return result


async def _tell(call: Call, step: Step, state: str, message: str, duration_ms: float | None = None) -> None:
    await call.emit(Progress(step=step, state=state, message=message, duration_ms=duration_ms))
