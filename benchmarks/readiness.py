"""From a template to its page, cold and warm, beside the bare dev server; from an edit to its frame."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.arena import Bench
from benchmarks.edits import durable_write
from benchmarks.floors import run
from benchmarks.measure import Entry, Figure, Kind, Taken, compare, figure, missing, value
from benchmarks.peers.servers import end, free_port
from benchmarks.users import PROJECT, WISHES, fresh_data
from orchestrator.backends import Host
from orchestrator.backends.installed import InstalledBackends
from orchestrator.launch import Ready, launch
from orchestrator.paths import PathManager, UserId
from orchestrator.records import Records
from orchestrator.sessions import Sessions
from orchestrator.templates import find_source, template_roots
from orchestrator.toolchain import find_toolchain
from orchestrator.workspace.host import Quiet

UP_SECONDS = 180.0
"""For one template to its page; a cold Astro took 31 s."""
_ANN = UserId("ann")
_DEV = {
    "vite-vanilla": ("node_modules/vite/bin/vite.js", "--strictPort"),
    "astro-minimal": ("node_modules/astro/bin/astro.mjs", "dev", "--ignore-lock"),
}
"""What a template's own command comes to, once npm has looked it up."""
_EDITED = {"vite-vanilla": "src/style.css", "astro-minimal": "src/pages/index.astro"}
_TOKEN = re.compile(r'wsToken = "([^"]+)"')
_IMPORT = re.compile(r'(?:import|from|src=)\s*"(/(?!@)[^"]+)"')
_PAUSE_SECONDS = 0.15
"""Between two edits, as nobody saves twice in that time and a dev server takes two for one."""
_EDITS = 12


async def readiness(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """Each template by itself: cold, warm, bare; and its edits while it runs."""
    for name in bench.scale.templates:
        with fresh_data() as data:
            try:
                async for found in _template(name, data, bench):
                    yield found
            except Exception as error:  # without a registry there is no installation
                yield [missing(f"{name}, to its page", "ours", error)]


async def _template(name: str, data: Path, bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """``data`` is empty, and with it npm's cache: the first time is cold."""
    case = f"{name}, to its page"
    tools = find_toolchain(os.environ).make_bin(data.with_name("tools"))
    environ = {**os.environ, "WORKSPACE_ISOLATION": "none"}
    paths = PathManager(data)
    backends = InstalledBackends(Host(paths, environ, tools))
    async with Sessions(paths, Records(paths.db_path("sessions")), backends) as sessions:
        cold, first = await _up(sessions, name)
        copy = bench.scratch / f"bare-{name}"
        if name in _DEV:
            await run("cp", "-a", str(paths.workspace_dir(_ANN, cold.record.session_id)), str(copy))
        await sessions.end(cold.record, keep_files=False)
        times: dict[str, list[float]] = {"warm": [], "bare": []}
        steps: dict[str, float] = {}
        for _ in range(max(1, bench.scale.heavy_runs // 2)):
            warm, taken = await _up(sessions, name)
            times["warm"].append(taken)
            if name in _DEV:
                times["bare"].append(await _bare(name, copy, tools))
            await sessions.end(warm.record, keep_files=False)
            steps = warm.seconds
        told = []
        floor = sorted(times["bare"])[len(times["bare"]) // 2] if times["bare"] else None
        if times["bare"]:
            told = [figure(case, "bare dev server, installed already", times["bare"], floor, Kind.FLOOR)]
        told += [figure(case, "ours, cold", [first], floor), figure(case, "ours, warm", times["warm"], floor)]
        for step, seconds in steps.items():
            told.append(value(f"{name}, steps of the last warm start", step, seconds * 1000, "ms"))
        yield told
        if name in _EDITED:
            yield await _edits(sessions, name, paths)


async def _up(sessions: Sessions, name: str) -> tuple[Ready, float]:
    source = find_source(name, template_roots(PROJECT), PROJECT)
    begun = time.perf_counter()
    async with asyncio.timeout(UP_SECONDS):
        ready = await launch(sessions, _ANN, source, WISHES, Quiet(), "local")
    return ready, (time.perf_counter() - begun) * 1000


async def _bare(name: str, directory: Path, tools: Path) -> float:
    port = free_port()
    # Few variables: a dev server that believes an agent started it goes into the background.
    env = {"PATH": f"{tools}:{os.defpath}", "HOME": str(directory.parent)}
    script, *rest = _DEV[name]
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(str(tools / "node"), script, *rest, "--host", "127.0.0.1", "--port", str(port)),
        cwd=directory,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(UP_SECONDS), aiohttp.ClientSession() as web:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with web.get(f"http://127.0.0.1:{port}/") as response:
                        if response.status == 200:
                            return (time.perf_counter() - begun) * 1000
                await asyncio.sleep(0.01)
    finally:
        await end(process)


async def _edits(sessions: Sessions, name: str, paths: PathManager) -> list[Figure]:
    """To the frame that an open page gets: written by hand into the same tree, and by ``edit``."""
    ready, _ = await _up(sessions, name)
    path = _EDITED[name]
    file = paths.workspace_dir(_ANN, ready.record.session_id) / path
    numbers = itertools.count(1)
    comment = "<!-- {} -->\n" if path.endswith(".astro") else "/* {} */\n"
    first = comment.format(0)
    file.write_text(file.read_text(encoding="utf-8") + first, encoding="utf-8")
    state = {"mark": first}
    try:
        async with (
            sessions.client(ready.record) as client,
            _page(f"http://127.0.0.1:{ready.record.dev_port}") as page,
        ):

            async def changed(how: str) -> Taken:
                await asyncio.sleep(_PAUSE_SECONDS)
                await _drained(page)
                old, new = state["mark"], comment.format(next(numbers))
                text = file.read_text(encoding="utf-8").replace(old, new)
                begun = time.perf_counter()
                if how == "by hand":
                    file.write_text(text, encoding="utf-8")
                elif how == "durably":
                    durable_write(file, text.encode())
                else:
                    await client.edit(path=path, old_text=old, new_text=new)
                await _frame(page)
                state["mark"] = new
                return Taken((time.perf_counter() - begun) * 1000)

            entries = [
                Entry("plain file write", lambda: changed("by hand"), Kind.FLOOR),
                Entry("write, fsync, rename", lambda: changed("durably"), Kind.FLOOR),
                Entry("ours, edit", lambda: changed("by edit")),
            ]
            return await compare(f"{name}, edit to the page's frame", entries, _EDITS, 20.0)
    finally:
        await sessions.end(ready.record, keep_files=False)


@asynccontextmanager
async def _page(base: str) -> AsyncIterator[ClientConnection]:
    """The page and the modules it names, loaded, and its channel, as the client script opens it."""
    async with aiohttp.ClientSession(base) as web:
        script, page = await _text(web, "/@vite/client"), await _text(web, "/")
        for path in _IMPORT.findall(page):
            for below in _IMPORT.findall(await _text(web, path)):
                await _text(web, below)
    token = _TOKEN.search(script)
    assert token, "the dev server's client script has no token"
    address = f"{base.replace('http', 'ws', 1)}/?token={token[1]}"
    async with connect(address, subprotocols=[Subprotocol("vite-hmr")], proxy=None) as socket:
        await socket.recv()
        yield socket


async def _frame(page: ClientConnection) -> None:
    async with asyncio.timeout(30):
        while json.loads(await page.recv())["type"] not in ("update", "full-reload"):
            pass


async def _drained(page: ClientConnection) -> None:
    with contextlib.suppress(TimeoutError):
        while True:
            await asyncio.wait_for(page.recv(), 0.02)


async def _text(web: aiohttp.ClientSession, path: str) -> str:
    async with web.get(path) as response:
        return await response.text()
