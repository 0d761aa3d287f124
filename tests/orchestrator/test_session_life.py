"""Sessions that are stopped, resumed, lost and found; on a backend that is a dictionary."""

from __future__ import annotations

import asyncio
import errno
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import Destroyed, Guest, GuestState, Launch
from orchestrator.leases import Holder
from orchestrator.leasing import Leasing
from orchestrator.paths import PathManager, SessionId, UserId
from orchestrator.plan import GuestProfile, WorkspaceSpec, launch_plan
from orchestrator.ports import Wish
from orchestrator.records import Records, SessionRecord
from orchestrator.session_states import State
from orchestrator.sessions import PortWishes, Sessions
from protocol.errors import Busy, Conflict, InvalidRequest, NoSpace, NotFound, Unavailable
from tests.orchestrator.test_sessions import ANN, BOB, WISHES, DictionaryBackend, FullDisk
from tests.ports import free_port

HERE = Holder.of_this_process()


class Backend(DictionaryBackend):
    """Remembers what it was told, and has an engine that may be down."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.down = ""

    async def create(self, launch: Launch) -> Guest:
        self.launches.append(launch)
        return await super().create(launch)

    async def guests(self) -> list[Guest]:
        if self.down:
            raise Unavailable(self.down)
        return await super().guests()

    def crash(self, record: SessionRecord) -> None:
        id = f"{record.user_id}/{record.session_id}"
        guest = self.running[id]
        self.running[id] = Guest(
            **{name: getattr(guest, name) for name in guest.__struct_fields__} | {"state": GuestState.DEAD}
        )


@pytest.fixture
def backend() -> Backend:
    return Backend()


def opened(directory: Path, backend: Backend, tag: str = "one", **more: Any) -> Sessions:
    """An orchestrator on the directory."""
    records = Records(directory / "r.sqlite3")
    leasing = Leasing(records, replace(HERE, tag=tag))
    return Sessions(PathManager(directory), records, {backend.name: backend}, leasing=leasing, **more)


@pytest.fixture
def sessions(tmp_path: Path, backend: Backend) -> Sessions:
    return opened(tmp_path, backend)


async def begun(sessions: Sessions, wishes: PortWishes = WISHES, user: UserId = ANN) -> SessionRecord:
    return await sessions.ready(await sessions.begin(user, "site", wishes, "dictionary"))


async def stopped(sessions: Sessions) -> SessionRecord:
    record = await begun(sessions)
    await sessions.end(record)
    return await sessions.get(ANN, record.session_id)


# -- created -------------------------------------------------------------------------------------------


async def test_creating_makes_a_root_and_a_record_and_starts_nothing(
    sessions: Sessions, backend: Backend, tmp_path: Path
) -> None:
    record = await sessions.create(ANN, "site", "dictionary")
    root = tmp_path / "workspaces" / "ann" / record.session_id
    assert (root.stat().st_mode & 0o777, backend.running) == (0o700, {})
    assert (record.state, record.tool_port, record.dev_port) == (State.STOPPED, 0, 0)
    running = await sessions.ensure_running(ANN, record.session_id)
    assert (running.state, backend.launches[-1].existing) == (State.RUNNING, True)
    assert await sessions.ensure_running(ANN, record.session_id) == running
    assert len(backend.launches) == 1


async def test_one_whose_files_are_in_a_save_alone_is_not_started_empty(
    sessions: Sessions, backend: Backend, tmp_path: Path
) -> None:
    backend.properties = replace(backend.properties, keeps_files=False)
    record = await sessions.create(ANN, "site", "dictionary")
    saves = tmp_path / "saves" / "ann" / record.workspace_id
    saves.mkdir(parents=True)
    (saves / "0001_20261121_000000_00000000.tar.gz").touch()
    with pytest.raises(Conflict, match=f"start it by `workspace resume {record.session_id}`"):
        await sessions.ensure_running(ANN, record.session_id)
    assert backend.running == {}


async def test_a_session_of_a_workspace_that_is_anothers_is_not_made(sessions: Sessions) -> None:
    record = await sessions.create(ANN, "site", "dictionary")
    for workspace in (record.workspace_id, "../bob", ""):
        with pytest.raises((NotFound, InvalidRequest)):
            await sessions.create(BOB, "site", "dictionary", workspace=workspace)  # type: ignore[arg-type]


async def test_a_workspace_has_one_live_session_and_outlives_it(sessions: Sessions) -> None:
    first = await begun(sessions)
    with pytest.raises(Conflict, match=f"has a session already: use {first.session_id}, or end it"):
        await sessions.begin(ANN, "site", WISHES, "dictionary", workspace=first.workspace_id)
    await sessions.end(first)
    second = await sessions.begin(ANN, "site", WISHES, "dictionary", workspace=first.workspace_id)
    assert second.workspace_id == first.workspace_id
    with pytest.raises(Conflict, match="has a session already"):
        await sessions.restart(await sessions.get(ANN, first.session_id))
    assert [each.workspace_id for each in await sessions.workspaces(ANN)] == [first.workspace_id]


# -- resumed -------------------------------------------------------------------------------------------


async def test_a_stopped_session_runs_again_on_its_files_with_its_ports_and_a_new_token(
    sessions: Sessions, backend: Backend
) -> None:
    record = await stopped(sessions)
    again = await sessions.ready(await sessions.restart(record))
    assert backend.launches[-1].existing
    assert (again.session_id, again.workspace_id) == (record.session_id, record.workspace_id)
    assert (again.dev_port, again.state) == (record.dev_port, State.RUNNING)
    assert again.token != record.token


async def test_places_and_trust_of_the_launch_hold_when_it_is_resumed_and_nothing_is_copied_again(
    sessions: Sessions, backend: Backend, tmp_path: Path
) -> None:
    profile = GuestProfile("/home/me", "/srv/mine", "me:us")
    plan = launch_plan(WorkspaceSpec(copy_cwd=True, user_cwd=tmp_path), profile, trust_agents=True)
    record = await sessions.ready(await sessions.begin(ANN, "site", WISHES, "dictionary", plan))
    await sessions.end(record)
    await sessions.restart(await sessions.get(ANN, record.session_id))
    first, again = [each.plan for each in backend.launches]
    assert (first, again is not None and again.trust_agents) == (plan, True)
    assert again is not None
    assert again.workspace_plan == replace(plan.workspace_plan, enabled=False, host_path=Path("/"))


async def test_ports_that_another_has_by_now_are_chosen_anew(sessions: Sessions) -> None:
    record = await stopped(sessions)
    other = await begun(sessions, PortWishes(tool=Wish(0), dev=Wish(record.dev_port)))
    again = await sessions.restart(record)
    assert again.dev_port != other.dev_port == record.dev_port


async def test_one_that_runs_is_not_resumed(sessions: Sessions) -> None:
    record = await begun(sessions)
    with pytest.raises(Conflict, match="is running: it runs already"):
        await sessions.restart(record)


async def test_one_whose_sandbox_died_is_resumed(sessions: Sessions, backend: Backend) -> None:
    record = await begun(sessions)
    backend.crash(record)
    assert [seen.state for seen in await sessions.list(ANN)] == ["dead"]
    assert (await sessions.ready(await sessions.restart(record))).state is State.RUNNING
    assert [seen.state for seen in await sessions.list(ANN)] == ["running"]


async def test_one_that_cannot_be_resumed_is_stopped_as_before(sessions: Sessions, backend: Backend) -> None:
    record = await stopped(sessions)
    backend.fails = Unavailable("no room")
    with pytest.raises(Unavailable, match="no room"):
        await sessions.restart(record)
    assert [seen.state for seen in await sessions.list(ANN, stopped=True)] == ["stopped"]
    backend.fails = None
    await sessions.restart(record)


async def test_of_two_who_resume_it_one_does_and_the_other_is_told(
    sessions: Sessions, backend: Backend, tmp_path: Path
) -> None:
    record = await stopped(sessions)
    both = [sessions, opened(tmp_path, backend, "two")]
    told = await asyncio.gather(*(each.restart(record) for each in both), return_exceptions=True)
    assert sorted(isinstance(each, Busy | Conflict) for each in told) == [False, True]
    assert len(backend.running) == 1


async def test_one_that_is_being_started_stays_with_who_starts_it_whoever_resumes_it(
    sessions: Sessions, backend: Backend, tmp_path: Path
) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    for each in (sessions, opened(tmp_path, backend, "two")):
        with pytest.raises(Conflict, match="it is being started already; wait for it"):
            await each.ensure_running(ANN, record.session_id)
    assert await opened(tmp_path, backend, "three").reconcile() == []
    assert (await sessions.ready(record)).state is State.RUNNING


class Held(Records):
    """A registry whose answer to a claim comes when it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.claimed, self.let = threading.Event(), threading.Event()

    def claim(self, *values: Any) -> SessionRecord:
        record = super().claim(*values)
        self.claimed.set()
        assert self.let.wait(60)
        return record


async def test_one_whose_resume_is_cancelled_while_it_is_written_down_can_be_resumed(
    sessions: Sessions, backend: Backend, tmp_path: Path
) -> None:
    record, held = await stopped(sessions), Held(tmp_path / "r.sqlite3")
    resuming = asyncio.create_task(
        Sessions(PathManager(tmp_path), held, {backend.name: backend}).restart(record)
    )
    assert await asyncio.to_thread(held.claimed.wait, 60)
    resuming.cancel()
    held.let.set()
    with pytest.raises(asyncio.CancelledError):
        await resuming
    assert (await sessions.get(ANN, record.session_id)).state is State.STOPPED
    await sessions.ready(await sessions.restart(record))
    assert len(backend.running) == 1


# -- stopped -------------------------------------------------------------------------------------------


class Unsaveable(Sessions):
    """Of its sandboxes nothing can be saved."""

    why: Exception = Unavailable("the tool server does not answer")

    async def save(self, record: SessionRecord, target: Path | None = None, **_: Any) -> Any:
        raise self.why


@pytest.mark.parametrize("why", [Unsaveable.why, OSError(errno.ENOSPC, "No space left on device", "/saves")])
async def test_stopping_saves_first_and_one_that_cannot_be_saved_runs_on(
    why: Exception, tmp_path: Path, backend: Backend
) -> None:
    sessions = Unsaveable(PathManager(tmp_path), Records(tmp_path / "r.sqlite3"), {backend.name: backend})
    sessions.why = why
    record = await begun(sessions)
    with pytest.raises(Unavailable, match=f"could not be saved: {re.escape(str(why))}; give them up"):
        await sessions.stop(record)
    assert [seen.state for seen in await sessions.list(ANN)] == ["running"]
    assert (await sessions.stop(record, discard=True)).saved is None
    assert [seen.state for seen in await sessions.list(ANN, stopped=True)] == ["stopped"]


async def test_a_dead_one_that_left_its_files_is_stopped_without_a_save(
    tmp_path: Path, backend: Backend
) -> None:
    sessions = Unsaveable(PathManager(tmp_path), Records(tmp_path / "r.sqlite3"), {backend.name: backend})
    record = await begun(sessions)
    backend.crash(record)
    assert (await sessions.stop(record)).outcome.kept == "/kept"


async def test_a_last_look_may_still_let_it_run(sessions: Sessions, backend: Backend) -> None:
    record = await begun(sessions)
    backend.crash(record)  # so that there is nothing to save

    async def look() -> None:
        raise Conflict("somebody came")

    with pytest.raises(Conflict, match="somebody came"):
        await sessions.stop(record, last_look=look)
    assert (await sessions.get(ANN, record.session_id)).state is State.RUNNING
    await sessions.end(record)  # and nobody holds it


# -- found -----------------------------------------------------------------------------------------------


async def test_of_a_backend_whose_engine_is_down_sessions_are_unknown_and_say_why(
    sessions: Sessions, backend: Backend
) -> None:
    running, over = await begun(sessions), await stopped(sessions)
    backend.down = "Docker does not answer; is dockerd running?"
    seen = {each.record.session_id: each for each in await sessions.list(ANN, stopped=True)}
    assert (seen[running.session_id].state, seen[running.session_id].unknown) == ("unknown", backend.down)
    assert seen[over.session_id].state == "stopped"
    with pytest.raises(Unavailable, match="Docker does not answer"):
        await sessions.restart(running)
    assert (await sessions.get(ANN, running.session_id)).state is State.RUNNING


@pytest.mark.parametrize(
    "attack",
    [
        "../../etc",
        "/etc",
        "",
        ".",
        "..",
        "a\0b",
        "' OR 1=1 --",
        "%",
        "session_*",
        "a/b",
        "\ud800",
        "s" * 4000,
    ],
)
async def test_an_id_that_is_none_or_anothers_is_not_found(sessions: Sessions, attack: str) -> None:
    theirs = await begun(sessions, user=BOB)
    for wanted in (attack, theirs.session_id):
        for ask in (sessions.get, sessions.destroy, sessions.ensure_running, sessions.find):
            with pytest.raises((NotFound, InvalidRequest), match=r"no session"):
                await ask(ANN, wanted)
    assert (await sessions.get(BOB, theirs.session_id)).state is State.RUNNING


# -- left half way ---------------------------------------------------------------------------------------


async def test_whoever_stays_puts_in_order_what_others_left(tmp_path: Path, backend: Backend) -> None:
    dead = Leasing(Records(tmp_path / "r.sqlite3"), replace(HERE, started=1))  # of this id, but not this one
    left = Sessions(
        PathManager(tmp_path), Records(tmp_path / "r.sqlite3"), {backend.name: backend}, leasing=dead
    )
    fresh = await left.begin(ANN, "site", WISHES, "dictionary")
    worked = await begun(left)
    await left.end(worked)
    await left.restart(await left.get(ANN, worked.session_id))
    async with opened(tmp_path, backend) as sessions:
        seen = await sessions.list(ANN, stopped=True)
        assert [(each.record.session_id, each.state) for each in seen] == [(worked.session_id, "stopped")]
        assert backend.running == {}
        with pytest.raises(NotFound):
            await sessions.get(ANN, fresh.session_id)


async def test_whoever_cannot_put_it_in_order_lets_go_of_the_registry(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuses() -> Any:
        raise Busy("the registry was in use")

    monkeypatch.setattr(sessions, "reconcile", refuses)
    with pytest.raises(Busy, match="the registry was in use"):
        await sessions.__aenter__()
    assert tmp_path / "r.sqlite3" not in [each.resolve() for each in Path("/proc/self/fd").iterdir()]


async def test_what_somebody_is_at_work_on_is_left_to_them(
    sessions: Sessions, tmp_path: Path, backend: Backend
) -> None:
    record = await sessions.begin(ANN, "site", WISHES, "dictionary")
    assert await opened(tmp_path, backend, "two").reconcile() == []
    assert (await sessions.ready(record)).state is State.RUNNING


class Clinging(Backend):
    """Whose sandboxes do not go at first, and whose registry is full by then."""

    def __init__(self, disk: FullDisk) -> None:
        super().__init__()
        self.disk = disk
        self.refusals: list[Exception] = []

    async def create(self, launch: Launch) -> Guest:
        guest = await super().create(launch)
        self.disk.full = bool(self.refusals)
        return guest

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        self.disk.full = False
        if self.refusals:
            raise self.refusals.pop()
        return await super().destroy(guest_id, keep_files=keep_files)


@pytest.mark.parametrize("why", [Unavailable("the engine is down"), OSError(errno.EBUSY, "it is in use")])
@pytest.mark.parametrize("again", [False, True], ids=["begun", "resumed"])
async def test_a_start_that_cannot_be_undone_is_left_to_whoever_puts_in_order(
    again: bool, why: Exception, tmp_path: Path
) -> None:
    disk = FullDisk(tmp_path / "r.sqlite3")
    backend = Clinging(disk)
    sessions = Sessions(PathManager(tmp_path), disk, {backend.name: backend})
    record = await stopped(sessions) if again else None
    backend.refusals.append(why)
    with pytest.raises((NoSpace, OSError)):
        await (sessions.restart(record) if record else begun(sessions))
    assert len(backend.running) == 1
    assert len(await opened(tmp_path, backend, "two").reconcile()) == 1
    assert backend.running == {}


async def test_what_cannot_be_put_in_order_now_is_told_and_tried_again(
    sessions: Sessions, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Leasing(Records(tmp_path / "r.sqlite3"), replace(HERE, started=1))
    left = Sessions(
        PathManager(tmp_path), Records(tmp_path / "r.sqlite3"), {backend.name: backend}, leasing=gone
    )
    record = await left.begin(ANN, "site", WISHES, "dictionary")

    async def down(*_: object, **__: object) -> Any:
        raise Unavailable("the engine is down")

    with monkeypatch.context() as broken:
        broken.setattr(backend, "destroy", down)
        (told,) = await sessions.reconcile()
        assert told.sentence == f"{record.session_id} was left initializing: the engine is down"
    (told,) = await sessions.reconcile()
    assert "was undone" in told.sentence or "was finished" in told.sentence
    assert backend.running == {}


# -- clocks and ports ------------------------------------------------------------------------------------


async def test_a_wall_clock_that_jumps_makes_no_two_ids_alike_and_loses_nothing(
    tmp_path: Path, backend: Backend
) -> None:
    now = [datetime(2026, 11, 21, 9, 0, tzinfo=UTC)]
    sessions = opened(tmp_path, backend, now=lambda: now[0])
    records = []
    for jump in (0, 0, -3600, 86400 * 400, -86400 * 4000):
        now[0] += timedelta(seconds=jump)
        records.append(await begun(sessions))
    assert len({record.session_id for record in records}) == len(records)
    assert {seen.record.session_id for seen in await sessions.list(ANN)} == {
        each.session_id for each in records
    }
    assert await opened(tmp_path, backend, "two").reconcile() == []
    for record in records:
        await sessions.end(record)
        again = await sessions.restart(await sessions.get(ANN, record.session_id))
        assert (again.created, again.session_id) == (record.created, record.session_id)


async def test_when_all_ports_are_taken_the_error_names_their_range(sessions: Sessions) -> None:
    first, *rest = (free_port() for _ in range(3))
    few = PortWishes(tool=Wish(0), dev=Wish(first, rest))
    for _ in range(3):
        await begun(sessions, few)
    with pytest.raises(Busy, match=f"port {first} and all from {rest[0]} to {rest[-1]} are taken; stop a"):
        await begun(sessions, few)
    assert len(await sessions.list(ANN, stopped=True)) == 3
    await sessions.end((await sessions.list(ANN))[0].record)
    await begun(sessions, few)


def test_session_ids_are_plain(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        PathManager(tmp_path).workspace_dir(ANN, SessionId("../x"))
