"""From an archive to a page that answers, when the packages were installed before.

    python -m benchmarks.warm [TEMPLATE...] [--runs 5] [--kept DIR]

For each template, by turns: its dev server started by hand where node_modules lies already, without what an
earlier run has cached in it, for that is good for its own path only: the floor; inject and start out of a
warm dependency store that has a spare tree, as it has some seconds after the last workspace; out of one that
has none; and the same by the package manager, its cache warm. A tool server is fresh and empty each time, its
own start is not counted. ``--kept`` is where npm's cache stays.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.floors import program
from benchmarks.measure import UNTIL, Figure, Kind, figure
from orchestrator.archive import archive_directory
from orchestrator.client import Client, open_client
from orchestrator.templates import Source, find_source, template_roots
from orchestrator.toolchain import find_toolchain
from protocol.messages.devserver import StoreOutcome
from protocol.templates import dev_command, filled
from toolserver.tools.project import parse_package
from toolserver.tools.shell import dev_environment

CASE = "inject to ready, "
TEMPLATES = ("vite-vanilla", "vite-react-ts", "vite-svelte-ts", "astro-minimal", "astro-landing")
READY_SECONDS = 180.0
_CACHES = (".vite", ".vite-temp", ".astro")
_LOOK_SECONDS = 0.01
"""Between two looks at the bare dev server; the tool server's own are 0.05 s apart."""


@dataclass(frozen=True)
class Bench:
    """What is the same for all runs of one template."""

    source: Source
    scratch: Path
    env: dict[str, str]

    @property
    def store(self) -> Path:
        """Warm after ``fill``."""
        return self.scratch / "store"

    @property
    def installed(self) -> Path:
        """The template with its node_modules."""
        return self.scratch / "installed"


async def measured(bench: Bench, runs: int) -> list[Figure]:
    """The template's four figures: each once without counting, then by turns while there is time for one."""
    await fill(bench)
    acts: dict[str, Callable[[], Awaitable[float]]] = {
        "bare dev server": lambda: bare(bench),
        "warm store": lambda: ours(bench, warm=True),
        "warm store, no spare": lambda: ours(bench, warm=True, spare=False),
        "npm, cache warm": lambda: ours(bench, warm=False, spare=False),
    }
    taken: dict[str, list[float]] = {name: [] for name in acts}
    for turn in range(runs + 1):
        begun = time.monotonic()
        for name, act in acts.items():
            seconds = await act()
            if turn:
                taken[name].append(seconds * 1000)
        ended = time.monotonic()
        if turn and UNTIL.get() - ended < ended - begun:
            break
    floor = statistics.median(taken["bare dev server"])
    case = f"{CASE}{bench.source.name}"
    kinds = (Kind.FLOOR, Kind.OURS, Kind.OURS, Kind.OURS)
    return [figure(case, *each, floor, kind) for each, kind in zip(taken.items(), kinds, strict=True)]


async def fill(bench: Bench) -> None:
    """Install once, and wait until the store has it."""
    root = bench.scratch / "app"
    async with daemon(bench, root) as client:
        await bring_up(bench, client, warm=True)
        await until(lambda: asyncio.to_thread(lambda: bool(list(bench.store.glob("*.pack")))), 0.1)
        await spare_made(bench)
        await client.dev_stop()
        await asyncio.to_thread(root.rename, bench.installed)


async def until(holds: Callable[[], Awaitable[bool]], pause: float) -> None:
    """Ask again and again, for a bounded time."""
    async with asyncio.timeout(READY_SECONDS):
        while not await holds():  # noqa: ASYNC110 - another program is asked
            await asyncio.sleep(pause)


async def spare_made(bench: Bench) -> None:
    """Wait until the store has one for the next workspace."""
    await until(lambda: asyncio.to_thread(lambda: bool(list(bench.store.glob("spares/[0-9a-f]*-*")))), 0.1)


async def ours(bench: Bench, *, warm: bool, spare: bool = True) -> float:
    """Seconds of one run."""
    root = bench.scratch / "app"
    try:
        async with daemon(bench, root, spares=1 if spare else 0) as client:
            if warm and not spare:
                await asyncio.to_thread((bench.store / "spares").rename, bench.scratch / "aside")
            seconds = await bring_up(bench, client, warm=warm, spare=spare)
            if warm and not spare:
                await asyncio.to_thread((bench.scratch / "aside").rename, bench.store / "spares")
            if warm and spare:
                await client.dev_stop()
                await spare_made(bench)
            return seconds
    finally:
        with contextlib.suppress(FileNotFoundError):  # cut off before the tool server made it
            await asyncio.to_thread(shutil.rmtree, root)


async def bring_up(bench: Bench, client: Client, *, warm: bool, spare: bool | None = None) -> float:
    """Inject, install, start, until the page answers; ``spare``: whether packages are to come from one."""
    loop = asyncio.get_running_loop()
    archive = await asyncio.to_thread(archive_directory, bench.source.path, bench.source.exclusions)
    content = await asyncio.to_thread(lambda: archive.content)
    template = bench.source.template
    begun = loop.time()
    await client.put_archive(content, digest=archive.digest)
    install = template.install_request()
    if not warm:
        install = msgspec.structs.replace(install, store=False)
    dev = msgspec.structs.replace(template.dev_request(), port=_free_port())
    started = await client.start(install=install, dev=dev)
    seconds = loop.time() - begun
    use = started.install.store
    if warm and list(bench.store.glob("*.pack")) and (use is None or use.outcome is not StoreOutcome.HIT):
        raise RuntimeError(f"the store was not used: {use}")
    if warm and spare is not None and use is not None and spare != (use.means == "spare tree"):
        raise RuntimeError(f"packages were placed by other means: {use}")
    return seconds


async def bare(bench: Bench) -> float:
    """Seconds from the dev server's start to its first answer."""
    package = parse_package((bench.installed / "package.json").read_bytes())
    names = [path.name for path in bench.installed.iterdir()]
    line = bench.source.template.dev_command or dev_command(package, names)
    assert isinstance(line, str)
    port = _free_port()
    for cache in _CACHES:
        await asyncio.to_thread(shutil.rmtree, bench.installed / "node_modules" / cache, ignore_errors=True)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    process = await asyncio.create_subprocess_shell(
        filled(line, "127.0.0.1", port),
        cwd=bench.installed,
        env={**dev_environment(bench.env), "HOST": "127.0.0.1", "PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with aiohttp.ClientSession() as web:
            await until(lambda: _answers(web, port), _LOOK_SECONDS)
        return loop.time() - begun
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _answers(web: aiohttp.ClientSession, port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with web.get(f"http://127.0.0.1:{port}/") as response:
            return response.status < 500
    return False


@asynccontextmanager
async def daemon(bench: Bench, root: Path, *, spares: int = 1) -> AsyncIterator[Client]:
    """A tool server with the store."""
    settings = {
        "WORKSPACE_ROOT": str(root),
        "TOOL_SERVER_PORT": "0",
        "DEV_SERVER_PORT": str(_free_port()),
        "TOOL_SERVER_STORE_DIR": str(bench.store),
        "TOOL_SERVER_MAX_SPARES": str(spares),
    }
    argv = (sys.executable, "-P", "-m", "toolserver")
    async with program(*argv, env={**bench.env, **settings}) as (url, _), open_client(url) as client:
        yield client


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def benches(names: list[str], kept: Path | None) -> Iterator[list[Bench]]:
    """One for each template, in a directory that goes at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        tools = find_toolchain(os.environ).make_bin(Path(scratch) / "tools")
        cache = kept or Path(scratch) / "npm"
        path = f"{tools}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "npm_config_cache": str(cache), "PYTHONPATH": str(Path.cwd())}
        found = [find_source(name, template_roots(Path.cwd()), Path.cwd()) for name in names]
        for source in found:
            (Path(scratch) / source.name).mkdir()
        yield [Bench(source, Path(scratch) / source.name, env) for source in found]


async def main(names: list[str], runs: int, kept: Path | None) -> None:
    """A table."""
    print(
        "| case | candidate | median ms | p99 ms | to floor | runs |\n|---|---|---|---|---|---|", flush=True
    )
    with benches(names, kept) as found:
        for bench in found:
            for each in await measured(bench, runs):
                print(each.row(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("templates", nargs="*", default=list(TEMPLATES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kept", type=Path)
    options = parser.parse_args()
    asyncio.run(main(options.templates, options.runs, options.kept))
