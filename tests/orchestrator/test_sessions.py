"""Sessions on a backend that is a dictionary: what is written down, and when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.backends import (
    Backend,
    Destroyed,
    Endpoint,
    Guest,
    GuestState,
    Launch,
    Properties,
    guest_id,
)
from orchestrator.paths import PathManager, UserId
from orchestrator.ports import Wish
from orchestrator.records import Records, SessionRecord
from orchestrator.session_states import State
from orchestrator.sessions import PortWishes, Sessions
from protocol.errors import InvalidRequest, NoSpace, NotFound, Unavailable
from tests.ports import mine

ANN, BOB = UserId("ann"), UserId("bob")
PORTS = mine()[:100]
"""Real ones, and looked at: what the tests of another worker start takes none of these in between."""
WISHES = PortWishes(tool=Wish(0), dev=Wish(PORTS[0], PORTS[1:]))


class DictionaryBackend:
    """Sandboxes in a dictionary."""

    name = "dictionary"
    properties = Properties(
        isolates_files=True,
        isolates_processes=True,
        isolates_network=True,
        keeps_files=True,
        survives_host_restart=False,
    )

    def __init__(self) -> None:
        self.running: dict[str, Guest] = {}
        self.fails: Exception | None = None
        self.survivors: tuple[int, ...] = ()

    async def create(self, launch: Launch) -> Guest:
        if self.fails:
            raise self.fails
        guest = Guest(
            id=guest_id(launch.user_id, launch.session_id),
            backend=self.name,
            user_id=launch.user_id,
            session_id=launch.session_id,
            tool_port=launch.tool_port or 3001,
            dev_port=launch.dev_port,
        )
        self.running[guest.id] = guest
        return guest

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        found = self.running.pop(guest_id, None) is not None
        kept = "/kept" if keep_files else None
        return Destroyed(found=found, survivors=self.survivors, kept=kept)

    async def guests(self) -> list[Guest]:
        return list(self.running.values())

    def endpoint(self, guest: Guest, port: int) -> Endpoint:
        return Endpoint(f"http://{guest.session_id}:{port}", {"X-Route": guest.id})


@pytest.fixture
def backend() -> DictionaryBackend:
    return DictionaryBackend()


@pytest.fixture
def sessions(tmp_path: Path, backend: DictionaryBackend) -> Sessions:
    drivers: dict[str, Backend] = {backend.name: backend}
    return Sessions(PathManager(tmp_path), Records(tmp_path / "r.sqlite3"), drivers)


async def test_a_session_has_a_sandbox_ports_and_a_token_of_its_own(sessions: Sessions) -> None:
    one, two = [await sessions.begin(ANN, "site", WISHES, "dictionary") for _ in range(2)]
    assert (one.state, one.template) == (State.INITIALIZING, "site")
    assert one.session_id != two.session_id
    assert one.token != two.token
    assert one.dev_port != two.dev_port
    assert sessions.tool_server(one) == Endpoint(
        f"http://{one.session_id}:3001", {"X-Route": f"ann/{one.session_id}"}
    )


async def test_a_sandbox_that_could_not_be_made_leaves_no_record_and_no_port(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    backend.fails = Unavailable("no room")
    with pytest.raises(Unavailable, match="no room"):
        await sessions.begin(ANN, "site", WISHES, "dictionary")
    assert await sessions.list(ANN, stopped=True) == []
    backend.fails = None
    again = await sessions.begin(ANN, "site", WISHES, "dictionary")
    assert await sessions.list(ANN) != []
    assert again.dev_port in PORTS


async def test_a_start_that_is_cancelled_at_any_moment_leaves_no_record_and_no_sandbox(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    for turns in range(12):
        starting = asyncio.create_task(sessions.begin(ANN, "site", WISHES, "dictionary"))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        if starting.cancel():
            with pytest.raises(asyncio.CancelledError):
                await starting
        else:
            await sessions.end(starting.result(), keep_files=False)
        assert await sessions.list(ANN, stopped=True) == []
        assert backend.running == {}


async def test_a_sandbox_that_is_gone_without_being_asked_is_dead(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    assert [seen.state for seen in await sessions.list(ANN)] == ["initializing"]
    id = f"ann/{record.session_id}"
    backend.running[id] = msgspec.structs.replace(backend.running[id], state=GuestState.DEAD)
    assert [seen.state for seen in await sessions.list(ANN)] == ["dead"]
    backend.running.clear()
    assert [seen.state for seen in await sessions.list(ANN)] == ["dead"]


async def test_files_outlive_a_session_and_go_when_told(sessions: Sessions) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    assert (await sessions.end(record)).kept == "/kept"
    assert [seen.state for seen in await sessions.list(ANN, stopped=True)] == ["stopped"]
    again = await sessions.find(ANN, record.session_id)
    assert (await sessions.end(again, keep_files=False)).kept is None
    assert await sessions.list(ANN, stopped=True) == []


async def test_where_files_cannot_be_kept_a_session_is_saved_first_or_goes_on(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    backend.properties = replace(backend.properties, keeps_files=False)
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    with pytest.raises(Unavailable, match=r"would be lost with it, and could not be saved: .* --remove"):
        await sessions.end(record)
    assert [seen.state for seen in await sessions.list(ANN)] == ["initializing"]
    await sessions.end(record, keep_files=False)
    assert await sessions.list(ANN, stopped=True) == []


async def test_where_files_cannot_be_kept_one_without_a_sandbox_ends_without_a_save(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    backend.properties = replace(backend.properties, keeps_files=False)
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    backend.running.clear()
    assert (await sessions.end(record)).kept is None
    assert await sessions.list(ANN, stopped=True) == []


async def test_processes_that_would_not_end_keep_the_record_as_an_error(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    backend.survivors = (7,)
    assert (await sessions.end(record)).survivors == (7,)
    assert [seen.state for seen in await sessions.list(ANN, stopped=True)] == ["error"]


async def test_a_session_is_found_by_its_id_and_by_the_last_part_of_it(sessions: Sessions) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    for wanted in (record.session_id, record.session_id.rpartition("_")[2], None):
        assert (await sessions.find(ANN, wanted)).session_id == record.session_id
    for wanted in ("session", record.session_id[:-1], ""):
        with pytest.raises(NotFound):
            await sessions.find(ANN, wanted)


async def test_without_a_name_one_that_died_is_named_with_the_way_back(
    sessions: Sessions, backend: DictionaryBackend
) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    backend.running.clear()
    with pytest.raises(NotFound, match=f"is dead, start it again by `workspace resume {record.session_id}`"):
        await sessions.find(ANN, None)


async def test_without_a_name_only_what_runs_counts(sessions: Sessions, backend: DictionaryBackend) -> None:
    with pytest.raises(NotFound, match="no session runs"):
        await sessions.find(ANN, None)
    one = await sessions.begin(ANN, "site", WISHES, "dictionary")
    two = await sessions.begin(ANN, "site", WISHES, "dictionary")
    with pytest.raises(
        InvalidRequest, match=f"2 sessions run: say which of {one.session_id}, {two.session_id}"
    ):
        await sessions.find(ANN, None)
    backend.running.pop(f"ann/{one.session_id}")
    assert (await sessions.find(ANN, None)).session_id == two.session_id


async def test_another_users_session_is_neither_found_nor_listed(sessions: Sessions) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    assert await sessions.list(BOB, stopped=True) == []
    with pytest.raises(NotFound):
        await sessions.find(BOB, record.session_id)


async def test_a_session_that_is_over_has_no_client(sessions: Sessions) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    await sessions.end(record)
    with pytest.raises(Unavailable, match="is stopped; start it again by `workspace resume"):
        sessions.client(await sessions.find(ANN, record.session_id))


class FullDisk(Records):
    """A registry that nothing can be written to any more, once ``full``."""

    full = False

    def claim(self, *values: Any) -> SessionRecord:
        self._refuse()
        return super().claim(*values)

    def move(self, *values: Any, **changes: Any) -> SessionRecord:
        self._refuse()
        return super().move(*values, **changes)

    def remove(self, session_id: str, *, keep_workspace: bool = False) -> None:
        self._refuse()
        super().remove(session_id, keep_workspace=keep_workspace)

    def _refuse(self) -> None:
        if self.full:
            raise NoSpace("the disk is full: make room")


@pytest.fixture
def disk(tmp_path: Path) -> FullDisk:
    return FullDisk(tmp_path / "r.sqlite3")


@pytest.fixture
def on_disk(tmp_path: Path, backend: DictionaryBackend, disk: FullDisk) -> Sessions:
    return Sessions(PathManager(tmp_path), disk, {backend.name: backend})


async def test_a_session_ends_on_a_full_disk_and_says_what_could_not_be_written(
    on_disk: Sessions, backend: DictionaryBackend, disk: FullDisk
) -> None:
    record = await on_disk.begin(ANN, "site", WISHES, "dictionary")
    disk.full = True
    with pytest.raises(NoSpace, match=f"{record.session_id} has ended, its files are kept in /kept, but"):
        await on_disk.end(record)
    assert backend.running == {}


async def test_a_disk_that_fills_during_a_start_leaves_no_sandbox(
    on_disk: Sessions, backend: DictionaryBackend, disk: FullDisk
) -> None:
    disk.full = True
    with pytest.raises(NoSpace, match=r"^the disk is full: make room$"):
        await on_disk.begin(ANN, "site", WISHES, "dictionary")
    assert backend.running == {}
