"""The docker backend does what every backend must, and the tools are the same in it, on the real engine; and
what only a container can."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiodocker
import pytest

from orchestrator.backends import Guest, GuestState
from orchestrator.backends.docker import DockerBackend
from orchestrator.backends.docker_container import MIB, OWNER, Settings
from orchestrator.backends.docker_engine import open_engine
from orchestrator.paths import PathManager
from protocol.errors import Busy, NotFound, ToolError, Unavailable
from tests.backend_suite import PATIENCE_SECONDS, Open, Sandbox, launch
from tests.image.support import IMAGE, daemon_pid, docker, remove_network
from tests.image.support import Guest as Container
from tests.ports import free_port
from tests.tool_suite import ToolSuite

NETWORK = f"tests-of-workspace-core-{secrets.token_hex(4)}"


@pytest.fixture(scope="module", autouse=True)
def network(image: str) -> Iterator[None]:
    """A network of these tests, made by the first container and removed after the last."""
    yield
    remove_network(NETWORK)


def backend(data: Path, **settings: Any) -> DockerBackend:
    return DockerBackend(PathManager(data), Settings(**({"image": IMAGE, "network": NETWORK} | settings)))


def containers(data: Path) -> list[str]:
    """All of this data directory, as the engine's own client sees them."""
    owner = data / "docker" / "owner"
    if not owner.exists():
        return []
    found = docker("ps", "--all", "--quiet", "--filter", f"label={OWNER}={owner.read_text()}")
    return found.split()


def inspected(guest: Guest) -> Any:
    """All that the engine tells of it."""
    return json.loads(docker("inspect", guest.labels["container"]))[0]


class TestDocker(ToolSuite):
    @pytest.fixture
    def open(self) -> Open:
        return backend

    @pytest.fixture
    def crash(self) -> Callable[[Guest], Awaitable[None]]:
        async def kill(guest: Guest) -> None:
            docker("kill", guest.labels["container"])

        return kill

    async def leftovers(self, data: Path) -> list[str]:
        return containers(data)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[DockerBackend]:
    driver = backend(tmp_path)
    yield driver
    for guest in await driver.guests():
        await driver.destroy(guest.id)


async def test_a_container_is_as_narrow_as_it_can_be(driver: DockerBackend) -> None:
    guest = await driver.create(launch())
    seen = inspected(guest)
    host = seen["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Memory"], host["PidsLimit"], host["CpuQuota"]) == (2048 * MIB, 1024, 200_000)
    assert host["Memory"] == host["MemorySwap"]
    assert seen["Config"]["User"] == "node:node"
    bound = [each["HostIp"] for ports in seen["NetworkSettings"]["Ports"].values() for each in ports or ()]
    assert bound == ["127.0.0.1", "127.0.0.1"]
    assert docker("network", "inspect", "--format", "{{len .Containers}}", NETWORK) == "1"


async def test_the_system_cannot_be_written_and_the_workspace_is_on_the_disk(driver: DockerBackend) -> None:
    wanted = launch()
    box = Sandbox(driver, await driver.create(wanted), wanted.token)
    for place in ("/", "/etc", "/usr/local/bin", "/tools", "/run", "/var/tmp"):
        assert (await box.run("touch", f"{place}/x")).exit_code != 0, place
    kinds = (await box.shell("stat -f -c %T /app /home/node /tmp")).split()
    assert "tmpfs" not in kinds[:2]
    assert kinds[2] == "tmpfs"
    assert (await box.run("head", "-c", "1G", "/dev/zero")).exit_code == 0
    assert "No space left" in (await box.run("sh", "-c", "head -c 1G /dev/zero > /tmp/x")).stderr


async def test_a_command_sees_the_processes_of_its_own_container_only(driver: DockerBackend) -> None:
    wishes = [launch(user="ann"), launch(user="bob")]
    ann, bob = [Sandbox(driver, await driver.create(wanted), wanted.token) for wanted in wishes]
    async with ann.client() as client:
        await client.command(command="exec sleep 98765.4321", background=True)
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[9]8765.4321'"
    assert await ann.shell(look) == "1"
    assert (await bob.run("sh", "-c", look)).stdout == "0\n"


async def test_ending_it_removes_its_volumes(driver: DockerBackend) -> None:
    guest = await driver.create(launch())
    volumes = {mount["Name"] for mount in inspected(guest)["Mounts"] if mount["Type"] == "volume"}
    assert len(volumes) == 3
    await driver.destroy(guest.id)
    assert not volumes & set(docker("volume", "ls", "--quiet").split())


async def test_the_promised_port_is_the_hosts_port_and_one_that_is_taken_is_refused(
    driver: DockerBackend, tmp_path: Path
) -> None:
    wanted = launch()
    guest = await driver.create(wanted)
    assert driver.endpoint(guest, wanted.dev_port).url == f"http://127.0.0.1:{wanted.dev_port}"
    taken = launch("late")
    object.__setattr__(taken, "dev_port", wanted.dev_port)
    with pytest.raises(Busy, match="a port of this host is taken"):
        await driver.create(taken)
    assert [each.id for each in await driver.guests()] == [guest.id]


async def test_any_other_port_is_reached_at_the_containers_own_address(driver: DockerBackend) -> None:
    wanted = launch()
    box = Sandbox(driver, await driver.create(wanted), wanted.token)
    await box.shell("echo told > it")
    async with box.client() as client:
        await client.command(command="python3 -m http.server 5555", background=True)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await listens(driver.endpoint(box.guest, 5555).url):
            await asyncio.sleep(0.1)
    assert await box.get("/it", port=5555) == (200, "told\n")


async def test_one_that_was_only_made_is_found_and_removed(driver: DockerBackend, tmp_path: Path) -> None:
    wanted = launch("half")
    guest = await driver.create(wanted)
    config = inspected(guest)["Config"]["Labels"]
    await driver.destroy(guest.id)
    labels = [word for name, value in config.items() for word in ("--label", f"{name}={value}")]
    docker("create", *labels, IMAGE)
    (seen,) = await driver.guests()
    assert (seen.id, seen.state) == (guest.id, GuestState.DEAD)
    with pytest.raises(Unavailable, match="does not run"):
        driver.endpoint(seen, seen.tool_port)
    assert (await driver.destroy(guest.id)).found
    assert containers(tmp_path) == []


async def test_a_daemon_that_does_not_come_up_is_told_with_its_last_words(
    driver: DockerBackend, tmp_path: Path
) -> None:
    wanted = launch(TOOL_SERVER_MAX_READ_BYTES="none")
    with pytest.raises(Unavailable, match=r"ended at once with code 2: .*MAX_READ_BYTES must be a number"):
        await driver.create(wanted)
    assert containers(tmp_path) == []


async def test_one_that_ignores_term_is_killed_after_the_grace(
    driver: DockerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.backends.docker.STOP_SECONDS", 1)
    guest = await driver.create(launch())
    container = guest.labels["container"]
    docker("exec", container, "bash", "-c", f"kill -STOP {daemon_pid(Container(container))}")
    assert (await driver.destroy(guest.id)).killed == 1
    assert await driver.guests() == []


async def test_a_paused_one_is_ended_too(driver: DockerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.backends.docker.STOP_SECONDS", 1)
    guest = await driver.create(launch())
    docker("pause", guest.labels["container"])
    assert [each.state for each in await driver.guests()] == [GuestState.RUNNING]
    assert (await driver.destroy(guest.id)).found
    assert await driver.guests() == []


async def listens(url: str) -> bool:
    """Whether somebody takes a connection there."""
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    writer.close()
    return True


async def refused(settings: dict[str, Any], data: Path) -> ToolError:
    with pytest.raises(ToolError) as caught:
        await backend(data, **settings).create(launch())
    assert containers(data) == []
    return caught.value


async def test_what_the_engine_lacks_is_told_with_the_fix(tmp_path: Path) -> None:
    image = await refused({"image": "never-built:1"}, tmp_path)
    assert isinstance(image, NotFound)
    assert "build it by `make image`" in image.message
    runtime = await refused({"runtime": "never-installed"}, tmp_path)
    assert "daemon.json" in runtime.message


async def test_a_network_that_lets_containers_talk_is_refused(tmp_path: Path) -> None:
    docker("network", "create", f"{NETWORK}-open")
    try:
        error = await refused({"network": f"{NETWORK}-open"}, tmp_path)
    finally:
        docker("network", "rm", f"{NETWORK}-open")
    assert "lets its containers reach each other" in error.message


async def test_many_first_containers_at_once_are_on_the_one_network(tmp_path: Path) -> None:
    name = f"{NETWORK}-first"
    drivers = [backend(tmp_path / data, network=name) for data in ("one", "two")]
    try:
        async with asyncio.TaskGroup() as group:
            starting = [group.create_task(driver.create(launch())) for driver in drivers * 3]
        guests = [task.result() for task in starting]
        addresses = {guest.labels["address"] for guest in guests}
        assert len(addresses) == len(guests)
    finally:
        for driver in drivers:
            await asyncio.gather(*(driver.destroy(guest.id) for guest in await driver.guests()))
        left = docker("network", "ls", "--quiet", "--filter", f"name={name}").split()
        docker("network", "rm", *left)
    assert len(left) == 1


async def test_of_several_networks_of_one_name_the_one_in_use_stays() -> None:
    name = f"{NETWORK}-twins"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(twins := _oldest_first(name)) < 2:
                docker("network", "rm", *twins) if twins else None
                await _twins(name)
        docker("run", "--detach", "--name", name, "--entrypoint", "sleep", IMAGE, "600")
        docker("network", "connect", twins[-1], name)
        async with asyncio.timeout(PATIENCE_SECONDS / 2), open_engine() as engine:
            assert await engine.network(name) == name
        assert _oldest_first(name) == twins[-1:]
    finally:
        docker("rm", "--force", name)
        docker("network", "rm", *_oldest_first(name))


async def _twins(name: str) -> None:
    """Several of one name: an engine that looks for others only when told so, or that is asked at once."""
    apart = {"com.docker.network.bridge.enable_icc": "false"}
    async with aiodocker.Docker() as engine:
        wanted = {"Name": name, "Driver": "bridge", "CheckDuplicate": False, "Options": apart}
        await asyncio.gather(*(engine.networks.create(wanted) for _ in range(6)), return_exceptions=True)


def _oldest_first(network: str) -> list[str]:
    ids = docker("network", "ls", "--quiet", "--no-trunc", "--filter", f"name={network}").split()
    made = {id: docker("network", "inspect", "--format", "{{.Created.UnixNano}}", id) for id in ids}
    return sorted(ids, key=lambda id: int(made[id]))


async def test_no_engine_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(Unavailable, match="no Docker engine answers; start it by"):
        await backend(tmp_path).create(launch())
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="no Docker engine answers; start it by"):
        await backend(tmp_path).create(launch())
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(Unavailable, match="is on another machine"):
        await backend(tmp_path).create(launch())


async def test_the_token_is_nowhere_for_the_engine_or_the_workspace_to_read(driver: DockerBackend) -> None:
    wanted = launch()
    guest = await driver.create(wanted)
    box = Sandbox(driver, guest, wanted.token)
    assert wanted.token not in json.dumps(inspected(guest))
    assert wanted.token not in docker("logs", guest.labels["container"])
    assert await box.shell("echo known") == "known"  # by its digest
    # Its first letter in brackets, so that the search does not find itself.
    pattern = f"'[{wanted.token[0]}]{wanted.token[1:]}'"
    look = f"cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -c {pattern}"
    assert (await box.run("sh", "-c", look)).stdout == "0\n"
    places = "/app /home/node /tmp /var/lib/workspace /run /dev/shm"
    assert (await box.run("sh", "-c", f"grep -rls {pattern} {places}")).stdout == ""


async def test_an_engine_that_restarts_the_container_needs_to_be_told_nothing_again(
    driver: DockerBackend,
) -> None:
    wanted = launch()
    guest = await driver.create(wanted)
    docker("restart", guest.labels["container"])
    (found,) = await driver.guests()
    box = Sandbox(driver, found, wanted.token)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await box.answers():
            await asyncio.sleep(0.1)
    assert await box.shell("echo again") == "again"
