"""Autosaves: of what changed and of nothing else, told when they fail. On real tool servers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from orchestrator.autosaving import Autosaved, Autosaver
from orchestrator.paths import PathManager, UserId
from orchestrator.ports import DEV_PORTS, Wish
from orchestrator.records import SessionRecord
from orchestrator.save_store import SaveStore
from orchestrator.sessions import PortWishes, Sessions
from protocol.errors import Busy
from tests.orchestrator.archives import names_in

ANN = UserId("ann")
WISHES = PortWishes(tool=Wish(0), dev=Wish(8000, DEV_PORTS))


@pytest.fixture
async def record(sessions: Sessions) -> SessionRecord:
    """One that runs, with a file."""
    record = await sessions.ready(await sessions.begin(ANN, "site", WISHES, "local"))
    await write(sessions, record, "first.txt", "mine")
    return record


@pytest.fixture
def store(tmp_path: Path) -> SaveStore:
    return SaveStore(PathManager(tmp_path))


async def write(sessions: Sessions, record: SessionRecord, path: str, content: str) -> None:
    async with sessions.client(record) as client:
        await client.write(path=path, content=content)


def names(store: SaveStore, record: SessionRecord) -> list[str]:
    return [save.name for save in store.saves(ANN, record.workspace_id)]


async def test_a_session_is_saved_once_for_what_changed(
    sessions: Sessions, record: SessionRecord, store: SaveStore
) -> None:
    heard: list[Autosaved] = []
    saver = Autosaver(sessions, heard.append)
    (first,) = await saver.turn()
    assert first.saved is not None
    assert first.sentence == f"autosaved to {first.saved.file.path}"
    assert await saver.turn() == []
    await write(sessions, record, "second.txt", "more")
    (second,) = await saver.turn()
    assert second.saved is not None
    assert {"./first.txt", "./second.txt"} <= names_in(second.saved.file.path)
    assert await saver.turn() == []
    assert heard == [first, second]


async def test_an_autosave_takes_the_place_of_the_last_one_and_of_no_other(
    sessions: Sessions, record: SessionRecord, store: SaveStore
) -> None:
    asked_for = (await sessions.save(record)).file.path
    saver = Autosaver(sessions, lambda _: None)
    for number in range(7):
        await write(sessions, record, "a", str(number))
        (done,) = await saver.turn()
        assert done.saved is not None
        assert names(store, record) == [
            done.saved.file.path.name.removesuffix(".tar.gz"),
            asked_for.name.removesuffix(".tar.gz"),
        ]


async def test_what_was_there_when_it_began_counts_as_saved(
    sessions: Sessions, record: SessionRecord
) -> None:
    saver = Autosaver(sessions, lambda _: None)
    await saver.begin()
    assert await saver.turn() == []
    await write(sessions, record, "a", "b")
    assert len(await saver.turn()) == 1


async def test_what_saves_leave_out_is_no_change_and_asking_no_activity(
    sessions: Sessions, record: SessionRecord
) -> None:
    await write(sessions, record, "template.json", '{"name": "t", "archive": {"exclude": ["*.mp4"]}}')
    saver = Autosaver(sessions, lambda _: None)
    await saver.turn()
    await saver.turn()
    for path in ("a.log", ".env.local", "dist/index.html", "film.mp4"):
        await write(sessions, record, path, "built")
    assert await saver.turn() == []
    async with sessions.client(record) as client:
        idle = (await client.activity()).idle_ms
        assert await saver.turn() == []
        assert (await client.activity()).idle_ms >= idle
        await client.write(path=".env.example", content="KEY=")
    assert len(await saver.turn()) == 1


async def test_one_that_cannot_be_saved_is_told_and_tried_again(
    sessions: Sessions, record: SessionRecord, tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere"
    saver = Autosaver(sessions, lambda _: None, target=lambda _: place / "work.tar.zst")
    (failed,) = await saver.turn()
    assert failed.saved is None
    assert failed.sentence.startswith(
        "could not be autosaved, and is tried again at the next turn: there is no"
    )
    place.mkdir()
    (done,) = await saver.turn()
    assert done.saved is not None
    assert done.saved.file.path == place / "work.tar.zst"
    assert await saver.turn() == []


async def test_only_the_session_that_is_meant_is_saved(sessions: Sessions, record: SessionRecord) -> None:
    other = await sessions.ready(await sessions.begin(ANN, "other", WISHES, "local"))
    (done,) = await Autosaver(sessions, lambda _: None, only=other.session_id).turn()
    assert done.record.session_id == other.session_id
    assert await Autosaver(sessions, lambda _: None, user=UserId("bob")).turn() == []


async def test_a_watch_saves_by_itself_until_it_is_cancelled(
    sessions: Sessions, record: SessionRecord
) -> None:
    heard: asyncio.Queue[Autosaved] = asyncio.Queue(10)
    watching = asyncio.create_task(Autosaver(sessions, heard.put_nowait).watch(0.05))
    try:
        async with asyncio.timeout(60):
            # Before its first look this may count as there when it began, so another change follows.
            while heard.empty():
                await write(sessions, record, "a", os.urandom(4).hex())
                await asyncio.sleep(0.05)
            assert (await heard.get()).saved is not None
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_registry_that_is_in_use_for_a_turn_ends_no_autosaving(
    sessions: Sessions, record: SessionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: asyncio.Queue[Autosaved] = asyncio.Queue()
    saver, running, fails = Autosaver(sessions, told.put_nowait), sessions.running, [Busy("it is in use")]
    await saver.begin()
    await write(sessions, record, "second.txt", "more")

    async def busy_once() -> list[SessionRecord]:
        if fails:
            raise fails.pop()
        return await running()

    async def begun() -> None:
        """By us, before the change."""

    monkeypatch.setattr(sessions, "running", busy_once)
    monkeypatch.setattr(saver, "begin", begun)
    watching = asyncio.create_task(saver.watch(0.01))
    try:
        assert (await asyncio.wait_for(told.get(), 60)).saved is not None
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert fails == []
