"""A dev server is started anew when its packages, its scripts or files that were named have changed."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.limits import Limits
from protocol.messages.devserver import DevStart, DevState
from protocol.paths import WorkspacePath
from tests.builder import PATIENCE_SECONDS, Daemon, Http, Json, Socket, http_of, until
from tests.ports import free_port
from toolserver.system.disk import Disk
from toolserver.tools import renewal
from toolserver.tools.renewal import Renewal
from toolserver.tools.restarts import Tally

SERVE = "exec python3 -m http.server {port} --bind {host}"
INSTALL = "echo x >> installs; wc -l < installs > package-lock.json"
"""One that counts, and writes another lock file each time, as a package manager may."""
ANEW = ["stopping", "down", "starting", "ready"]
INSTALLED = ["stopping", "down", "installing", "down", "starting", "ready"]


@pytest.fixture(autouse=True)
async def clean(daemon: Daemon, root: Path) -> AsyncIterator[None]:
    yield
    async with http_of(daemon) as http:
        await http.ok("dev_stop")


def package(root: Path, **said: object) -> None:
    """In one step: a reader sees the old one or the new one."""
    (root / "new.tmp").write_text(json.dumps({"scripts": {"dev": "one"}, **said}))
    (root / "new.tmp").rename(root / "package.json")


async def started(http: Http, socket: Socket, install: str = INSTALL, **dev: object) -> Json:
    """It runs, and what becomes of it is followed."""
    answer = await http.ok(
        "start", install={"command": install}, dev={"command": SERVE, "port": free_port(), **dev}
    )
    status: Json = answer["dev"]
    await socket.send("about", "dev_status", {"follow": True, "fromEvent": status["nextEvent"]})
    return status


async def told(socket: Socket, count: int) -> list[Json]:
    return [(await socket.next_of("about"))["event"] for _ in range(count)]


async def test_changed_packages_are_installed_and_it_starts_anew(
    http: Http, socket: Socket, root: Path
) -> None:
    package(root)
    first = await started(http, socket)
    package(root, dependencies={"a": "1.0.0"})
    events = await told(socket, len(INSTALLED))
    assert [each["state"] for each in events] == INSTALLED
    assert {each["reason"] for each in events[:4]} == {"package.json changed"}
    assert (root / "installs").read_text() == "x\nx\n"
    status = await http.ok("dev_status")
    assert (status["state"], status["restarts"], status["reason"]) == ("ready", 1, None)
    assert status["pid"] != first["pid"]
    # The lock file that the install wrote is no reason; scripts are one, and nothing is installed for them.
    package(root, dependencies={"a": "1.0.0"}, scripts={"dev": "two"})
    assert [each["state"] for each in await told(socket, len(ANEW))] == ANEW
    assert (root / "installs").read_text() == "x\nx\n"


async def test_packages_that_change_while_they_are_installed_are_installed_too(
    http: Http, socket: Socket, root: Path
) -> None:
    package(root)
    hang = "[ ! -e hang ] || { rm hang; touch on; while [ ! -e go ]; do sleep 0.02; done; }"
    await started(http, socket, f"{INSTALL}; {hang}")
    (root / "hang").touch()
    package(root, dependencies={"a": "1.0.0"})
    await until((root / "on").exists)
    package(root, dependencies={"a": "1.0.0", "b": "1.0.0"})
    (root / "go").touch()
    assert [each["state"] for each in await told(socket, len(INSTALLED))] == INSTALLED
    assert (root / "installs").read_text() == "x\nx\nx\n"


DYING = (
    f"{SERVE} & while [ ! -e die ]; do sleep 0.02; done; rm die; mv next package.json; kill $!; wait; exit 1"
)
"""One that ends once ``die`` is there, and what ``next`` is has become package.json by then."""


@pytest.mark.parametrize("broken", [False, True])
async def test_packages_that_are_named_while_a_crashed_one_is_started_again_are_installed(
    http: Http, socket: Socket, root: Path, broken: bool
) -> None:
    package(root)
    await started(http, socket, command=DYING.replace("exec ", ""))
    named = {"scripts": {"dev": "one"}, "dependencies": {"a": "1.0.0"}}
    (root / "next").write_text("{" if broken else json.dumps(named))
    (root / "die").touch()
    if broken:
        while (await told(socket, 1))[0]["state"] != "ready":
            pass
        package(root, **named)
    await until(lambda: (root / "installs").read_text() == "x\nx\n", "its packages to be installed")
    while (await told(socket, 1))[0]["state"] != "installing":
        pass
    while (await told(socket, 1))[0]["state"] != "ready":
        pass
    assert (await http.ok("dev_status"))["state"] == "ready"


def over(disk: Disk, dev: object) -> Renewal:
    """One that looks after nothing that runs."""
    parts = SimpleNamespace(number=1), disk, dev, SimpleNamespace(running=False), Limits()
    return Renewal(*cast(Any, parts))


async def test_a_change_for_which_it_could_not_be_started_anew_is_judged_again(tmp_path: Path) -> None:
    reasons: list[str] = []

    def renew(why: str, _: object) -> bool:
        reasons.append(why)
        return False

    disk = Disk(tmp_path)
    life = SimpleNamespace(tally=Tally())
    looking = over(disk, SimpleNamespace(state=DevState.READY, life=life, renew=renew))
    package(tmp_path)
    await looking.launching(DevStart())
    package(tmp_path, dependencies={"a": "1.0.0"})
    for _ in range(2):
        await looking._judge(DevStart(), None, 0.0, None)
    assert reasons == ["package.json changed"] * 2
    disk.close()


def test_which_packages_are_named_is_told_by_package_json_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = Disk.read, list[str]()

    def noted(self: Disk, path: WorkspacePath, max_bytes: int | None = None) -> tuple[bytes, os.stat_result]:
        seen.append(path)
        return read(self, path, max_bytes)

    disk = Disk(tmp_path)
    package(tmp_path)
    (tmp_path / "package-lock.json").write_text("{}")
    monkeypatch.setattr(Disk, "read", noted)
    assert set(over(disk, SimpleNamespace())._packages()) == {"package.json"}
    assert seen == ["package.json"]
    disk.close()


async def test_an_install_is_waited_for_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "_QUIET_SECONDS", 0)
    installs = SimpleNamespace(running=True)
    parts = SimpleNamespace(number=1), None, SimpleNamespace(), installs, Limits()
    waiting = asyncio.create_task(Renewal(*cast(Any, parts))._quiet())
    for _ in range(200):
        await asyncio.sleep(0)
    assert not waiting.done()
    installs.running = False
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting


async def test_what_somebody_installed_already_is_not_installed_again(
    http: Http, socket: Socket, root: Path
) -> None:
    package(root)
    await started(http, socket)
    marker = root / "node_modules" / ".package-lock.json"
    marker.parent.mkdir()
    marker.touch()
    later = time.time() + 3600
    os.utime(marker, (later, later))
    (root / "package-lock.json").write_text("by somebody else")
    events = await told(socket, len(ANEW))
    assert [each["state"] for each in events] == ANEW
    assert events[0]["reason"] == "package-lock.json changed"
    assert (root / "installs").read_text() == "x\n"


async def test_a_failed_install_is_told_and_the_page_comes_back(
    http: Http, socket: Socket, root: Path
) -> None:
    package(root)
    install = "[ ! -e broken ] || { echo 'no such package'; exit 1; }"
    await started(http, socket, install)
    (root / "broken").touch()
    package(root, devDependencies={"a": "1.0.0"})
    events = await told(socket, len(INSTALLED))
    assert [each["state"] for each in events] == INSTALLED
    assert "failed with exit code 1: no such package" in events[-1]["reason"]
    assert (await http.ok("dev_status"))["reason"] == events[-1]["reason"]


async def test_named_files_start_it_anew_and_others_do_not(http: Http, socket: Socket, root: Path) -> None:
    package(root)
    await started(http, socket, restartOn=["/config/*.json"])
    package(root, scripts={"dev": "two"})
    (root / "config").mkdir()
    (root / "config" / "site.json").write_text("{}")
    events = await told(socket, len(ANEW))
    assert [each["state"] for each in events] == ANEW
    assert events[0]["reason"] == "config/site.json changed"
    refused = await http.refused("dev_start", restartOn=["!"], command="x", port=free_port())
    assert (refused.code, refused.details["field"]) == ("invalid_request", "restartOn")


async def hanging_in_its_install(http: Http, socket: Socket, root: Path) -> None:
    """It is being started anew, for packages whose install does not end."""
    package(root)
    await started(http, socket, "[ ! -e hang ] || { touch on; sleep 1000; }")
    (root / "hang").touch()
    package(root, dependencies={"a": "1.0.0"})
    await until((root / "on").exists)


async def test_a_stop_ends_it_in_the_middle_of_the_install(
    http: Http, socket: Socket, daemon: Daemon, root: Path
) -> None:
    await hanging_in_its_install(http, socket, root)
    stopped = await http.ok("dev_stop")
    assert stopped["state"] == "down"
    assert daemon.children() == set()
    assert [each["state"] for each in await told(socket, 4)] == INSTALLED[:4]


async def test_who_waits_for_it_to_be_started_anew_is_told_of_a_stop(
    http: Http, socket: Socket, daemon: Daemon, root: Path
) -> None:
    await hanging_in_its_install(http, socket, root)
    await socket.send("again", "dev_start", {})
    assert (await socket.ok("dev_stop"))["state"] == "down"
    _, last = await socket.end_of("again")
    assert last["error"]["message"] == "the dev server was stopped before it was ready"
    assert (await http.ok("dev_status"))["state"] == "down"
    assert daemon.children() == set()
