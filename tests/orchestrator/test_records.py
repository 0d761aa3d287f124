"""The registry of sessions."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from orchestrator.backends import Guest
from orchestrator.paths import SessionId, UserId, WorkspaceId
from orchestrator.ports import Wish, choose
from orchestrator.records import Records, SessionRecord
from orchestrator.session_states import Event, State
from protocol.errors import Busy, Internal, NoSpace, NotFound, Unavailable

ANN, BOB = UserId("ann"), UserId("bob")


def record(session: str = "s1", user: UserId = ANN, dev_port: int = 8000) -> SessionRecord:
    return SessionRecord(
        session_id=SessionId(session),
        user_id=user,
        workspace_id=WorkspaceId(f"w-{session}"),
        backend="local",
        template="static-html",
        token="t" * 16,
        tool_port=9000,
        dev_port=dev_port,
        created="2026-11-21T09:34:05.000+00:00",
    )


def guest(session: str = "s1") -> Guest:
    return Guest(
        id=f"ann/{session}",
        backend="local",
        user_id=ANN,
        session_id=SessionId(session),
        tool_port=1,
        dev_port=2,
    )


def stop(records: Records, session: str) -> None:
    records.move(session, Event.STOP)
    records.move(session, Event.ENDED)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "db" / "sessions.sqlite3")


def test_what_was_added_is_found_by_another_terminal(records: Records, tmp_path: Path) -> None:
    records.add(lambda taken: record())
    records.move("s1", Event.MADE, guest=guest(), tool_port=1, dev_port=2)
    records.move("s1", Event.READY)
    expected = msgspec.structs.replace(record(), state=State.RUNNING, guest=guest(), tool_port=1, dev_port=2)
    assert Records(tmp_path / "db" / "sessions.sqlite3").get(ANN, "s1") == expected


def test_nobody_but_the_owner_can_read_it(records: Records, tmp_path: Path) -> None:
    records.add(lambda taken: record())
    db = sqlite3.connect(tmp_path / "db" / "sessions.sqlite3")
    db.execute("BEGIN IMMEDIATE")  # so that its side files are there too
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "db").iterdir()}
    db.close()
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o700


def test_asking_changes_nothing(records: Records, tmp_path: Path) -> None:
    assert records.list(ANN) == []
    assert list(tmp_path.iterdir()) == []


def test_another_users_session_does_not_exist(records: Records) -> None:
    records.add(lambda taken: record())
    with pytest.raises(NotFound, match="no session 's1'"):
        records.get(BOB, "s1")
    assert records.list(BOB) == []


def test_sessions_that_are_over_are_listed_only_when_asked_for(records: Records) -> None:
    records.add(lambda taken: record("s1"))
    records.add(lambda taken: record("s2"))
    stop(records, "s1")
    assert [each.session_id for each in records.list(ANN)] == ["s2"]
    assert [each.session_id for each in records.list(ANN, stopped=True)] == ["s1", "s2"]


def test_ports_of_live_sessions_are_known_to_whoever_chooses(records: Records) -> None:
    records.add(lambda taken: record("s1", BOB, 8000))
    records.add(lambda taken: record("s2", dev_port=8001))
    stop(records, "s2")
    seen: list[frozenset[int]] = []

    def chosen(taken: frozenset[int]) -> SessionRecord:
        seen.append(taken)
        return record("s3")

    records.add(chosen)
    assert seen == [frozenset({8000, 9000})]


def test_a_choice_that_fails_leaves_no_record(records: Records) -> None:
    def fails(taken: frozenset[int]) -> SessionRecord:
        raise Busy("no port is left")

    with pytest.raises(Busy):
        records.add(fails)
    assert records.list(ANN, stopped=True) == []


def test_launches_at_once_never_get_the_same_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.registry.BUSY_SECONDS", 60.0)  # sixteen at once on a slow disk

    def begin(number: int) -> int:
        def chosen(taken: frozenset[int]) -> SessionRecord:
            port = choose(Wish(8000, range(8001, 8100)), taken, lambda port: True)
            return record(f"s{number}", dev_port=port)

        return Records(tmp_path / "r.sqlite3").add(chosen).dev_port

    with ThreadPoolExecutor(16) as pool:
        ports = list(pool.map(begin, range(40)))
    assert len(set(ports)) == 40


def test_a_registry_of_a_later_version_is_left_alone(records: Records, tmp_path: Path) -> None:
    records.add(lambda taken: record())
    db = sqlite3.connect(tmp_path / "db" / "sessions.sqlite3")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Internal, match=r"version 99.*upgrade workspace-core"):
        records.list(ANN)


def test_a_removed_session_is_forgotten(records: Records) -> None:
    records.add(lambda taken: record())
    records.remove("s1")
    assert records.list(ANN, stopped=True) == []


def without_shared_memory(directory: Path) -> None:
    """As on a full disk: what WAL shares cannot be made."""
    for leftover in directory.glob("*-shm"):
        leftover.unlink()
    (directory / "sessions.sqlite3-shm").mkdir()


def test_a_registry_that_cannot_be_shared_is_read_and_its_sessions_are_ended(
    records: Records, tmp_path: Path
) -> None:
    records.add(lambda taken: record())
    without_shared_memory(tmp_path / "db")
    assert [each.session_id for each in records.list(ANN)] == ["s1"]
    stop(records, "s1")
    assert records.get(ANN, "s1").state is State.STOPPED
    records.remove("s1")
    assert records.list(ANN, stopped=True) == []


def test_a_registry_is_shared_again_as_soon_as_it_can_be(records: Records, tmp_path: Path) -> None:
    records.add(lambda taken: record())
    without_shared_memory(tmp_path / "db")
    records.move("s1", Event.STOP)
    (tmp_path / "db" / "sessions.sqlite3-shm").rmdir()
    records.move("s1", Event.ENDED)
    db = sqlite3.connect(tmp_path / "db" / "sessions.sqlite3")
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_no_session_is_added_where_it_could_not_be_written_down(records: Records, tmp_path: Path) -> None:
    records.add(lambda taken: record())
    without_shared_memory(tmp_path / "db")
    with pytest.raises(Unavailable, match=r"cannot be used .* `workspace doctor` may know why"):
        records.add(lambda taken: record("s2"))


def test_a_full_disk_is_said_to_be(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.add(lambda taken: record())
    without_shared_memory(tmp_path / "db")
    monkeypatch.setattr("orchestrator.registry.FULL_BYTES", 1 << 62)
    with pytest.raises(NoSpace, match=r"is full, .*: make room, for example by `workspace down"):
        records.add(lambda taken: record("s2"))


def test_a_damaged_registry_is_told_in_a_sentence(records: Records, tmp_path: Path) -> None:
    records.add(lambda taken: record())
    (tmp_path / "db" / "sessions.sqlite3").write_bytes(b"no registry at all" * 500)
    with pytest.raises(Unavailable, match=r"is damaged .*: move it away"):
        records.list(ANN)
