"""The floors, our daemon and the peers, all up at once on one root, so that each case has them take turns."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.floors import bare_server, program
from benchmarks.measure import Act, Entry, Figure, Kind, compare
from benchmarks.peers.all import Field
from benchmarks.peers.ours import ByClient, ByHttp, ours
from benchmarks.peers.tools import Tools
from benchmarks.scale import Scale


@dataclass
class Bench:
    """What every group of cases gets."""

    scratch: Path
    rg: str
    scale: Scale
    field: Field


@dataclass
class Arena:
    """Everybody, running."""

    bench: Bench
    root: Path
    client: ByClient
    http: ByHttp
    peers: list[Tools]
    bare: str
    """Address of the bare server: aiohttp on uvloop, a handler and an echo socket."""
    bare_pid: int
    web: aiohttp.ClientSession
    echo: ClientConnection

    @property
    def contenders(self) -> list[Tools]:
        """All but the floors."""
        return [self.client, self.http, *self.peers]

    async def contest(
        self,
        case: str,
        verb: str,
        given: Sequence[object] | Callable[[Tools], Sequence[object]],
        floors: Sequence[Entry] = (),
        *,
        heavy: bool = False,
    ) -> list[Figure]:
        """One verb with the same words for each that offers it; ``given`` may differ by whose turn it is."""
        entries = [*floors]
        for each in self.contenders:
            if each.offers(verb):
                words = given(each) if callable(given) else given
                entries.append(Entry(each.name, functools.partial(getattr(each, verb), *words), each.kind))
        scale = self.bench.scale
        runs = scale.heavy_runs if heavy else scale.runs
        seconds = scale.seconds * (2 if heavy else 1)
        return await compare(case, entries, runs, seconds, warm=not heavy, limit=scale.act_seconds)


def floor(name: str, act: Act) -> Entry:
    """What the same work costs with nothing around it."""
    return Entry(name, act, Kind.FLOOR)


@asynccontextmanager
async def arena(bench: Bench) -> AsyncIterator[Arena]:
    """All of them up; a peer that does not start is left out, and ``bench.field`` says why."""
    root = bench.scratch / "app"
    root.mkdir()
    async with (
        bench.field.running(root) as peers,
        ours(root) as (client, http),
        program(*bare_server()) as (bare, pid),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as web,
        connect(bare.replace("http", "ws") + "/ws", compression=None, proxy=None, max_size=None) as echo,
    ):
        yield Arena(bench, root, client, http, peers, bare, pid, web, echo)
