"""How cost grows with what there is: files, processes, work, sockets, output. Ratios are to the first one."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from websockets.asyncio.client import connect

from benchmarks.arena import Bench
from benchmarks.measure import Act, Figure, figure, timed, value
from benchmarks.memory import resident_mib
from benchmarks.peers.ours import ByClient, ByHttp, ours
from benchmarks.searches import plant

FILES = (100, 1000, 10_000, 50_000)
PROCESSES = (0, 64, 256, 512)
BUSY = (0, 8, 64)
SOCKETS = (0, 64, 256, 1000)
OUTPUT_MB = (0, 1, 10, 100, 400)
_RUNS = 40
_SETTLED_SECONDS = 0.5
"""Until all commands are at it."""
_LOUD = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done"


async def growth(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """Five curves, each on a daemon of its own."""
    for curve in (_processes, _busy, _sockets, _output, _files):
        root = bench.scratch / f"growth{curve.__name__}"
        async with ours(root) as (client, http):
            (root / "small.txt").write_text("x" * 1024)
            yield await curve(client, http)


class _Curves:
    """Points of several acts, and of memory, as what there is grows."""

    def __init__(self, what: str, pid: int | None) -> None:
        self._what, self._pid = what, pid
        self._first: dict[str, float] = {}
        self.figures: list[Figure] = []

    async def point(self, step: str, acts: dict[str, Act]) -> None:
        for name, act in acts.items():
            await timed(act)
            times = [await timed(act) for _ in range(_RUNS)]
            first = self._first.setdefault(name, statistics.median(times))
            self.figures.append(figure(f"growth, {self._what}: {name}", step, times, first))
        assert self._pid is not None
        self.figures.append(value(f"growth, {self._what}: memory", step, resident_mib(self._pid), "MiB"))


async def _files(client: ByClient, http: ByHttp) -> list[Figure]:
    curves, top = _Curves("files in the tree", client.pid), client.root / "tree"
    for count in FILES:
        await asyncio.to_thread(plant, top, count)
        await curves.point(
            str(count),
            {
                "read": lambda: client.read("small.txt", 1024),
                "write": lambda: client.write("written.txt", "x" * 1024),
                "names": lambda: client.names("tree", "file-99", 1),
                "true": client.true,
            },
        )
    return curves.figures


async def _processes(client: ByClient, http: ByHttp) -> list[Figure]:
    curves, running = _Curves("idle commands", client.pid), 0
    for count in PROCESSES:
        for _ in range(count - running):
            await client.idle()
        running = count
        await curves.point(str(count), {"smallest request": client.small, "true": client.true})
    return curves.figures


async def _busy(client: ByClient, http: ByHttp) -> list[Figure]:
    curves, loud = _Curves("commands that work and write", client.pid), list[asyncio.Task[None]]()
    try:
        for count in BUSY:
            loud += [asyncio.create_task(_loud(client)) for _ in range(count - len(loud))]
            await asyncio.sleep(_SETTLED_SECONDS)
            await curves.point(str(count), {"smallest request": client.small, "by HTTP": http.small})
    finally:
        for each in loud:
            each.cancel()
        await asyncio.gather(*loud, return_exceptions=True)
    return curves.figures


async def _loud(client: ByClient) -> None:
    while True:
        await client.client.command(command=_LOUD)


async def _sockets(client: ByClient, http: ByHttp) -> list[Figure]:
    curves = _Curves("open sockets", client.pid)
    url = f"{http.url.replace('http', 'ws', 1)}/v1/ws"
    async with AsyncExitStack() as stack:
        opened = 0
        for count in SOCKETS:
            for _ in range(count - opened):
                await stack.enter_async_context(
                    connect(url, compression=None, proxy=None, ping_interval=None)
                )
            opened = count
            await curves.point(str(count), {"smallest request": client.small, "true": client.true})
    return curves.figures


async def _output(client: ByClient, http: ByHttp) -> list[Figure]:
    curves, written = _Curves("MB of output written", client.pid), 0
    for megabytes in OUTPUT_MB:
        if more := megabytes - written:
            await client.client.command(command=f"head -c {more}M /dev/zero", max_output_bytes=0)
        written = megabytes
        await curves.point(str(megabytes), {"smallest request": client.small})
    return curves.figures
