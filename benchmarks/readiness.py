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

from benchmarks import warm
from benchmarks.arena import Bench
from benchmarks.edits import durable_write
from benchmarks.measure import Entry, Figure, Kind, Taken, compare, missing, value
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
_EDITED = {"vite-vanilla": "src/style.css", "astro-minimal": "src/pages/index.astro"}
_TOKEN = re.compile(r'wsToken = "([^"]+)"')
_IMPORT = re.compile(r'(?:import|from|src=)\s*"(/(?!@)[^"]+)"')
_PAUSE_SECONDS = 0.15
"""Between two edits, as nobody saves twice in that time and a dev server takes two for one."""
_EDITS = 12


async def readiness(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """Each template from nothing, and its edits; then out of a store, beside the bare dev server."""
    runs = max(1, bench.scale.heavy_runs // 3)
    for name in bench.scale.templates:
        with fresh_data() as data:
            try:
                async for found in _template(name, data):
                    yield found
            except Exception as error:  # without a registry there is no installation
                yield [missing(f"{name}, from nothing to its page", "ours", error)]
    with_packages = [name for name in bench.scale.templates if name in warm.TEMPLATES]
    with warm.benches(with_packages, None) as each_template:
        for each in each_template:
            try:
                yield await warm.measured(each, runs)
            except Exception as error:  # another template may do well
                yield [missing(f"{warm.CASE}{each.source.name}", "warm store", error)]


async def _template(name: str, data: Path) -> AsyncIterator[list[Figure]]:
    """``data`` is empty, and with it npm's cache and the dependency store."""
    case = f"{name}, from nothing to its page"
    tools = find_toolchain(os.environ).make_bin(data.with_name("tools"))
    environ = {**os.environ, "WORKSPACE_ISOLATION": "none"}
    paths = PathManager(data)
    backends = InstalledBackends(Host(paths, environ, tools))
    async with Sessions(paths, Records(paths.db_path("sessions")), backends) as sessions:
        ready, taken = await _up(sessions, name)
        steps = [value(case, f"of it, {step}", part * 1000, "ms") for step, part in ready.seconds.items()]
        yield [value(case, "ours", taken, "ms"), *steps[:-1]]
        try:
            if name in _EDITED:
                yield await _edits(sessions, ready, name, paths)
        finally:
            await sessions.end(ready.record, keep_files=False)


async def _up(sessions: Sessions, name: str) -> tuple[Ready, float]:
    source = find_source(name, template_roots(PROJECT), PROJECT)
    begun = time.perf_counter()
    async with asyncio.timeout(UP_SECONDS):
        ready = await launch(sessions, _ANN, source, WISHES, Quiet(), "local")
    return ready, (time.perf_counter() - begun) * 1000


async def _edits(sessions: Sessions, ready: Ready, name: str, paths: PathManager) -> list[Figure]:
    """To the frame that an open page gets: written by hand into the same tree, and by ``edit``."""
    path = _EDITED[name]
    file = paths.workspace_dir(_ANN, ready.record.session_id) / path
    numbers = itertools.count(1)
    comment = "<!-- {} -->\n" if path.endswith(".astro") else "/* {} */\n"
    first = comment.format(0)
    file.write_text(file.read_text(encoding="utf-8") + first, encoding="utf-8")
    state = {"mark": first}
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
