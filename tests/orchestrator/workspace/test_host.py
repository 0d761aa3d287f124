"""Sessions as workspaces: made, found, paused and ended, each for its own user."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from orchestrator import AsyncWorkspace, Workspace, WorkspaceHost
from orchestrator.processes import members
from protocol.errors import InvalidRequest, NotFound, OutsideWorkspace, Unavailable
from tests.orchestrator.live import WAIT_SECONDS, Host, get


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    Host(tmp_path).end_everything()


@pytest.fixture
def host(data: Path) -> WorkspaceHost:
    return WorkspaceHost(data)


async def test_one_that_forks_its_tool_servers_says_what_that_leaves_open(data: Path) -> None:
    for prefork in (False, True):
        async with WorkspaceHost(data, prefork=prefork, environ={"WORKSPACE_ISOLATION": "none"}) as host:
            open_to_all = host.properties("local").left_open
            assert any("forked" in clause for clause in open_to_all) == prefork


def running(session: str | None) -> set[int]:
    return members(f"WORKSPACE_SESSION_ID={session}")


def test_a_session_is_worked_in_and_its_files_are_kept(data: Path) -> None:
    with Workspace.create("static-html", user="ann", data_dir=data) as workspace:
        session = workspace.session_id
        assert workspace.preview_url is not None
        workspace.write("index.html", "<h1>mine</h1>")
        assert b"mine" in get(workspace.preview_url)[1]
        assert workspace.execute_command("pwd", "/app").exit_code == 0
        root = workspace.execute_command("pwd").stdout.rstrip("\n")
        assert workspace.execute_command("pwd", root).stdout == f"{root}\n"
        with pytest.raises(OutsideWorkspace):
            workspace.execute_command("pwd", "/etc")
    assert not running(session)
    assert (data / "workspaces" / "ann" / str(session) / "index.html").read_text() == "<h1>mine</h1>"


def test_one_without_a_dev_server_has_no_page(data: Path) -> None:
    with Workspace.create("research-pipeline", data_dir=data) as workspace:
        assert workspace.preview_url is None
        workspace.pause()
        workspace.resume()
        assert workspace.preview_url is None


def test_its_files_go_with_it_when_that_was_asked_for(data: Path) -> None:
    with Workspace.create("static-html", data_dir=data, keep_files=False) as workspace:
        assert list((data / "workspaces" / "default").glob("session_*"))
        workspace.write("a", "a")
    assert not list((data / "workspaces" / "default").glob("*session_*"))


def test_a_paused_session_takes_no_process_and_goes_on_with_every_file(data: Path) -> None:
    with Workspace.create("static-html", data_dir=data) as workspace:
        session = workspace.session_id
        workspace.write(".env", "KEEP=1")
        workspace.write("node_modules/a/index.js", "kept")
        workspace.pause()
        assert not running(session)
        with pytest.raises(Unavailable, match="resume"):
            workspace.list()
        workspace.resume()
        assert workspace.session_id == session
        assert workspace.read_text(".env") == "KEEP=1"
        assert workspace.read_text("node_modules/a/index.js") == "kept"
        assert workspace.preview_url is not None
        assert get(workspace.preview_url)[0] == 200
        workspace.pause()
    assert not running(session)


def test_what_cannot_be_made_leaves_nothing(data: Path) -> None:
    with pytest.raises(NotFound, match="static-html"):
        Workspace.create("static-htm", data_dir=data)
    with pytest.raises(InvalidRequest, match="user id"):
        Workspace.create("static-html", user="../x", data_dir=data)
    with pytest.raises(InvalidRequest, match="backend"):
        Workspace.create("static-html", backend="cloud", data_dir=data)
    assert not list(data.glob("workspaces/*/*"))


async def test_each_user_sees_only_their_own(host: WorkspaceHost) -> None:
    ann, bob = await asyncio.gather(
        host.create("static-html", user="ann"), host.create("static-html", user="bob")
    )
    async with ann, bob:
        assert [seen.record.session_id for seen in await host.list(user="ann")] == [ann.session_id]
        for refused in (host.open(ann.session_id, user="bob"), host.stop(ann.session_id, user="bob")):
            with pytest.raises(NotFound):
                await refused
        await ann.write("secret", "ann's")
        names = [entry.path for entry in (await bob.list()).entries]
        assert "secret" not in names


async def test_a_running_session_is_opened_by_another_and_left_running(
    host: WorkspaceHost, data: Path
) -> None:
    async with await host.create("static-html") as first:
        await first.write("a", "a")
        async with await WorkspaceHost(data).open(first.session_id) as second:
            assert await second.read_text("a") == "a"
        assert (await first.execute_command("echo on")).stdout == "on\n"
        await host.stop(first.session_id)
        assert await host.list() == []


async def test_many_calls_at_once_share_one_workspace(host: WorkspaceHost) -> None:
    async with await AsyncWorkspace.create("static-html", data_dir=host.paths.base_dir) as workspace:
        results = await asyncio.gather(*(workspace.execute_command(f"echo {n}") for n in range(20)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(20)]


async def test_a_cancelled_call_ends_its_command(host: WorkspaceHost) -> None:
    async with await host.create("static-html") as workspace:
        call = asyncio.create_task(workspace.execute_command("echo $$ > pid; sleep 600", timeout=None))
        pid = await first_line(workspace, "pid")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        deadline = time.monotonic() + WAIT_SECONDS
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def first_line(workspace: AsyncWorkspace, path: str) -> str:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if line := (await workspace.read_text(path)).strip():
                return line
        except NotFound:
            pass
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_page_is_served_at_the_preview_address(host: WorkspaceHost) -> None:
    async with await host.create("static-html") as workspace, aiohttp.ClientSession() as session:
        assert workspace.preview_url is not None
        async with session.get(workspace.preview_url) as response:
            assert response.status == 200


def test_it_tells_how_far_sessions_are_kept_apart(data: Path) -> None:
    with Workspace.create("static-html", data_dir=data) as workspace:
        properties = workspace.properties
        assert properties.isolation
        assert properties.left_open


def test_importing_the_package_loads_nothing() -> None:
    script = (
        "import sys, orchestrator\n"
        "heavy = {'asyncio', 'aiohttp', 'websockets', 'msgspec', 'orchestrator.workspace'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from orchestrator import LocalWorkspace\n"
        "assert 'orchestrator.workspace' in sys.modules and 'aiohttp' not in sys.modules\n"
        "try:\n    orchestrator.Missing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "module 'orchestrator' has no attribute 'Missing'\n"
