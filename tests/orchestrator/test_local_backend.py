"""Sandboxes as processes: begun, found again, ended to the last one. The daemon is a stand-in."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.backends import Endpoint, Guest, GuestState, Launch, local_place
from orchestrator.backends.environment import marker
from orchestrator.backends.local import LocalBackend, Settings
from orchestrator.directories import private_directory
from orchestrator.isolation.isolation import Setting
from orchestrator.isolation.tiers import Wish
from orchestrator.paths import PathManager, SessionId, UserId
from orchestrator.spares import SpareTrees
from protocol.errors import AlreadyExists, Unavailable
from tests.builder import is_alive

FAKE = str(Path(__file__).with_name("fake_daemon.py"))
SESSION = f"s{os.getpid()}"
"""Of this run alone: processes are looked for by it on the whole machine, where other runs may be."""
WAIT_SECONDS = 60
SECRET = {"AWS_SECRET_ACCESS_KEY": "x", "PATH": os.environ["PATH"]}


def backend(data: Path, *words: str, term_seconds: float = 5.0) -> LocalBackend:
    command = (sys.executable, FAKE, *words)
    return LocalBackend(
        PathManager(data),
        Settings(environ=SECRET, command=command, term_seconds=term_seconds, isolation=Setting(Wish.NONE)),
    )


def launch(session: str = SESSION, user: str = "ann") -> Launch:
    return Launch(
        user_id=UserId(user), session_id=SessionId(session), token="t" * 20, tool_port=7001, dev_port=7002
    )


def area(data: Path) -> Path:
    return data / "workspaces" / "ann" / f".{SESSION}"


def left_of(session: str = SESSION) -> set[int]:
    return processes.members(marker(session))


def pid(guest: Guest) -> int:
    return int(guest.labels["pid"])


async def test_a_guest_runs_and_is_reached_on_loopback(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    assert (guest.id, guest.tool_port, guest.dev_port) == (f"ann/{SESSION}", 7001, 7002)
    assert driver.endpoint(guest, guest.dev_port) == Endpoint("http://127.0.0.1:7002")
    await driver.destroy(guest.id)


async def test_the_daemon_is_told_all_by_its_environment_and_nothing_of_the_hosts_secrets(
    tmp_path: Path,
) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    environ = json.loads((area(tmp_path) / "environ.json").read_text())
    root = str(tmp_path / "workspaces" / "ann" / SESSION)
    expected = {
        "TOOL_SERVER_HOST": "127.0.0.1",
        "TOOL_SERVER_PORT": "7001",
        "TOOL_SERVER_TOKEN_SHA256": hashlib.sha256(b"t" * 20).hexdigest(),
        "TOOL_SERVER_STATE_DIR": str(area(tmp_path) / "state"),
        "WORKSPACE_ROOT": root,
        "DEV_SERVER_PORT": "7002",
        "SESSION_ID": SESSION,
        "HOME": str(area(tmp_path) / "home"),
    }
    assert expected.items() <= environ.items()
    assert "AWS_SECRET_ACCESS_KEY" not in environ
    assert "t" * 20 not in str(environ)
    await driver.destroy(guest.id)


async def test_all_directories_are_their_owners_alone(tmp_path: Path) -> None:
    driver = backend(tmp_path / "data")
    guest = await driver.create(launch())
    made = [path for path in (tmp_path / "data").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
    await driver.destroy(guest.id)


async def test_a_guest_is_found_by_another_orchestrator_and_ended_by_it(tmp_path: Path) -> None:
    guest = await backend(tmp_path).create(launch())
    other = backend(tmp_path)
    assert await other.guests() == [guest]
    assert (await other.destroy(guest.id)).survivors == ()
    assert await other.guests() == []
    assert left_of() == set()


async def test_a_daemon_that_was_killed_is_shown_dead_and_cleaned_up(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    os.kill(pid(guest), signal.SIGKILL)
    assert await processes.wait_until(lambda: not is_alive(pid(guest)), WAIT_SECONDS)
    assert [each.state for each in await driver.guests()] == [GuestState.DEAD]
    assert (await driver.destroy(guest.id)).found
    assert not area(tmp_path).exists()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's of ours."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


async def test_a_process_that_got_the_same_id_later_is_not_ours(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    os.kill(pid(guest), signal.SIGKILL)
    assert await processes.wait_until(lambda: not is_alive(pid(guest)), WAIT_SECONDS)
    label = area(tmp_path) / "guest.json"
    seen = processes.look_up(stranger.pid)
    assert seen is not None
    labels = {"pid": str(stranger.pid), "started": str(seen.started - 1)}
    label.write_text(json.dumps(json.loads(label.read_text()) | {"labels": labels}))
    assert [each.state for each in await driver.guests()] == [GuestState.DEAD]
    await driver.destroy(guest.id)
    assert stranger.poll() is None


async def test_a_daemon_that_ignores_term_is_killed(tmp_path: Path) -> None:
    driver = backend(tmp_path, "ignore-term", term_seconds=0.1)
    guest = await driver.create(launch())
    outcome = await driver.destroy(guest.id)
    assert (outcome.killed, outcome.survivors) == (1, ())
    assert left_of() == set()


async def test_a_child_that_left_the_session_and_ignores_term_is_killed_too(tmp_path: Path) -> None:
    driver = backend(tmp_path, "child")
    guest = await driver.create(launch())
    child = int((area(tmp_path) / "child").read_text())
    assert child in left_of()
    outcome = await driver.destroy(guest.id)
    assert (outcome.killed, outcome.survivors) == (1, ())
    assert left_of() == set()


async def test_what_a_killed_daemon_left_behind_is_killed(tmp_path: Path) -> None:
    driver = backend(tmp_path, "child")
    guest = await driver.create(launch())
    os.kill(pid(guest), signal.SIGKILL)
    assert await processes.wait_until(lambda: not is_alive(pid(guest)), WAIT_SECONDS)
    outcome = await driver.destroy(guest.id)
    assert (outcome.killed, left_of()) == (1, set())


async def test_files_are_kept_when_asked_and_removed_later(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    root = tmp_path / "workspaces" / "ann" / SESSION
    (root / "work.txt").write_text("mine")
    assert (await driver.destroy(guest.id, keep_files=True)).kept == str(root)
    assert (root / "work.txt").read_text() == "mine"
    assert not area(tmp_path).exists()
    assert (await driver.destroy(guest.id)).found
    assert not root.exists()


async def test_ending_twice_is_no_error(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    await driver.destroy(guest.id)
    assert not (await driver.destroy(guest.id)).found


async def test_a_daemon_that_dies_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    driver = backend(tmp_path, "die")
    with pytest.raises(Unavailable, match="ended at once: the root is on fire"):
        await driver.create(launch())
    assert await driver.guests() == []
    assert not (tmp_path / "workspaces" / "ann" / SESSION).exists()


async def test_a_daemon_that_never_listens_is_given_up_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.backends.local.START_SECONDS", 0.3)
    with pytest.raises(Unavailable, match=r"was not up after 0\.3 s: it said nothing"):
        await backend(tmp_path, "silent").create(launch())
    assert left_of() == set()


async def test_cancelling_a_start_leaves_no_process(tmp_path: Path) -> None:
    starting = asyncio.create_task(backend(tmp_path, "silent").create(launch()))
    assert await processes.wait_until(lambda: bool(left_of()), WAIT_SECONDS)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert left_of() == set()
    assert not area(tmp_path).exists()


@pytest.mark.parametrize("refused", [False, True])
async def test_a_start_cancelled_while_directories_are_made_leaves_none_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    begun, go, over, make = threading.Event(), threading.Event(), threading.Event(), local_place.Place.make

    def slowly(place: local_place.Place, existing: bool) -> None:
        begun.set()
        assert go.wait(WAIT_SECONDS)
        try:
            make(place, existing)
        finally:
            over.set()

    root = tmp_path / "workspaces" / "ann" / SESSION
    if refused:  # for they are another one's
        root.mkdir(parents=True)
    monkeypatch.setattr(local_place.Place, "make", slowly)
    starting = asyncio.create_task(backend(tmp_path).create(launch()))
    assert await asyncio.to_thread(begun.wait, WAIT_SECONDS)
    starting.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await asyncio.to_thread(over.wait, WAIT_SECONDS)
    assert root.exists() == refused
    assert not area(tmp_path).exists()


async def test_files_that_were_there_before_outlive_a_start_that_fails(tmp_path: Path) -> None:
    work = tmp_path / "workspaces" / "ann" / SESSION / "work.txt"
    work.parent.mkdir(parents=True)
    work.write_text("mine")
    again = dataclasses.replace(launch(), existing=True)
    with pytest.raises(Unavailable, match="the root is on fire"):
        await backend(tmp_path, "die").create(again)
    starting = asyncio.create_task(backend(tmp_path, "silent").create(again))
    assert await processes.wait_until(lambda: bool(left_of()), WAIT_SECONDS)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert work.read_text() == "mine"
    assert not area(tmp_path).exists()


async def test_two_sessions_never_share_a_directory(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    with pytest.raises(AlreadyExists, match=SESSION):
        await driver.create(launch())
    assert [each.state for each in await driver.guests()] == [GuestState.RUNNING]
    await driver.destroy(guest.id)


async def test_ten_start_at_once(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guests = await asyncio.gather(*(driver.create(launch(f"{SESSION}_{n}")) for n in range(10)))
    assert len({pid(guest) for guest in guests}) == 10
    await asyncio.gather(*(driver.destroy(guest.id) for guest in guests))
    assert await driver.guests() == []


async def test_a_label_cut_short_by_a_crash_hides_no_process(tmp_path: Path) -> None:
    driver = backend(tmp_path)
    guest = await driver.create(launch())
    (area(tmp_path) / "guest.json").write_text('{"id": "ann/ses')
    assert await driver.guests() == []
    await driver.destroy(guest.id)
    assert left_of() == set()


async def test_a_start_that_fails_with_a_spare_tree_holds_nothing_open_and_has_another_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def command(_: SpareTrees, key: str, after: float) -> list[str]:
        asked.append(key)
        return ["/bin/true"]

    monkeypatch.setattr(SpareTrees, "_command", command)
    driver = backend(tmp_path, "die")
    driver._settings = dataclasses.replace(driver._settings, command=(str(tmp_path / "no such program"),))
    spares = SpareTrees(private_directory(PathManager(tmp_path).store_dir))
    spares.note("lock", "key")
    (spares.store / "spares" / f"key-{processes.boot()[:8]}-1").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        await driver.create(dataclasses.replace(launch(), lock="lock"))
    assert asked == ["key"]
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert not [each for each in held if each.startswith(str(tmp_path))]
    assert not area(tmp_path).exists()
