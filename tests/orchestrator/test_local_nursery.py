"""Tool servers that are forked: each like one that was started, and none depends on who forked it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.backends import Guest, GuestState
from orchestrator.backends.environment import area_marker
from orchestrator.backends.local import LocalBackend, Settings
from orchestrator.backends.local_nursery import Nursery, NurseryGone
from orchestrator.client import open_client
from orchestrator.isolation.isolation import Setting
from orchestrator.isolation.nursery import Order
from orchestrator.isolation.tiers import Wish
from orchestrator.paths import PathManager, SessionArea
from tests.backend_suite import launch

PROJECT = Path(__file__).parents[2]
WAIT_SECONDS = 60
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may always look into processes")

TAKEN_ON = """
import json, os, subprocess
from pathlib import Path
from orchestrator.isolation import appearance
from toolserver.system import tree
os.environ["BEFORE"] = "1"
appearance.take_on(["the", "daemon"], {"A": "1", "TOOL_SERVER_TOKEN": "secret"})
def seen():
    return Path("/proc/self/environ").read_text().split("\\0")[:-1]
first = seen()
tree.erase_variable("TOOL_SERVER_TOKEN")
print(json.dumps({
    "command": Path("/proc/self/cmdline").read_text(),
    "first": first, "then": seen(), "ours": os.environ["A"],
    "handed on": subprocess.run(["/usr/bin/env"], capture_output=True, text=True).stdout.split(),
}))
"""
ORCHESTRATOR = """
import asyncio, json, sys
from pathlib import Path
from tests.backend_suite import launch
from tests.orchestrator.test_local_nursery import backend
async def main():
    driver = backend(Path(sys.argv[1]))
    guest = await driver.create(launch(sys.argv[2]))
    print(json.dumps(guest.labels), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def data() -> Iterator[Path]:
    """Where a session that is a user of its own gets too."""
    directory = Path(tempfile.mkdtemp(prefix="nursery-"))
    directory.chmod(0o711)
    yield directory / "data"
    for area in directory.glob("data/workspaces/*/.*"):
        processes.send(processes.members(area_marker(SessionArea(area))), signal.SIGKILL)
    shutil.rmtree(directory)


def backend(data: Path, wish: Wish = Wish.AUTO) -> LocalBackend:
    """On this host's strongest isolation, unless told otherwise."""
    setting = Setting(wish, allow_several_users=True)
    return LocalBackend(PathManager(data), Settings(environ=os.environ, isolation=setting, prefork=True))


def pid(guest: Guest) -> int:
    return int(guest.labels["pid"])


def nursery_of(process: int) -> processes.Process:
    """Who forked it."""
    seen = processes.look_up(process)
    assert seen is not None
    parent = processes.look_up(seen.parent)
    assert parent is not None
    assert b"orchestrator.isolation.nursery" in Path(f"/proc/{parent.pid}/cmdline").read_bytes()
    return parent


async def ended(process: processes.Process) -> bool:
    return await processes.wait_until(
        lambda: not processes.is_running(process.pid, process.started), WAIT_SECONDS
    )


def variables(pid: int) -> set[str]:
    return {line.partition("=")[0] for line in Path(f"/proc/{pid}/environ").read_text().split("\0")}


def open_directories(pid: int) -> list[str]:
    opened = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            opened.append(str(each.readlink()))
    return [each for each in opened if Path(each).is_dir()]


def test_a_process_shows_the_command_and_the_environment_that_it_took_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_ON], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["command"] == "the\0daemon\0"
    assert found["first"] == ["A=1", "TOOL_SERVER_TOKEN=secret"]
    assert found["then"] == ["A=1", "TOOL_SERVER_TOKEN=******"]
    assert found["ours"] == "1"
    assert found["handed on"] == ["A=1"]


@needs_root
async def test_a_forked_one_looks_like_one_that_was_started_and_has_nothing_of_another(data: Path) -> None:
    driver = backend(data)
    first = await driver.create(launch("first", MINE="1"))
    second = await driver.create(launch("second"))
    assert nursery_of(pid(first)) == nursery_of(pid(second))
    assert variables(pid(first)) - variables(pid(second)) == {"MINE"}
    assert "PATH" in variables(pid(second))
    assert b"-m\0toolserver\0" in Path(f"/proc/{pid(second)}/cmdline").read_bytes()
    root = str(PathManager(data).workspace_dir("ann", "second"))
    # Once it is at rest: one that has just begun looks into its own directories.
    at_rest = await processes.wait_until(lambda: open_directories(pid(second)) == [root], WAIT_SECONDS)
    assert at_rest, open_directories(pid(second))
    for guest in (first, second):
        await driver.destroy(guest.id)


async def test_two_that_were_forked_from_one_draw_different_numbers(data: Path) -> None:
    driver, drawn = backend(data, Wish.NONE), []
    for wanted in (launch(), launch()):
        guest = await driver.create(wanted)
        async with open_client(driver.endpoint(guest, guest.tool_port).url, wanted.token) as client:
            drawn.append((await client.command(argv=["/bin/true"])).process_id)
        nursery_of(pid(guest))
        await driver.destroy(guest.id)
    assert drawn[0] != drawn[1]


@needs_root
async def test_what_forks_them_holds_nothing_of_their_sessions(data: Path) -> None:
    driver = backend(data)
    guest = await driver.create(wanted := launch("holdsnothing"))
    forker = nursery_of(pid(guest)).pid
    memory = b"".join(writable_memory(forker))
    assert b"toolserver" in memory
    assert wanted.token_sha256.encode() not in memory
    assert b"holdsnothing" not in memory
    await driver.destroy(guest.id)


def writable_memory(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if (found := re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)) is not None:
                begin, end = (int(each, 16) for each in found.groups())
                file.seek(begin)
                yield file.read(end - begin)


async def test_when_what_forks_them_is_killed_they_go_on_and_the_next_start_has_another(data: Path) -> None:
    driver = backend(data)
    guest = await driver.create(wanted := launch())
    forker = nursery_of(pid(guest))
    os.kill(forker.pid, signal.SIGKILL)
    assert await ended(forker)
    async with open_client(driver.endpoint(guest, guest.tool_port).url, wanted.token) as client:
        assert (await client.command(argv=["/bin/echo", "on"])).stdout == "on\n"
    # The one that finds nobody there is started by itself.
    more = [await driver.create(launch()) for _ in range(2)]
    assert nursery_of(pid(more[1])) != forker
    for each in (guest, *more):
        assert (await driver.destroy(each.id)).survivors == ()
    assert await driver.guests() == []


async def test_an_orchestrator_that_is_killed_leaves_its_sessions_to_the_next_one(data: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ORCHESTRATOR, str(data), "left"), cwd=PROJECT, stdout=subprocess.PIPE
    )
    assert program.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        labels = json.loads(await program.stdout.readline())
        forker = nursery_of(int(labels["pid"]))
        program.kill()
        await program.wait()
    assert await ended(forker)
    driver = backend(data)
    (guest,) = await driver.guests()
    assert guest.state is GuestState.RUNNING
    assert guest.labels == labels
    assert (await driver.destroy(guest.id)).survivors == ()
    assert processes.members(area_marker(PathManager(data).session_area("ann", "left"))) == set()


async def test_it_ends_with_the_backend_that_started_it(data: Path) -> None:
    driver = backend(data, Wish.NONE)
    guest = await driver.create(launch())
    forker = nursery_of(pid(guest))
    await driver.destroy(guest.id)
    del driver
    gc.collect()
    assert await ended(forker)


async def test_variables_that_python_reads_at_its_start_are_given_to_a_python_that_starts(data: Path) -> None:
    driver = backend(data, Wish.NONE)
    guest = await driver.create(launch(PYTHONHASHSEED="7"))
    seen = processes.look_up(pid(guest))
    assert seen is not None
    assert seen.parent == os.getpid()
    await driver.destroy(guest.id)


class Standin:
    """A nursery of a small package whose ``prepare`` is ``line``; its ``main`` says that it ran."""

    def __init__(self, directory: Path, line: str = "pass") -> None:
        (directory / "standin").mkdir()
        main = f"def prepare():\n    {line}\ndef main(words):\n    print(*words, flush=True)\n"
        (directory / "standin" / "__main__.py").write_text(main)
        self.log, self.out, self.error = (directory / name for name in ("log", "out", "error"))
        self.nursery = Nursery("standin", {"PYTHONPATH": str(directory)}, self.log)

    async def becomes(self, *words: str) -> int:
        """How it was told to tie itself down; back when it has ended."""
        order = Order(["standin"], ["it", "ran"], [*words], {}, "/")
        with self.out.open("ab") as out, self.error.open("ab") as error:
            pid, started = await asyncio.to_thread(self.nursery.begin, order, out.fileno(), error.fileno())
        assert await ended(processes.Process(pid, 0, 0, "", started))
        return pid


async def test_one_that_is_to_be_tied_down_and_cannot_be_does_not_run(tmp_path: Path) -> None:
    standin = Standin(tmp_path)
    await standin.becomes()
    assert standin.out.read_text() == "it ran\n"
    await standin.becomes("cover", "/no/such", "tmp", "/no/such", "passwd", "/no/such")
    assert standin.out.read_text() == "it ran\n"
    assert standin.error.read_text().startswith("this host does not let a workspace be isolated: ")


async def test_where_the_kernel_gives_a_fork_no_environment_of_its_own_none_is_asked_for_twice(
    tmp_path: Path,
) -> None:
    """Refused by a stand-in for a kernel that was built without that."""
    line = "from orchestrator.isolation import appearance; appearance.take_on = lambda *_: open('/no/such')"
    standin = Standin(tmp_path, line)
    for _ in range(2):
        with pytest.raises(NurseryGone, match="a forked process cannot have an environment of its own"):
            await standin.becomes()
    assert not standin.out.read_text()


async def test_a_module_that_starts_a_thread_when_it_is_loaded_is_not_forked(tmp_path: Path) -> None:
    line = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    standin = Standin(tmp_path, line)
    with pytest.raises(NurseryGone, match="has ended"):
        await standin.becomes()
    assert "standin has started a thread while it was loaded" in standin.log.read_text()


async def test_of_two_orders_that_meet_its_end_the_second_ends_none_that_was_begun_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin, send, begun = Standin(tmp_path), socket.send_fds, list[int]()

    def sent_late(control: socket.socket, data: list[bytes], descriptors: list[int]) -> int:
        monkeypatch.setattr(socket, "send_fds", send)
        standin.nursery.close()  # by another order, which the end reached first
        with standin.out.open("ab") as out:
            order = Order(["standin"], ["it", "ran"], [], {}, "/")
            begun.append(standin.nursery.begin(order, out.fileno(), out.fileno())[0])
        return send(control, data, descriptors)

    monkeypatch.setattr(socket, "send_fds", sent_late)
    with pytest.raises(NurseryGone, match="has ended"):
        await standin.becomes()
    monkeypatch.setattr(Nursery, "_started", None)  # the one that was begun since is there
    await standin.becomes()
    assert len(begun) == 1


def test_one_that_cannot_load_its_module_says_where_its_complaint_is(tmp_path: Path) -> None:
    nursery, log = Nursery("no_such_module", {}, tmp_path / "log"), tmp_path / "log"
    order = Order([], [], [], {}, "/")
    with log.open("ab") as out, pytest.raises(NurseryGone, match=re.escape(str(log))):
        nursery.begin(order, out.fileno(), out.fileno())
    assert "No module named 'no_such_module'" in log.read_text()
