"""From the command line to the first answer; sessions, and what a warm process would give them."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp

from benchmarks import prefork, sessions
from benchmarks.arena import Bench, floor
from benchmarks.floors import bare_server, program
from benchmarks.measure import Entry, Figure, Kind, compare, figure, value
from benchmarks.peers.all import Peer
from benchmarks.peers.ours import daemon

AT_ONCE = 3
_CREATED = 300


async def starts(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """Ours beside Python with aiohttp loaded, and the peers'."""
    root = bench.scratch / "starting"
    root.mkdir()
    entries = [
        floor("bare aiohttp server", functools.partial(_healthy, bare_server(), "/")),
        Entry("ours", functools.partial(_healthy, daemon(root), "/health")),
    ]
    for peer in bench.field.peers:
        act = functools.partial(_opened, peer, bench.field.places[peer.name], root)
        entries.append(Entry(peer.name, act, Kind.PEER))
    runs = bench.scale.heavy_runs
    yield await compare("start to healthy", entries, runs, bench.scale.seconds * 8, warm=False)


async def rates(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """Sessions created, begun, begun in a minute, started and forked; beside bare tool servers and forks."""
    place, number = bench.scratch / "sessions", bench.scale.sessions
    place.mkdir()
    case, unit = f"sessions a minute, {AT_ONCE} at once", "a minute"
    begun = f"session begun to its tool server's answer, {AT_ONCE} at once"
    async with (
        sessions.opened(place / "started", "auto", prefork=False) as anew,
        sessions.opened(place / "forked", "auto", prefork=True) as forking,
    ):
        created = [each * 1000 for each in await sessions.created(anew, _CREATED)]
        yield [figure("session created", "ours", created, None)]
        await sessions.started(forking, 1, 1)  # and the process that forks them
        for name, each in (("ours", anew), ("ours, forked", forking)):
            seconds, taken = await sessions.started(each, number, AT_ONCE)
            yield [figure(begun, name, [one * 1000 for one in taken], None)]
            yield [value(case, f"{name}, isolated", number / seconds * 60, unit)]
    bare = await sessions.bare(place, number, AT_ONCE)
    yield [value(case, "bare tool servers", number / bare * 60, unit, Kind.FLOOR)]
    forked = await prefork.forked(place, number)
    yield [value(case, "forks of a warm tool server, one at once", number / forked * 60, unit, Kind.FLOOR)]


async def _healthy(argv: tuple[str, ...], path: str) -> None:
    async with (
        program(*argv) as (url, _),
        aiohttp.ClientSession() as web,
        web.get(f"{url}{path}") as response,
    ):
        await response.read()


async def _opened(peer: Peer, place: Path, root: Path) -> None:
    async with peer.opened(place, root):
        pass
