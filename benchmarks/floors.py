"""What the same work costs with nothing around it: the floors that our figures are held against."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_BARE_SERVER = """
import uvloop
from aiohttp import web
async def get(request): return web.Response(body=BODY, content_type="application/json")
async def echo(request):
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket: await socket.send_bytes(message.data)
    return socket
async def main():
    app = web.Application(); app.router.add_post("/get", get); app.router.add_get("/ws", echo)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0); await site.start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    import asyncio; await asyncio.Event().wait()
BODY = b"x" * 1200
uvloop.run(main())
"""

_FILE_SERVER = """
import sys, uvloop
from aiohttp import web
async def get(request): return web.FileResponse(sys.argv[1])
async def main():
    app = web.Application(); app.router.add_get("/file", get)
    runner = web.AppRunner(app, access_log=None); await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0); await site.start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    import asyncio; await asyncio.Event().wait()
uvloop.run(main())
"""
# Each in a loop of its own kind, in a program of its own, that looks at the clock itself.
_SPAWNER = """
import asyncio, json, sys, time
async def main():
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        begun = time.perf_counter()
        process = await asyncio.create_subprocess_exec(sys.argv[2])
        await process.wait()
        taken = (time.perf_counter() - begun) * 1000
        print(json.dumps({"id": json.loads(line)["id"], "taken": taken}), flush=True)
if sys.argv[1] == "uvloop":
    import uvloop; uvloop.run(main())
else:
    asyncio.run(main())
"""


@asynccontextmanager
async def program(*argv: str, env: dict[str, str] | None = None) -> AsyncIterator[tuple[str, int]]:
    """A server that prints ``listening on URL``: its address and its pid. Ended by its pid."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        yield line.split()[-1], process.pid
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def bare_server() -> tuple[str, ...]:
    """aiohttp on uvloop: one handler, one echo socket."""
    return sys.executable, "-c", _BARE_SERVER


def file_server(path: Path) -> tuple[str, ...]:
    """aiohttp's own way to send one file, at ``/file``."""
    return sys.executable, "-c", _FILE_SERVER, str(path)


def spawner(loop: str, path: str) -> tuple[str, ...]:
    """A program that starts ``path`` by the subprocess support of a loop, ``asyncio`` or ``uvloop``."""
    return sys.executable, "-c", _SPAWNER, loop, path


async def spawn(argv: list[str]) -> None:
    """posix_spawn, a pidfd on the loop, wait."""
    pid = os.posix_spawn(argv[0], argv, os.environ)  # noqa: ASYNC221 - the floor is this very call
    ended = asyncio.Event()
    pidfd = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it has ended


@asynccontextmanager
async def kept_bash() -> AsyncIterator[Callable[[str], Awaitable[bytes]]]:
    """A bash that reads one line from a pipe and answers with one: nothing is exact, and no end is told."""
    bash = await asyncio.create_subprocess_exec(
        shutil.which("bash") or "/bin/bash", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert bash.stdin is not None
    assert bash.stdout is not None
    into, out = bash.stdin, bash.stdout

    async def ask(line: str) -> bytes:
        into.write(line.encode() + b"\n")
        return await out.readline()

    yield ask
    into.close()
    await bash.wait()


async def run(*argv: str, cwd: Path | None = None, check: bool = False) -> None:
    """A program to its end, its output thrown away. ``check``: raises CalledProcessError when it fails."""
    found = shutil.which(argv[0]) or argv[0]
    await asyncio.to_thread(
        subprocess.run, [found, *argv[1:]], cwd=cwd, check=check, stdout=subprocess.DEVNULL
    )
