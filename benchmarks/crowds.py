"""Many at once: 1 to 256 askers who each ask again as soon as they were answered."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.arena import Arena, floor
from benchmarks.floors import spawn
from benchmarks.measure import Act, Entry, Figure, Kind, figure, missing, reason, timed
from benchmarks.peers.tools import expect, found_program

SLICES = 3
"""Turns of each candidate."""
_KIB = 1024
_ACT_SECONDS = 30.0


async def crowds(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """A small file over HTTP and over a socket each, and ``true``."""
    (arena.root / "small.txt").write_bytes(b"x" * _KIB)
    true, scale = found_program("true"), arena.bench.scale
    for clients in scale.clients:
        entries = [floor("bare aiohttp handler", _handled(arena))]
        entries += [_entry(each, "read", "small.txt", _KIB) for each in arena.contenders if each.many("read")]
        yield await at_once(f"read 1 KiB, {clients} at once", entries, clients, scale.seconds)
        async with AsyncExitStack() as stack:
            bare = [await _socket(stack, f"{arena.bare}/ws") for _ in range(clients)]
            ours = [await _socket(stack, f"{arena.http.url}/v1/ws") for _ in range(clients)]
            sockets = [floor("bare echo socket", _echoed(bare)), Entry("ours, frames alone", _asked(ours))]
            case = f"read 1 KiB by sockets, {clients} at once"
            yield await at_once(case, sockets, clients, scale.seconds)
        entries = [floor("posix_spawn + pidfd", lambda: spawn([true]))]
        entries += [_entry(each, "true") for each in arena.contenders if each.many("true")]
        yield await at_once(f"command true, {clients} at once", entries, clients, scale.seconds)


async def at_once(case: str, entries: Sequence[Entry], clients: int, seconds: float) -> list[Figure]:
    """``clients`` of one for a slice of the time, then of the next, and again; the first is the floor."""
    times: dict[str, list[float]] = {each.name: [] for each in entries}
    spent = dict.fromkeys(times, 0.0)
    failed: dict[str, str] = {}
    piece = seconds / SLICES / len(entries)
    for _, each in itertools.product(range(SLICES), entries):
        if each.name in failed:
            continue
        begun = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(_asking(each.act, begun + piece, times[each.name]))
        except Exception as error:  # a candidate that breaks under load is a line in the report
            failed[each.name] = reason(error)
        spent[each.name] += time.monotonic() - begun
    base = times[entries[0].name]
    least = statistics.median(base) if base else None
    return [
        missing(case, each.name, failed[each.name], each.kind)
        if each.name in failed
        else _rated(figure(case, each.name, times[each.name], least, each.kind), spent[each.name])
        for each in entries
    ]


def _rated(told: Figure, seconds: float) -> Figure:
    return dataclasses.replace(told, per_second=round(told.runs / seconds, 1))


async def _asking(act: Act, until: float, times: list[float]) -> None:
    while True:
        times.append(await timed(act, _ACT_SECONDS))
        if time.monotonic() > until:
            return


def _entry(tools: object, verb: str, *words: object) -> Entry:
    async def act() -> object:
        return await getattr(tools, verb)(*words)

    return Entry(str(getattr(tools, "name", "")), act, getattr(tools, "kind", Kind.PEER))


def _handled(arena: Arena) -> Act:
    async def act() -> None:
        async with arena.web.post(f"{arena.bare}/get", data=b"{}") as response:
            await response.read()

    return act


async def _socket(stack: AsyncExitStack, url: str) -> ClientConnection:
    opened = connect(url.replace("http", "ws", 1), compression=None, proxy=None, max_size=None)
    return await stack.enter_async_context(opened)


def _echoed(sockets: list[ClientConnection]) -> Act:
    async def act() -> None:
        socket = sockets.pop()
        await socket.send(b"x" * 1200)
        await socket.recv()
        sockets.append(socket)

    return act


def _asked(sockets: list[ClientConnection]) -> Act:
    frame = json.dumps({"id": "1", "op": "read", "params": {"path": "small.txt"}})

    async def act() -> None:
        socket = sockets.pop()
        await socket.send(frame)
        expect("result" in str(await socket.recv())[:200], "no result")
        sockets.append(socket)

    return act
