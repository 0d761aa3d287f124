"""``up`` while it waits: what ends it, and what does not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from orchestrator.cli import foreground
from orchestrator.cli.common import Options
from orchestrator.cli.foreground import Foreground
from orchestrator.cli.signals import StopSignals
from orchestrator.client import Client, open_client
from orchestrator.records import SessionRecord, State
from orchestrator.sessions import Seen
from protocol.errors import Busy, ToolError
from tests.orchestrator.fake_tool_server import FakeToolServer
from tests.orchestrator.live import WAIT_SECONDS
from tests.orchestrator.test_records import record


class OneSession:
    """Sessions, as far as ``up`` asks them while it waits."""

    def __init__(self, server: FakeToolServer) -> None:
        self.server = server
        self.alive = True
        self.state = State.RUNNING
        self.refuses: ToolError | None = None
        self.unknown = ""
        self.asked = 0

    async def list(self, user: str, *, stopped: bool) -> list[Seen]:
        self.asked += 1
        if self.refuses:
            raise self.refuses
        return [Seen(msgspec.structs.replace(record(), state=self.state), self.alive, self.unknown)]

    @asynccontextmanager
    async def client(self, record: SessionRecord) -> AsyncIterator[Client]:
        async with open_client(self.server.url) as client:
            yield client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "_RECONNECT_SECONDS", 0.01)


@pytest.fixture
async def server() -> AsyncIterator[FakeToolServer]:
    async with FakeToolServer({}).listening() as server:
        yield server


async def connected(server: FakeToolServer, count: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while len(server.connections) < count:
            await asyncio.sleep(0.01)


def watching(sessions: Any) -> tuple[asyncio.Task[None], StopSignals]:
    stop = StopSignals()
    up = Foreground(sessions, Options(None, "ann", False), "local", detach=False, remove=False)
    return asyncio.create_task(up._watch(record(), stop)), stop


async def test_a_lost_connection_is_made_again_as_long_as_the_sandbox_lives(server: FakeToolServer) -> None:
    task, stop = watching(OneSession(server))
    for count in (1, 2, 3):
        await connected(server, count)
        await server.connections[-1].close()
    assert not task.done()
    stop._take(signal.SIGINT)
    async with asyncio.timeout(WAIT_SECONDS):
        await task


async def test_a_dead_sandbox_ends_it(server: FakeToolServer) -> None:
    sessions = OneSession(server)
    task, _ = watching(sessions)
    await connected(server, 1)
    sessions.alive = False
    await server.connections[-1].close()
    async with asyncio.timeout(WAIT_SECONDS):
        await task


@pytest.mark.parametrize("what", ["engine", "registry"])
async def test_it_goes_on_while_nobody_can_say_whether_its_sandbox_lives(
    what: str, server: FakeToolServer, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions = OneSession(server)
    task, stop = watching(sessions)
    await connected(server, 1)
    if what == "engine":
        sessions.alive, sessions.unknown = False, "Docker does not answer"
    else:
        sessions.refuses = Busy("the registry is in use")
    before = sessions.asked
    await server.connections[-1].close()
    await connected(server, 2)
    assert sessions.asked > before
    assert not task.done()
    sessions.alive, sessions.unknown, sessions.refuses = False, "", None
    await server.connections[-1].close()
    async with asyncio.timeout(WAIT_SECONDS):
        await task
    why = "Docker does not answer" if what == "engine" else "the registry is in use"
    assert capsys.readouterr().err.splitlines() == [f"state unknown, asking on: {why}"]
    assert not stop.came()


async def test_a_down_elsewhere_ends_it(server: FakeToolServer) -> None:
    sessions = OneSession(server)
    task, _ = watching(sessions)
    await connected(server, 1)
    sessions.state = State.STOPPING
    await server.connections[-1].close()
    async with asyncio.timeout(WAIT_SECONDS):
        await task


async def test_the_first_signal_is_remembered_and_work_that_was_cancelled_is_over() -> None:
    stop = StopSignals()
    ended = SimpleNamespace(by=None)

    async def work() -> int:
        try:
            return int(await asyncio.Event().wait())
        finally:
            await asyncio.sleep(0.01)
            ended.by = "cancel"

    waiting = asyncio.create_task(stop.or_until(work()))
    await asyncio.sleep(0)
    stop._take(signal.SIGTERM)
    stop._take(signal.SIGINT)
    assert await waiting is None
    assert (stop.number, ended.by) == (signal.SIGTERM, "cancel")


async def test_what_fails_while_it_is_cancelled_is_still_told() -> None:
    stop = StopSignals()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("could not clean up") from None

    waiting = asyncio.create_task(stop.or_until(work()))
    await asyncio.sleep(0)
    stop._take(signal.SIGTERM)
    with pytest.raises(OSError, match="could not clean up"):
        await waiting
