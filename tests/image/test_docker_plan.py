"""One plan, three ways in: what a person's own directory becomes is the same on all of them.

Sent into a local session, sent into a container, and built into a container's image; told from within each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import Backend, Destroyed, Endpoint, Guest, Host, Launch
from orchestrator.backends.docker import DockerBackend
from orchestrator.backends.docker_container import OWNER, Settings
from orchestrator.backends.local import open_backend
from orchestrator.paths import PathManager, UserId
from orchestrator.plan import GuestProfile, LaunchPlan, WorkspaceSpec, launch_plan
from orchestrator.plan_archive import plan_archive
from orchestrator.ports import Wish
from orchestrator.records import Records
from orchestrator.sessions import PortWishes, Sessions
from orchestrator.spool import Spool
from orchestrator.trust import CLAUDE_SETTINGS, CODEX_CONFIG
from protocol.errors import Busy, Conflict, ToolError, Unavailable
from protocol.exclusions import Exclusions
from tests.backend_suite import Sandbox, launch
from tests.image.support import IMAGE, docker, remove_network
from tests.orchestrator.live import Host as CommandLine
from tests.ports import free_port
from tests.unit.test_git_history import git

NETWORK = f"tests-of-workspace-core-{secrets.token_hex(4)}"

TREE = """
import hashlib, json, os, sys
found = {}
for place, directories, files in os.walk("."):
    for name in directories + files:
        path = os.path.join(place, name)
        seen = os.lstat(path)
        what = os.readlink(path) if os.path.islink(path) else ""
        if os.path.isfile(path) and not what:
            what = hashlib.sha256(open(path, "rb").read()).hexdigest()
        found[path] = [oct(seen.st_mode), what, seen.st_uid, seen.st_gid]
print(json.dumps(found))
"""
"""Everything below the working directory, links not followed: mode, content, owner."""


@pytest.fixture(scope="module", autouse=True)
def network(image: str) -> Iterator[None]:
    """A network of these tests, made by the first container and removed after the last."""
    yield
    remove_network(NETWORK)


def containers_backend(data: Path, **settings: Any) -> DockerBackend:
    return DockerBackend(PathManager(data), Settings(**({"image": IMAGE, "network": NETWORK} | settings)))


@contextlib.asynccontextmanager
async def running(driver: Backend, wanted: Launch) -> AsyncIterator[Sandbox]:
    guest = await driver.create(wanted)
    try:
        yield Sandbox(driver, guest, wanted.token)
    finally:
        await driver.destroy(guest.id)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[DockerBackend]:
    driver = containers_backend(tmp_path / "data")
    yield driver
    for guest in await driver.guests():
        await driver.destroy(guest.id)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Every kind of thing that a directory may hold."""
    project = tmp_path / "my project"
    project.mkdir()
    for path, mode in {
        "run me.sh": 0o750,
        "secret": 0o600,
        "öffentlich/ä b.txt": 0o664,
        "ro/x": 0o444,
    }.items():
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_text(f"content of {path}")
        (project / path).chmod(mode)
    (project / "empty/in empty").mkdir(parents=True)
    (project / "private").mkdir(mode=0o700)
    (project / "link").symlink_to("öffentlich/ä b.txt")
    (project / "dangling").symlink_to("nothing")
    (project / ".dockerignore").write_text("*\n!.git\n")
    (project / "Dockerfile").write_text("FROM elsewhere\nRUN false\n")
    (project / "$(touch x)`id`'\"").write_text("a name")
    (project / "big").write_bytes(os.urandom(3_000_000))
    git(project, "init", "-q", "-b", "trunk")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "one")
    return project


def planned(directory: Path, **more: Any) -> LaunchPlan:
    return launch_plan(WorkspaceSpec(copy_cwd=True, user_cwd=directory), **more)


async def told(box: Sandbox) -> tuple[dict[str, list[Any]], str, str]:
    """The tree, what git says of it, and who the programs run as."""
    tree = json.loads((await box.run("python3", "-c", TREE)).stdout)
    said = await box.shell("git rev-parse HEAD && git status --porcelain && git log --format=%s")
    return tree, said, await box.shell("id -u; id -g")


@pytest.mark.parametrize("kind", ["directory", "worktree"])
async def test_the_same_directory_is_the_same_tree_on_every_way_in(
    kind: str, project: Path, tmp_path: Path, driver: DockerBackend
) -> None:
    if kind == "worktree":
        git(project, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
        project = tmp_path / "side"
    plan = planned(project)
    archive = plan_archive(plan, Exclusions.default())
    local = open_backend(Host(PathManager(tmp_path / "local"), os.environ))
    answers = []
    for backend, content in ((local, None), (driver, None), (driver, archive.packed)):
        async with running(backend, replace(launch(), plan=plan, content=content)) as box:
            if content is None:
                async with box.client() as client:
                    await client.inject(archive=archive.content, digest=archive.digest)
            answers.append(await told(box))
    for _, said, _ in answers:
        assert said == f"{git(project, 'rev-parse', 'HEAD')}\n" + git(project, "log", "--format=%s")
    for tree, _, identity in answers:
        # Of one owner, and that is whom everything there runs as.
        assert {f"{uid}\n{gid}" for *_, uid, gid in tree.values()} == {identity}
    assert (plan.workspace_plan.owner, answers[1][2], answers[2][2]) == (
        "node:node",
        "1000\n1000",
        "1000\n1000",
    )
    trees = [{path: each[:2] for path, each in without_index(tree).items()} for tree, _, _ in answers]
    assert trees[0] == trees[1] == trees[2]
    assert {"./run me.sh", "./link", "./.git/HEAD"} <= trees[0].keys()
    if kind == "directory":
        assert {"./empty/in empty", "./private"} <= trees[0].keys()
        modes = {path: trees[0][path][0][-3:] for path in ("./run me.sh", "./secret", "./private", "./ro/x")}
        assert modes == {"./run me.sh": "750", "./secret": "600", "./private": "700", "./ro/x": "444"}


def without_index(tree: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Less the file in which git notes what it has just looked at."""
    return {path: each for path, each in tree.items() if path != "./.git/index"}


async def test_agents_find_in_a_container_that_its_workdir_is_trusted(
    project: Path, driver: DockerBackend
) -> None:
    plan = planned(project, trust_agents=True)
    async with running(driver, replace(launch(), plan=plan)) as box:
        assert await box.shell("pwd; echo $HOME") == "/app\n/home/node"
        look = f"cd ~ && stat -c '%a %U:%G %n' .codex {CODEX_CONFIG} {CLAUDE_SETTINGS}"
        assert (await box.shell(look)).splitlines() == [
            "700 node:node .codex",
            f"600 node:node {CODEX_CONFIG}",
            f"600 node:node {CLAUDE_SETTINGS}",
        ]
        codex = tomllib.loads(await box.shell(f"cat ~/{CODEX_CONFIG}"))
        claude = json.loads(await box.shell(f"cat ~/{CLAUDE_SETTINGS}"))
        assert codex == {"projects": {"/app": {"trust_level": "trusted"}}}
        assert claude["projects"] == {"/app": {"hasTrustDialogAccepted": True}}
        assert await box.shell("echo mine >> ~/.codex/config.toml && echo '{}' > ~/.codex/auth.json") == ""


async def test_agents_find_in_a_local_session_that_its_workdir_is_trusted(
    project: Path, tmp_path: Path
) -> None:
    local = open_backend(Host(PathManager(tmp_path / "local"), os.environ))
    plan = planned(project, trust_agents=True)
    async with running(local, replace(launch(), plan=plan)) as box:
        workdir, uid = (await box.shell("pwd; id -u")).split()
        look = f"cd ~ && stat -c '%a %u %n' {CODEX_CONFIG} {CLAUDE_SETTINGS}"
        assert (await box.shell(look)).splitlines() == [
            f"600 {uid} {CODEX_CONFIG}",
            f"600 {uid} {CLAUDE_SETTINGS}",
        ]
        codex = tomllib.loads(await box.shell(f"cat ~/{CODEX_CONFIG}"))
        assert codex == {"projects": {workdir: {"trust_level": "trusted"}}}
        claude = json.loads(await box.shell(f"cat ~/{CLAUDE_SETTINGS}"))
        assert claude["projects"] == {workdir: {"hasTrustDialogAccepted": True}}


async def test_without_trust_a_home_is_left_as_it_is(project: Path, driver: DockerBackend) -> None:
    async with running(driver, replace(launch(), plan=planned(project))) as box:
        assert await box.shell("ls -A ~") == ""


@contextlib.contextmanager
def image_of(tag: str, *lines: str) -> Iterator[str]:
    """An image on top of the core image."""
    text = "\n".join([f"FROM {IMAGE}", *lines]).encode()
    docker("build", "--quiet", "--tag", tag, "-", stdin=text)
    try:
        yield tag
    finally:
        docker("rmi", "--force", tag)


async def test_what_an_image_has_in_its_home_is_merged_and_never_overwritten(
    project: Path, tmp_path: Path
) -> None:
    plan = planned(project, trust_agents=True)
    write = "RUN mkdir ~/.codex && printf"
    with image_of("tests-of-workspace-core:mine", f"{write} '# mine\\nmodel = 1\\n' > ~/.codex/config.toml"):
        driver = containers_backend(tmp_path, image="tests-of-workspace-core:mine")
        async with running(driver, replace(launch(), plan=plan)) as box:
            text = await box.shell(f"cat ~/{CODEX_CONFIG}")
    assert text.startswith("# mine\nmodel = 1\n")
    assert tomllib.loads(text)["projects"] == {"/app": {"trust_level": "trusted"}}
    with image_of("tests-of-workspace-core:broken", f"{write} 'no toml [' > ~/.codex/config.toml"):
        driver = containers_backend(tmp_path, image="tests-of-workspace-core:broken")
        with pytest.raises(Conflict, match="it is no TOML"):
            await driver.create(replace(launch(), plan=plan))
        assert await driver.guests() == []


async def test_an_images_own_home_and_place_are_read_from_the_plan(project: Path, tmp_path: Path) -> None:
    """By content of its own, so that the engine makes the places with their owner."""
    made = "RUN mkdir -p '/tmp/x'\nUSER root\nRUN install -d -o node -g node '/srv/my home'\nUSER node"
    plan = planned(project, profile=GuestProfile("/srv/my home"), trust_agents=True)
    content = plan_archive(plan, Exclusions.default()).packed
    with image_of("tests-of-workspace-core:home", made):
        driver = containers_backend(tmp_path, image="tests-of-workspace-core:home")
        async with running(driver, replace(launch(), plan=plan, content=content)) as box:
            assert await box.shell("pwd; echo $HOME") == "/srv/my home/workspace\n/srv/my home"
            assert (await told(box))[1] == f"{git(project, 'rev-parse', 'HEAD')}\none"
            codex = tomllib.loads(await box.shell(f"cat ~/{CODEX_CONFIG}"))
    assert codex == {"projects": {"/srv/my home/workspace": {"trust_level": "trusted"}}}


def images(data: Path) -> list[str]:
    owner = (data / "docker" / "owner").read_text()
    return docker("images", "--quiet", "--filter", f"label={OWNER}={owner}").split()


async def test_a_containers_own_image_goes_with_it(
    project: Path, tmp_path: Path, driver: DockerBackend
) -> None:
    plan = planned(project)
    content = plan_archive(plan, Exclusions.default()).packed
    guest = await driver.create(replace(launch(), plan=plan, content=content))
    assert len(images(tmp_path / "data")) == 1
    assert (await driver.destroy(guest.id)).found
    assert images(tmp_path / "data") == []


@pytest.mark.parametrize("when", ["build", "create", "start"])
async def test_a_start_that_fails_or_is_cancelled_leaves_no_image(
    when: str, project: Path, tmp_path: Path, driver: DockerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(project)
    wanted = replace(launch(), plan=plan, content=plan_archive(plan, Exclusions.default()).packed)
    if when == "build":
        nonsense = Spool()
        nonsense.write(b"no archive")
        with pytest.raises(ToolError, match="cannot be unpacked"):
            await driver.create(replace(wanted, content=nonsense))
    else:
        reached, goes_on = asyncio.Event(), asyncio.Event()

        async def slow(*_: Any, **__: Any) -> None:
            reached.set()
            await goes_on.wait()
            raise Unavailable("too late")

        method = "network" if when == "create" else "start"
        monkeypatch.setattr(f"orchestrator.backends.docker_engine.Engine.{method}", slow)
        starting = asyncio.create_task(driver.create(wanted))
        await reached.wait()
        starting.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert images(tmp_path / "data") == []
    assert await driver.guests() == []


class Thief:
    """A backend on whose host somebody takes the dev port just before the first sandbox would have it."""

    def __init__(self, backend: DockerBackend) -> None:
        self._backend = backend
        self.name, self.properties = backend.name, backend.properties
        self.listener: socket.socket | None = None
        self.asked: list[int] = []

    async def create(self, launch: Launch) -> Guest:
        self.asked.append(launch.dev_port)
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", launch.dev_port))
        return await self._backend.create(launch)

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        return await self._backend.destroy(guest_id, keep_files=keep_files)

    async def guests(self) -> list[Guest]:
        return await self._backend.guests()

    def endpoint(self, guest: Guest, port: int) -> Endpoint:
        return self._backend.endpoint(guest, port)


@pytest.mark.parametrize("gives_way", [True, False])
async def test_a_port_that_is_lost_before_the_start_gives_way_to_another(
    gives_way: bool, tmp_path: Path, driver: DockerBackend
) -> None:
    thief = Thief(driver)
    paths = PathManager(tmp_path / "data")
    sessions = Sessions(paths, Records(paths.db_path("sessions")), {"docker": thief})
    first, second = free_port(), free_port()
    wishes = PortWishes(tool=Wish(0), dev=Wish(first, (second,) if gives_way else ()))
    try:
        if gives_way:
            record = await sessions.begin(UserId("ann"), "site", wishes, "docker")
            assert (thief.asked, record.dev_port) == ([first, second], second)
            assert sessions.dev_server(record).url == f"http://127.0.0.1:{second}"
        else:
            with pytest.raises(Busy, match=f"127.0.0.1:{first}"):
                await sessions.begin(UserId("ann"), "site", wishes, "docker")
    finally:
        assert thief.listener is not None
        thief.listener.close()
    assert len(await driver.guests()) == int(gives_way)


def test_a_persons_directory_comes_up_in_an_image_of_its_own(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSPACE_DOCKER_NETWORK", NETWORK)
    (project / "index.html").write_text("<h1>Mine</h1>")
    host = CommandLine(tmp_path)
    with host.up(str(project), "--backend", "docker", "--derived-image", "--detach") as up:
        up.ready()
        up.end()
    try:
        log = host.inside("exec", "--", "sh", "-c", "git log --format=%s; git status --porcelain; ls -A ~")
        assert log.stdout.decode().split("\n") == ["one", "?? index.html", ".claude.json", ".codex", ""]
    finally:
        host.inside("down", "--all", "--remove")
    assert images(host.data) == []
