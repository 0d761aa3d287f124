"""The whole way again by programs that share no code with ours: tar, curl, and ``ws`` from npm.

What is typed here is what a stranger types after reading docs/api.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.hmr import open_page
from tests.journeys.support import NPM_CACHE, REPOSITORY, ROUTES, Route, free_port, tools, tree

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]

TOKEN = "a-token-for-the-journey"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Daemon:
    """A tool server, and how to reach it from a shell."""

    url: str
    root: Path
    dev_port: int
    path: str
    scratch: Path

    @property
    def preview(self) -> str:
        return f"http://127.0.0.1:{self.dev_port}"

    async def curl(self, path: str, *arguments: str) -> Any:
        """curl's answer as JSON; a status of 400 or more fails with the body."""
        return json.loads(
            await run(
                "curl",
                "-sS",
                "--fail-with-body",
                "-H",
                f"Authorization: Bearer {TOKEN}",
                *arguments,
                self.url + path,
            )
        )

    async def socket(self, op: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        """All replies to one frame, by ``ws`` under Node."""
        modules = self.scratch / "client"
        if not modules.exists():
            modules.mkdir()
            shutil.copy(HERE / "socket.mjs", modules)
            npm = (
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--prefer-offline",
                "--prefix",
                str(modules),
                "ws@8.18.0",
            )
            await run(*npm, path=self.path, env={"npm_config_cache": str(NPM_CACHE)})
        address = self.url.replace("http", "ws", 1) + "/v1/ws"
        told = await run(
            "node", str(modules / "socket.mjs"), address, TOKEN, op, json.dumps(params), path=self.path
        )
        return [json.loads(line) for line in told.splitlines()]


async def run(*argv: str, path: str | None = None, env: dict[str, str] | None = None) -> bytes:
    """A program's standard output; it must succeed."""
    program = shutil.which(argv[0], path=path) or argv[0]
    done = await asyncio.to_thread(
        subprocess.run,
        [program, *argv[1:]],
        env={**os.environ, **(env or {}), "PATH": path or os.environ["PATH"]},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (argv, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@asynccontextmanager
async def daemon(directory: Path) -> AsyncIterator[Daemon]:
    """``toolserver`` with an empty workspace."""
    directory.mkdir()
    path = tools(directory / "bin")
    dev_port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if "CA" in name or "CERT" in name},
        "PATH": path,
        "HOME": str(directory),
        "npm_config_cache": str(NPM_CACHE),
        "TOOL_SERVER_TOKEN": TOKEN,
        "TOOL_SERVER_PORT": "0",
        "WORKSPACE_ROOT": str(directory / "app"),
        "DEV_SERVER_PORT": str(dev_port),
    }
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "toolserver",
            cwd=REPOSITORY,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on "), (directory / "log").read_text()
        yield Daemon(line.split()[-1], directory / "app", dev_port, path, directory)
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            await process.wait()
    assert process.returncode == 0, (directory / "log").read_text()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.template)
async def test_tar_curl_and_ws_go_the_whole_way(route: Route, tmp_path: Path) -> None:
    save = tmp_path / "save.tar.gz"
    async with daemon(tmp_path / "first") as server:
        archive = tmp_path / "template.tar.gz"
        template = REPOSITORY / "templates" / route.template
        await run("tar", "-czf", str(archive), "--exclude=node_modules", "-C", str(template), ".")
        injected = await server.curl("/v1/archive", "-T", str(archive))
        assert injected["files"] > 5
        await starts(server)
        await edit_reaches_the_page(server, route, route.old, route.new)
        await run(
            "curl",
            "-sS",
            "-f",
            "-H",
            f"X-Workspace-Token: {TOKEN}",
            "-o",
            str(save),
            f"{server.url}/v1/archive",
        )
        before = tree(server.root)
    async with daemon(tmp_path / "second") as server:
        await server.curl("/v1/archive", "-T", str(save))
        assert tree(server.root) == before
        await starts(server)
        await edit_reaches_the_page(server, route, route.new, route.old)


async def starts(server: Daemon) -> None:
    """Install and start over the WebSocket: the stages come in order, and the page answers."""
    replies = await server.socket("start", {})
    events = [reply["event"] for reply in replies if "event" in reply]
    stages = [(event["step"], event["state"]) for event in events if event["type"] == "progress"]
    assert stages == [
        ("extract", "skipped"),
        ("install", "started"),
        ("install", "done"),
        ("dev_server", "started"),
        ("dev_server", "done"),
    ], replies[-1]
    assert replies[-1]["result"]["dev"]["state"] == "ready"
    page = await run("curl", "-sS", "-f", f"{server.preview}/")
    assert b"<html" in page
    ready = await server.curl("/ready")
    assert ready["state"] == "ready"


async def edit_reaches_the_page(server: Daemon, route: Route, old: str, new: str) -> None:
    async with open_page(server.preview) as page:
        edit = {"path": route.path, "oldText": old, "newText": new}
        edited = await server.curl("/v1/edit", "-d", json.dumps(edit))
        assert edited["replacements"] == 1
        await page.frame()
    found = await server.curl("/v1/search", "-d", json.dumps({"pattern": new, "kind": "literal"}))
    assert route.path in {match["path"] for match in found["matches"]}
