"""SWE-ReX: a FastAPI server with one-off commands, bash sessions and text files."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks.peers.environments import python_environment
from benchmarks.peers.servers import HttpTools, free_port, server, session
from benchmarks.peers.tools import MARK, SAY_MARK, expect, found_program

NAME = "SWE-ReX"
PACKAGES = ("swe-rex==1.4.0",)


class SweRex(HttpTools):
    """Over HTTP, in JSON."""

    has_shell = False

    async def small(self) -> None:
        await self.ask("GET", "/is_alive")

    async def true(self) -> None:
        answer = await self.ask("POST", "/execute", json={"command": [found_program("true")]})
        expect(answer["exit_code"] == 0, "true failed")

    async def shell(self) -> None:
        if not self.has_shell:
            await self.ask("POST", "/create_session", json={"session_type": "bash"})
            self.has_shell = True
        answer = await self.ask("POST", "/run_in_session", json={"action_type": "bash", "command": SAY_MARK})
        expect(MARK in answer["output"], "another output")

    async def output(self, path: str, size: int) -> None:
        command = [found_program("cat"), str(self.root / path)]
        answer = await self.ask("POST", "/execute", json={"command": command})
        expect(len(answer["stdout"]) == size, f"{len(answer['stdout'])} characters of {size}")

    async def read(self, path: str, size: int) -> None:
        answer = await self.ask("POST", "/read_file", json={"path": str(self.root / path)})
        expect(len(answer["content"]) == size, "another size")

    async def write(self, path: str, content: str) -> None:
        await self.ask("POST", "/write_file", json={"path": str(self.root / path), "content": content})

    async def upload(self, path: str, source: Path) -> None:
        with source.open("rb") as file:
            form = aiohttp.FormData({"target_path": str(self.root / path)})
            form.add_field("file", file, filename="upload")
            await self.ask("POST", "/upload", data=form)


async def install() -> Path:
    """Raises Unobtainable."""
    return await python_environment("swe-rex", PACKAGES)


@asynccontextmanager
async def opened(place: Path, root: Path) -> AsyncIterator[SweRex]:
    """A server that answers."""
    port, token = free_port(), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}"
    argv = (str(place / "swerex-remote"), "--host", "127.0.0.1", "--port", str(port), "--auth-token", token)
    headers = {"X-API-Key": token}
    async with (
        server(argv, f"{url}/is_alive", root, headers=headers) as pid,
        session(url, headers) as web,
    ):
        yield SweRex(NAME, root, pid, web)
