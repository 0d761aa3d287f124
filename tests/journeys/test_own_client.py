"""The whole way by our own host side: the CLI brings a workspace up, the Python client works in it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import open_client
from tests.journeys.again import starts_again_offline, starts_out_of_the_store
from tests.journeys.hmr import open_page, page_text
from tests.journeys.support import DATA, REPOSITORY, ROUTES, Route, tree
from tests.ports import free_port

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]


async def workspace(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``workspace`` as a person does; its output must say why it failed."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "DATA_DIR": str(DATA)},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


@asynccontextmanager
async def up(*source: str) -> AsyncIterator[dict[str, Any]]:
    """A session, from ``workspace up --detach`` to ``workspace down``."""
    told = await workspace("up", *source, "--detach", "--json", "--dev-port", str(free_port()))
    session: dict[str, Any] = json.loads(told.stdout.decode().splitlines()[-1])
    try:
        yield session
    finally:
        await workspace("down", session["session"])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.template)
async def test_template_to_ready_to_edit_to_save_to_restore(route: Route) -> None:
    async with up(route.template) as session:
        assert route.kept not in await page_or_file(session, route)
        await edit_reaches_the_page(session, route, route.old, route.new)
        async with open_client(session["toolServerUrl"], session["token"]) as client:
            await starts_again_offline(client, route.template)
            await starts_out_of_the_store(client, route.template, session["user"])
        assert route.kept in await page_or_file(session, route)
        await workspace("down", session["session"], "--save")
        before = tree(root_of(session))
    async with up("--workspace", session["workspace"]) as session:
        assert tree(root_of(session)) == before
        assert route.kept in await page_or_file(session, route)
        await edit_reaches_the_page(session, route, route.new, route.old)


def root_of(session: dict[str, Any]) -> Path:
    """The workspace root of a local session."""
    return DATA / "workspaces" / str(session["user"]) / str(session["session"])


async def edit_reaches_the_page(session: dict[str, Any], route: Route, old: str, new: str) -> None:
    preview = session["previewUrl"].rstrip("/")
    async with open_page(preview) as page, open_client(session["toolServerUrl"], session["token"]) as client:
        edited = await client.edit(path=route.path, old_text=old, new_text=new)
        assert f"+{new}".strip() in edited.diff or new in edited.diff
        frame = await page.frame()
        assert frame["type"] in {"update", "full-reload"}


async def page_or_file(session: dict[str, Any], route: Route) -> str:
    preview = session["previewUrl"].rstrip("/")
    async with open_client(session["toolServerUrl"], session["token"]) as client:
        content = (await client.read(path=route.path)).content
    return content + await page_text(preview)


async def test_ctrl_c_leaves_no_process_behind() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "orchestrator",
        "up",
        "vite-vanilla",
        "--dev-port",
        str(free_port()),
        cwd=REPOSITORY,
        env={**os.environ, "DATA_DIR": str(DATA), "JOURNEY_MARK": "ctrl-c"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    told = b""
    async with asyncio.timeout(300):
        while b"Ctrl-C" not in told:
            line = await process.stdout.readline()
            assert line, told.decode()
            told += line
    marker = session_marker(told.decode())
    assert processes_with(marker), "the daemon and the dev server carry the session's mark"
    os.kill(process.pid, signal.SIGINT)
    async with asyncio.timeout(90):
        await process.stdout.read()
        code = await process.wait()
    assert code in {0, 130}
    assert processes_with(marker) == []


def session_marker(told: str) -> str:
    """The session's id, out of what ``up`` printed."""
    word = next(word for word in told.split() if word.startswith("session_"))
    return f"WORKSPACE_SESSION_ID={word.strip('.,;:)')}"


def processes_with(marker: str) -> list[int]:
    """Pids whose environment holds ``marker``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
