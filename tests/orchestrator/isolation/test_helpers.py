"""What serves a sandbox from outside ends with it, however it ends. The daemon is a stand-in."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.backends import Guest, GuestState, Launch
from orchestrator.backends.environment import marker
from orchestrator.backends.local import LocalBackend, Settings
from orchestrator.isolation import probe, reach
from orchestrator.isolation.isolation import Setting
from orchestrator.isolation.tiers import Network, Wish
from orchestrator.paths import PathManager, SessionId, UserId
from orchestrator.spares import SpareTrees
from protocol.errors import Busy
from tests.builder import is_alive

PROJECT = Path(__file__).parents[3]
DAEMON = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the first process of a namespace has no default
if sys.argv[1:]:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("listening on http://127.0.0.1:" + os.environ["TOOL_SERVER_PORT"], flush=True)
time.sleep(600)
"""
SESSION = f"s{os.getpid()}"
"""Of this run alone: processes are looked for by it on the whole machine, where other runs may be."""
WAIT_SECONDS = 60
FACTS = probe.look(reach.python_needs(), PROJECT)
no_bwrap = pytest.mark.skipif(bool(FACTS.no_bwrap), reason=FACTS.no_bwrap)
no_network = pytest.mark.skipif(bool(FACTS.no_network), reason=FACTS.no_network)
TIERS = [
    pytest.param((Wish.AUTO, Network.OWN), marks=no_network, id="network"),
    pytest.param((Wish.BWRAP, Network.SHARED), marks=no_bwrap, id="bwrap"),
    pytest.param((Wish.BWRAP, Network.OWN), marks=[no_bwrap, no_network], id="bwrap-network"),
]


@pytest.fixture
def data() -> Iterator[Path]:
    """Others get there: a session may be a user of its own."""
    directory = Path(tempfile.mkdtemp(prefix="helpers-"))
    directory.chmod(0o711)
    yield directory / "data"
    shutil.rmtree(directory)


@pytest.fixture(params=TIERS)
def setting(request: pytest.FixtureRequest) -> Setting:
    wish, network = request.param
    return Setting(wish, network=network)


def backend(data: Path, setting: Setting, *words: str) -> LocalBackend:
    command = (sys.executable, "-c", DAEMON, *words)
    environ = {"PATH": os.environ["PATH"]}
    return LocalBackend(PathManager(data), Settings(environ=environ, command=command, isolation=setting))


def launch(session: str = SESSION, tool_port: int = 0) -> Launch:
    return Launch(
        user_id=UserId("ann"), session_id=SessionId(session), token="t" * 20, tool_port=tool_port, dev_port=0
    )


def around(driver: LocalBackend, data: Path, guest: Guest) -> set[tuple[int, int]]:
    """All that is outside and serves it: process ids with start times."""
    helpers = driver._isolation.helpers(PathManager(data).session_area(guest.user_id, guest.session_id))
    found = {(each.pid, each.started) for each in map(processes.look_up, keepers(helpers)) if each} | helpers
    if "wrapper" in guest.labels:
        pid, _, started = guest.labels["wrapper"].partition(":")
        found.add((int(pid), int(started)))
    return found


def keepers(helpers: set[tuple[int, int]]) -> set[int]:
    """The processes that wait to end these."""
    endings = tuple(f"\0workspace-network\0{pid}\0".encode() for pid, _ in helpers)
    listed = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    return {pid for pid in listed if endings and _command_line(pid).endswith(endings)}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def gone(found: set[tuple[int, int]], session: str = SESSION) -> bool:
    def nothing() -> bool:
        return not processes.still_running(found) and not processes.members(marker(session))

    return await processes.wait_until(nothing, WAIT_SECONDS)


async def test_ending_a_sandbox_ends_its_helpers_and_kills_nobody(data: Path, setting: Setting) -> None:
    driver = backend(data, setting)
    guest = await driver.create(launch())
    serving = around(driver, data, guest)
    assert serving
    assert processes.still_running(serving) == {pid for pid, _ in serving}
    outcome = await driver.destroy(guest.id)
    assert (outcome.killed, outcome.survivors) == (0, ())
    assert await gone(serving)


async def test_helpers_end_with_a_daemon_that_is_killed(data: Path, setting: Setting) -> None:
    driver = backend(data, setting)
    guest = await driver.create(launch())
    serving = around(driver, data, guest)
    os.kill(int(guest.labels["pid"]), signal.SIGKILL)
    assert await gone(serving)
    # Who is ending has no environment any more, and is there for a moment yet.
    assert await processes.wait_until(lambda: not is_alive(int(guest.labels["pid"])), WAIT_SECONDS)
    assert [each.state for each in await driver.guests()] == [GuestState.DEAD]
    await driver.destroy(guest.id)


async def test_helpers_that_nobody_looks_after_any_more_are_ended_with_the_sandbox(
    data: Path, setting: Setting
) -> None:
    driver = backend(data, setting)
    guest = await driver.create(launch())
    serving = around(driver, data, guest)
    for pid in keepers(serving):
        os.kill(pid, signal.SIGKILL)
    outcome = await driver.destroy(guest.id)
    assert outcome.survivors == ()
    assert await gone(serving)


@no_bwrap
async def test_bubblewrap_leaves_nobody_when_its_first_process_is_killed(data: Path) -> None:
    driver = backend(data, Setting(Wish.BWRAP, network=Network.SHARED), "child")
    guest = await driver.create(launch())
    assert await processes.wait_until(lambda: len(processes.members(marker(SESSION))) >= 3, WAIT_SECONDS)
    os.kill(int(guest.labels["pid"]), signal.SIGKILL)
    assert await gone(set())
    await driver.destroy(guest.id)


async def test_a_sandbox_outlives_who_started_it_and_is_ended_by_another(
    data: Path, setting: Setting
) -> None:
    program = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.orchestrator.isolation import test_helpers as here\n"
        "from orchestrator.isolation.isolation import Setting\n"
        "from orchestrator.isolation.tiers import Network, Wish\n"
        "setting = Setting(Wish(sys.argv[2]), network=Network(sys.argv[3]))\n"
        "asyncio.run(here.backend(Path(sys.argv[1]), setting).create(here.launch()))\n"
        "os.kill(0, signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", program, str(data), setting.wish.value, setting.network.value]
    done = await asyncio.to_thread(_run, words)
    assert done.returncode == -signal.SIGKILL
    driver = backend(data, setting)
    (guest,) = await driver.guests()
    assert guest.state is GuestState.RUNNING
    serving = around(driver, data, guest)
    assert processes.still_running(serving) == {pid for pid, _ in serving}
    assert (await driver.destroy(guest.id)).survivors == ()
    assert await gone(serving)


def _run(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, cwd=PROJECT, start_new_session=True, timeout=WAIT_SECONDS, check=False)


@no_network
@pytest.mark.parametrize("which", ["tool_port", "dev_port"])
async def test_a_port_that_is_taken_ends_the_start_and_leaves_nothing(data: Path, which: str) -> None:
    driver = backend(data, Setting(network=Network.OWN))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Busy, match=f"port {port} was taken by another program") as refused:
            await driver.create(replace(launch(), **{which: port}))
    assert refused.value.details == {"lostPort": port}
    assert await gone(set())
    assert [*data.glob("workspaces/*/*")] == []


@no_network
@pytest.mark.parametrize("daemon", ["", "import sys; sys.exit('port 4321 is taken')"], ids=["no", "a liar"])
async def test_a_spare_tree_comes_back_from_a_lost_port_unless_anything_ran(
    data: Path, daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpareTrees, "_command", lambda *_: ["/bin/true"])
    driver, spares = backend(data, Setting(network=Network.OWN)), SpareTrees(PathManager(data).store_dir)
    if not driver._isolation.tier.users:
        pytest.skip("sessions are no users of their own here")
    spares.note("lock", "key")
    tree = spares.store / "spares" / f"key-{processes.boot()[:8]}-1"
    tree.mkdir(parents=True)
    (tree / "file").write_text("a package")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if daemon:
            driver._settings = replace(driver._settings, command=(sys.executable, "-c", daemon))
            port = 0
        with pytest.raises(Busy):
            await driver.create(replace(launch(), dev_port=port, lock="lock"))
    back = [path for each in (spares.store / "spares").iterdir() for path in (each, *each.iterdir())]
    assert [path.name for path in back[1:]] == ([] if daemon else ["file"])
    assert {path.stat().st_uid for path in back} <= {os.geteuid()}


@no_network
async def test_a_start_that_is_cancelled_on_its_way_into_its_network_leaves_no_helper(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = PathManager(data).session_area(UserId("ann"), SessionId(SESSION)).directory
    pasta, file = probe.pasta(), area / "network.pid"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:  # /tmp is not seen from where it starts
        slow = Path(directory) / "pasta"
        slow.write_text(f'#!/bin/sh\n{pasta} "$@" || exit\nsleep 0.5\n')
        slow.chmod(0o755)
        Path(directory).chmod(0o755)
        monkeypatch.setattr(probe, "pasta", lambda: str(slow))
        starting = asyncio.create_task(backend(data, Setting(network=Network.OWN)).create(launch()))
        assert await processes.wait_until(
            lambda: file.exists() and file.read_text().strip() != "", WAIT_SECONDS
        )
        helper = processes.look_up(int(file.read_text()))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert helper is not None
    assert not processes.is_running(helper.pid, helper.started)
