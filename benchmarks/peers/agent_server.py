"""OpenHands agent-server: FastAPI with bash commands as stored events, and files. It needs Python 3.12."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.peers.environments import python_environment
from benchmarks.peers.servers import HttpTools, free_port, server, session
from benchmarks.peers.tools import expect, found_program

NAME = "OpenHands agent-server"
PACKAGES = ("openhands-agent-server==1.57.0",)


class AgentServer(HttpTools):
    """Over HTTP, in JSON. A command always goes through bash."""

    async def small(self) -> None:
        await self.ask("GET", "/health")

    async def true(self) -> None:
        expect((await self._bash(found_program("true")))["exit_code"] == 0, "true failed")

    async def idle(self) -> None:
        await self.ask(
            "POST", "/api/bash/start_bash_command", json={"command": "sleep 1000", "timeout": 1000}
        )

    async def output(self, path: str, size: int) -> None:
        answer = await self._bash(f"cat {self.root / path}", timeout=80)
        expect(len(answer["stdout"] or "") == size, f"{len(answer['stdout'] or '')} characters of {size}")

    async def read(self, path: str, size: int) -> None:
        await self.received("/api/file/download", size, params={"path": str(self.root / path)})

    async def write(self, path: str, content: str) -> None:
        await self._sent(path, content.encode())

    async def download(self, path: str, size: int) -> None:
        await self.read(path, size)

    async def upload(self, path: str, source: Path) -> None:
        with source.open("rb") as file:
            await self._sent(path, file)

    async def _sent(self, path: str, body: object) -> None:
        form = aiohttp.FormData()
        form.add_field("file", body, filename="upload")
        await self.ask("POST", "/api/file/upload", params={"path": str(self.root / path)}, data=form)

    async def _bash(self, command: str, **more: object) -> dict[str, Any]:
        asked = {"command": command, "cwd": str(self.root), **more}
        answer: dict[str, Any] = await self.ask("POST", "/api/bash/execute_bash_command", json=asked)
        return answer


async def install() -> Path:
    """Raises Unobtainable."""
    return await python_environment("agent-server", PACKAGES, (3, 12))


@asynccontextmanager
async def opened(place: Path, root: Path) -> AsyncIterator[AgentServer]:
    """A server that answers, its own files in a directory that goes."""
    port, key = free_port(), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}"
    argv = (str(place / "python"), "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(port))
    with tempfile.TemporaryDirectory(prefix="agent-server-") as home:
        # Without the first it asks a site on the internet for prices.
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "SESSION_API_KEY": key, "HOME": home}
        env |= {"OH_ENABLE_VSCODE": "0", "OH_ENABLE_VNC": "0", "OH_PRELOAD_TOOLS": "0"}
        async with (
            server(argv, f"{url}/health", Path(home), env) as pid,
            session(url, {"X-Session-API-Key": key}) as web,
        ):
            yield AgentServer(NAME, root, pid, web)
