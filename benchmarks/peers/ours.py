"""The tool server by its own doors: HTTP as curl would, the WebSocket by the client that comes with it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks.floors import program
from benchmarks.measure import Kind, Taken
from benchmarks.peers.tools import MARK, SAY_MARK, Tools, expect, found_program
from orchestrator.client import Client, open_client
from protocol.messages.commands import Stdout, StdoutBytes, WhenSlow
from protocol.messages.search import PatternKind, Where

TELL_THE_TIME = "import os, time; os.write(1, b'%d\\n' % time.monotonic_ns()); time.sleep(0.02)"


class ByClient(Tools):
    """Over one WebSocket, in MessagePack."""

    kind = Kind.OURS

    def __init__(self, client: Client, root: Path, pid: int) -> None:
        super().__init__("ours, WebSocket", root, pid)
        self.client = client

    async def small(self) -> None:
        await self.client.dev_status()

    async def true(self) -> None:
        expect((await self.client.command(argv=[_TRUE])).exit_code == 0, "true failed")

    async def shell(self) -> None:
        expect((await self.client.shell(command=SAY_MARK)).stdout.strip() == MARK, "another output")

    async def idle(self) -> None:
        await self.client.command(argv=["sleep", "1000"], background=True)

    async def output(self, path: str, size: int) -> None:
        """As bytes: exact whatever a command writes, and the quickest."""
        await self._output(path, size, raw=True)

    async def text_output(self, path: str, size: int) -> None:
        """As text, which is what one gets unasked."""
        await self._output(path, size, raw=False)

    async def _output(self, path: str, size: int, *, raw: bool) -> None:
        received = 0
        async with self.client.command.stream(
            argv=[_CAT, str(self.root / path)],
            raw_events=raw,
            max_output_bytes=0,
            when_slow=WhenSlow.WAIT,
        ) as events:
            async for event in events:
                if isinstance(event, Stdout | StdoutBytes):
                    received += len(event.data)
        expect(received == size, f"{received} bytes of {size}")

    async def first_byte(self) -> Taken:
        async with self.client.command.stream(argv=[sys.executable, "-S", "-c", TELL_THE_TIME]) as events:
            async for event in events:
                if isinstance(event, Stdout):
                    return Taken((time.monotonic_ns() - int(event.data.split()[0])) / 1e6)
        raise AssertionError("no output")

    async def read(self, path: str, size: int) -> None:
        expect((await self.client.read(path=path)).size == size, "another size")

    async def write(self, path: str, content: str) -> None:
        await self.client.write(path=path, content=content)

    async def edit(self, path: str, old: str, new: str) -> None:
        await self.client.edit(path=path, old_text=old, new_text=new)

    async def list(self, path: str, count: int) -> None:
        expect(len((await self.client.list(path=path)).entries) == count, "another number of entries")

    async def search(self, path: str, word: str, count: int) -> None:
        found = await self.client.search(pattern=word, path=path)
        expect(len(found.matches) == count, lambda: f"{len(found.matches)} of {count}")

    async def names(self, path: str, part: str, count: int) -> None:
        await self.client.search(in_=Where.NAMES, kind=PatternKind.LITERAL, pattern=part, path=path)


class ByHttp(Tools):
    """One POST each on a connection that is kept, in JSON."""

    kind = Kind.OURS

    def __init__(self, url: str, web: aiohttp.ClientSession, root: Path, pid: int) -> None:
        super().__init__("ours, HTTP", root, pid)
        self.url, self._web = url, web

    async def _ask(self, operation: str, **params: object) -> dict[str, object]:
        async with self._web.post(f"{self.url}/v1/{operation}", json=params) as response:
            answer: dict[str, object] = await response.json()
            expect(response.status == 200, str(answer.get("error")))
            return answer

    async def small(self) -> None:
        await self._ask("dev_status")

    async def true(self) -> None:
        expect((await self._ask("command", argv=[_TRUE]))["exitCode"] == 0, "true failed")

    async def shell(self) -> None:
        expect(str((await self._ask("shell", command=SAY_MARK))["stdout"]).strip() == MARK, "another output")

    async def read(self, path: str, size: int) -> None:
        expect((await self._ask("read", path=path))["size"] == size, "another size")

    async def write(self, path: str, content: str) -> None:
        await self._ask("write", path=path, content=content)

    async def edit(self, path: str, old: str, new: str) -> None:
        await self._ask("edit", path=path, oldText=old, newText=new)

    async def list(self, path: str, count: int) -> None:
        await self._ask("list", path=path)

    async def search(self, path: str, word: str, count: int) -> None:
        await self._ask("search", pattern=word, path=path)

    async def names(self, path: str, part: str, count: int) -> None:
        await self._ask("search", pattern=part, kind="literal", path=path, **{"in": "names"})

    async def download(self, path: str, size: int) -> None:
        async with self._web.get(f"{self.url}/v1/files/{path}") as response:
            received = 0
            async for chunk in response.content.iter_any():
                received += len(chunk)
        expect(received == size, f"{received} bytes of {size}")

    async def upload(self, path: str, source: Path) -> None:
        with source.open("rb") as file:
            async with self._web.put(f"{self.url}/v1/files/{path}", data=file) as response:
                expect(response.status < 300, f"status {response.status}")


@asynccontextmanager
async def ours(root: Path) -> AsyncIterator[tuple[ByClient, ByHttp]]:
    """A tool server of ``root`` and both ways to it."""
    await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
    async with (
        program(*daemon(root)) as (url, pid),
        open_client(url) as client,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as web,
    ):
        yield ByClient(client, root, pid), ByHttp(url, web, root, pid)


def daemon(root: Path) -> tuple[str, ...]:
    """What starts one."""
    return sys.executable, "-m", "toolserver", "--port", "0", "--workspace-root", str(root)


_TRUE, _CAT = found_program("true"), found_program("cat")
