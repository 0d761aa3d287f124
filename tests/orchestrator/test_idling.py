"""Idle sessions: stopped with a save, and what works is never stopped. On real tool servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.idle import IdleRule
from orchestrator.idling import Judged, judge, stop_idle, watch
from orchestrator.paths import UserId
from orchestrator.ports import DEV_PORTS, Wish
from orchestrator.records import SessionRecord
from orchestrator.session_states import State
from orchestrator.sessions import PortWishes, Sessions
from protocol.errors import Busy
from protocol.messages.processes import ProcessState

ANN, BOB = UserId("ann"), UserId("bob")
WISHES = PortWishes(tool=Wish(0), dev=Wish(8000, DEV_PORTS))
RULE = IdleRule(900)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._asked = 0

    def __call__(self) -> float:
        """Each session is observed first, and judged by the second reading: time passes in between."""
        self._asked += 1
        return self.seconds if self._asked % 2 == 0 else 0.0


@pytest.fixture
async def record(sessions: Sessions) -> SessionRecord:
    """One that runs, with a file."""
    record = await sessions.ready(await sessions.begin(ANN, "site", WISHES, "local"))
    async with sessions.client(record) as client:
        await client.write(path="work.txt", content="mine")
    return record


@pytest.fixture
def later() -> Callable[[], float]:
    """A clock on which an hour passes between an observation and its judgement."""
    clock = Clock()
    clock.seconds = 3600.0
    return clock


async def state(sessions: Sessions, record: SessionRecord) -> State:
    return (await sessions.get(record.user_id, record.session_id)).state


async def test_an_idle_session_is_stopped_with_a_save_and_can_be_resumed(
    sessions: Sessions, record: SessionRecord, later: Callable[[], float]
) -> None:
    (judged,) = await stop_idle(sessions, RULE, clock=later)
    assert (judged.stopped, await state(sessions, record)) == (True, State.STOPPED)
    assert judged.sentence.startswith("stopped: idle for 1 h, saved to ")
    assert Path(judged.sentence.rpartition(" ")[2]).is_file()
    again = await sessions.ensure_running(ANN, record.session_id)
    async with sessions.client(again) as client:
        assert (await client.read(path="work.txt")).content == "mine"


async def test_a_job_that_says_nothing_for_hours_is_not_stopped_and_is_named(
    sessions: Sessions, record: SessionRecord, later: Callable[[], float]
) -> None:
    async with sessions.client(record) as client:
        started = await client.command(command="sleep 7654", background=True)
    (judged,) = await stop_idle(sessions, RULE, clock=later)
    assert (judged.stopped, await state(sessions, record)) == (False, State.RUNNING)
    assert judged.sentence == f"would stop now; kept alive by process {started.process_id} (sleep 7654)"
    async with sessions.client(record) as client:
        known = (await client.processes()).processes
    assert [each.state for each in known if each.process_id == started.process_id] == [ProcessState.RUNNING]


async def test_a_job_that_began_during_the_save_is_not_stopped(
    sessions: Sessions, record: SessionRecord, later: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = sessions.save

    async def save(*values: object, **more: object) -> object:
        result = await saved(*values)  # type: ignore[arg-type]
        async with sessions.client(record) as client:
            await client.command(command="sleep 7655", background=True)
        return result

    monkeypatch.setattr(sessions, "save", save)
    monkeypatch.setattr("orchestrator.idling.SETTLE_SECONDS", 0.0)
    (judged,) = await stop_idle(sessions, RULE, clock=later)
    assert not judged.stopped
    assert "was to be stopped, and goes on: kept alive by process" in judged.sentence
    assert await state(sessions, record) is State.RUNNING


async def test_one_that_cannot_be_asked_is_left_alone(
    sessions: Sessions, record: SessionRecord, later: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.idling.ASK_SECONDS", 0.0)
    (judged,) = await stop_idle(sessions, RULE, clock=later)
    assert (judged.verdict, judged.stopped) == (None, False)
    assert judged.sentence == "cannot be asked what goes on, and is left alone: no answer within 0 s"
    assert await state(sessions, record) is State.RUNNING


async def test_an_open_connection_keeps_it_and_those_who_only_watch_do_not(
    sessions: Sessions, record: SessionRecord, later: Callable[[], float]
) -> None:
    async with sessions.client(record) as watcher, sessions.client(record) as worker:
        await watcher.activity()
        await worker.list()
        assert (await judge(sessions, record, RULE, later)).sentence.endswith("kept alive by 1 socket")


async def test_only_the_users_own_are_judged_when_one_is_named(
    sessions: Sessions, record: SessionRecord
) -> None:
    assert await stop_idle(sessions, RULE, BOB) == []
    (judged,) = await stop_idle(sessions, RULE, ANN)
    assert (judged.stopped, judged.sentence) == (False, "stops in 14 min")


async def test_a_watch_stops_what_idles_and_tells(sessions: Sessions, record: SessionRecord) -> None:
    told: asyncio.Queue[Judged] = asyncio.Queue()
    watching = asyncio.create_task(watch(sessions, IdleRule(0.2), told.put_nowait, every_seconds=0.05))
    try:
        judged = await asyncio.wait_for(told.get(), 60)
        while not judged.stopped:  # on a busy machine its own save may be seen open for too long
            judged = await asyncio.wait_for(told.get(), 60)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert await state(sessions, record) is State.STOPPED


async def test_a_registry_that_is_in_use_for_a_turn_ends_no_watch(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()

    async def busy() -> list[SessionRecord]:
        asked.put_nowait(None)
        raise Busy("it is in use")

    monkeypatch.setattr(sessions, "running", busy)
    watching = asyncio.create_task(watch(sessions, RULE, lambda judged: None, every_seconds=0.01))
    try:
        for _ in range(2):
            await asyncio.wait_for(asked.get(), 60)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
