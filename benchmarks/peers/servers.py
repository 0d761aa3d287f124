"""Starting a peer's server on loopback and waiting for its first answer; asking it in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.peers.tools import Tools, expect

START_SECONDS = 90.0
"""To the first answer; the slowest peer took 12 s on a quiet machine."""
_POLL_SECONDS = 0.01


def free_port() -> int:
    """One that nobody had a moment ago; these servers cannot choose for themselves and tell it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def server(
    argv: tuple[str, ...],
    url: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[int]:
    """A server that answers at ``url`` in the block: its pid. It is ended with all that it started."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            await _answering(process, url, headers)
        yield process.pid
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """The whole group: politely, then not."""
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _answering(
    process: asyncio.subprocess.Process, url: str, headers: Mapping[str, str] | None
) -> None:
    async with aiohttp.ClientSession(headers=headers) as web:
        while True:
            expect(process.returncode is None, f"it ended with status {process.returncode} at its start")
            with contextlib.suppress(aiohttp.ClientError):
                async with web.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(_POLL_SECONDS)


class HttpTools(Tools):
    """A contender that is asked over HTTP, on connections that are kept."""

    def __init__(self, name: str, root: Path, pid: int, web: aiohttp.ClientSession) -> None:
        super().__init__(name, root, pid)
        self.web = web

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer's JSON; raises Wrong when it is a refusal."""
        async with self.web.request(method, path, **more) as response:
            if response.status >= 300:
                expect(False, f"{path} answered {response.status}: {(await response.text())[:120]}")
            return await response.json()

    async def received(self, path: str, size: int, **more: Any) -> None:
        """A body of ``size`` bytes, as it comes."""
        got = 0
        async with self.web.get(path, **more) as response:
            expect(response.status == 200, f"{path} answered {response.status}")
            async for chunk in response.content.iter_any():
                got += len(chunk)
        expect(got == size, f"{got} bytes of {size}")


@asynccontextmanager
async def session(url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with no limits of its own on connections and time."""
    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        url, headers=headers, connector=limits, timeout=aiohttp.ClientTimeout(total=None)
    ) as web:
        yield web
