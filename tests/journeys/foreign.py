"""A tool server as a stranger meets it: a program with an address and a token, reached by other programs."""

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

from tests.journeys.support import NPM_CACHE, REPOSITORY, tools
from tests.ports import free_port

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
        async with asyncio.timeout(90):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on "), (directory / "log").read_text()
        yield Daemon(line.split()[-1], directory / "app", dev_port, path, directory)
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await process.wait()
    assert process.returncode == 0, (directory / "log").read_text()
