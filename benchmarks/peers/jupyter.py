"""Jupyter Server: a kernel for programs, a terminal for a shell, the contents API for files."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measure import Taken
from benchmarks.peers.environments import python_environment
from benchmarks.peers.servers import HttpTools, free_port, server, session
from benchmarks.peers.tools import MARK, SAY_MARK, expect

NAME = "Jupyter Server"
PACKAGES = ("jupyter-server==2.21.1", "ipykernel==7.1.0")
_TRUE = "import subprocess; subprocess.run(['true'], check=True)"
_TELL = "import time, sys; print(time.monotonic_ns(), flush=True); time.sleep(0.02)"
_MAX_FRAME_BYTES = 256 * 1024 * 1024


class Jupyter(HttpTools):
    """Contents over HTTP; kernel and terminal over a WebSocket each, opened on first use."""

    def __init__(self, root: Path, pid: int, web: aiohttp.ClientSession, opened: AsyncExitStack) -> None:
        super().__init__(NAME, root, pid, web)
        self._opened = opened
        self._kernel: aiohttp.ClientWebSocketResponse | None = None
        self._terminal: aiohttp.ClientWebSocketResponse | None = None

    def many(self, verb: str) -> bool:
        # A kernel does one thing after another, and so does a terminal.
        return verb in ("read", "write", "list", "download")

    async def small(self) -> None:
        await self.ask("GET", "/api/status")

    async def true(self) -> None:
        async for _ in self._executed(_TRUE):
            pass

    async def first_byte(self) -> Taken:
        taken: float | None = None
        async for text in self._executed(_TELL):
            taken = taken or (time.monotonic_ns() - int(text.split()[0])) / 1e6
        expect(taken, "no output")
        return Taken(taken or 0.0)

    async def output(self, path: str, size: int) -> None:
        got = 0
        code = f"import subprocess, sys; sys.stdout.write(subprocess.run(['cat', {str(self.root / path)!r}], "
        async for text in self._executed(code + "capture_output=True, text=True).stdout)"):
            got += len(text)
        expect(got == size, f"{got} characters of {size}")

    async def shell(self) -> None:
        if self._terminal is None:
            name = (await self.ask("POST", "/api/terminals"))["name"]
            self._terminal = await self._socket(f"/terminals/websocket/{name}")
        await self._terminal.send_json(["stdin", f"{SAY_MARK}\n"])
        text = ""
        while MARK not in text:
            kind, *rest = json.loads((await self._terminal.receive(60)).data)
            text += rest[0] if kind == "stdout" else ""

    async def read(self, path: str, size: int) -> None:
        answer = await self.ask("GET", f"/api/contents/{path}", params={"type": "file", "format": "text"})
        expect(len(answer["content"]) == size, "another size")

    async def write(self, path: str, content: str) -> None:
        body = {"type": "file", "format": "text", "content": content}
        await self.ask("PUT", f"/api/contents/{path}", json=body)

    async def list(self, path: str, count: int) -> None:
        answer = await self.ask("GET", f"/api/contents/{path}")
        expect(len(answer["content"]) == count, f"{len(answer['content'])} entries of {count}")

    async def download(self, path: str, size: int) -> None:
        await self.received(f"/files/{path}", size)

    async def _executed(self, code: str) -> AsyncIterator[str]:
        """What the code writes, until the kernel says that it is idle again."""
        if self._kernel is None:
            found = (await self.ask("POST", "/api/kernels", json={"name": "python3"}))["id"]
            self._kernel = await self._socket(f"/api/kernels/{found}/channels")
        asked = uuid.uuid4().hex
        header = {
            "msg_id": asked,
            "msg_type": "execute_request",
            "version": "5.3",
            "session": "s",
            "username": "",
        }
        content = {"code": code, "silent": False, "store_history": False, "stop_on_error": True}
        message = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
            "channel": "shell",
        }
        await self._kernel.send_json(message)
        while True:
            told: dict[str, Any] = json.loads((await self._kernel.receive(80)).data)
            if told["parent_header"].get("msg_id") != asked:
                continue
            expect(told["msg_type"] != "error", str(told["content"].get("evalue")))
            if told["msg_type"] == "stream":
                yield told["content"]["text"]
            if told["msg_type"] == "status" and told["content"]["execution_state"] == "idle":
                return

    async def _socket(self, path: str) -> aiohttp.ClientWebSocketResponse:
        socket = self.web.ws_connect(path, max_msg_size=_MAX_FRAME_BYTES)
        return await self._opened.enter_async_context(socket)


async def install() -> Path:
    """Raises Unobtainable."""
    return await python_environment("jupyter", PACKAGES)


@asynccontextmanager
async def opened(place: Path, root: Path) -> AsyncIterator[Jupyter]:
    """A server that answers; its limits on message rates are off."""
    port, token = free_port(), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}"
    argv = (
        *(str(place / "jupyter-server"), "--no-browser", "--allow-root", f"--ServerApp.port={port}"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *(f"--ServerApp.root_dir={root}", "--ContentsManager.allow_hidden=True"),
        *("--ZMQChannelsWebsocketConnection.limit_rate=False", "--ServerApp.max_body_size=536870912"),
    )
    async with (
        server(argv, f"{url}/api?token={token}", root) as pid,
        session(url, {"Authorization": f"token {token}"}) as web,
        AsyncExitStack() as sockets,
    ):
        yield Jupyter(root, pid, web, sockets)
        async with asyncio.timeout(10):
            await _shut(web)


async def _shut(web: aiohttp.ClientSession) -> None:
    # Kernels are processes in groups of their own: only the server ends them.
    async with web.get("/api/kernels") as response:
        kernels = await response.json()
    for each in kernels:
        async with web.delete(f"/api/kernels/{each['id']}"):
            pass
