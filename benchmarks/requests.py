"""What asking costs: the smallest request, files of three sizes, an edit, a listing."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect

from benchmarks.arena import Arena, floor
from benchmarks.edits import durable_write
from benchmarks.floors import file_server, program, run
from benchmarks.machine import placed
from benchmarks.measure import Act, Entry, Figure, compare
from benchmarks.peers.tools import Tools, expect

_KIB, _MIB = 1024, 1024 * 1024
_LINE = "export const answer = 42; // sixty-four characters of a source\n"
_LARGE = 100 * _MIB


async def small(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """The least that can be asked, and a small file, at each door."""
    (arena.root / "small.txt").write_bytes(_text(_KIB))
    yield await arena.contest(
        "smallest request", "small", (), [floor("bare aiohttp handler", _handled(arena))]
    )
    yield await arena.contest(
        "read 1 KiB", "read", ("small.txt", _KIB), [floor("bare aiohttp handler", _handled(arena))]
    )
    async for figures in _frames(arena):
        yield figures


async def _frames(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """A small read without a client's library, where client and servers have a core each, and share one."""
    scale, server = arena.bench.scale, arena.http.pid
    assert server is not None
    frame = json.dumps({"id": "1", "op": "read", "params": {"path": "small.txt"}})
    cores = sorted(os.sched_getaffinity(0))
    places = {"one core": cores[0]} if len(cores) == 1 else {"two cores": cores[-1], "one core": cores[0]}

    async def echoed() -> None:
        await arena.echo.send(b"x" * 1200)
        await arena.echo.recv()

    address = f"{arena.http.url.replace('http', 'ws')}/v1/ws"
    async with connect(address, compression=None, proxy=None, max_size=None) as socket:

        async def asked() -> None:
            await socket.send(frame)
            expect("result" in str(await socket.recv())[:200], "no result")

        for where, core in places.items():
            with placed({os.getpid(): cores[0], arena.bare_pid: core, server: core}):
                figures = await compare(
                    f"read 1 KiB, frames alone, on {where}",
                    [("bare echo socket", echoed), ("ours, WebSocket", asked)],
                    scale.runs * 2,
                    scale.seconds,
                )
            yield figures


async def files(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """Read, written, changed and listed."""
    root = arena.root
    (root / "small.txt").write_bytes(_text(_KIB))
    (root / "middle.txt").write_bytes(_text(_MIB))
    async with program(*file_server(root / "middle.txt")) as (url, _):
        one = floor("aiohttp FileResponse", functools.partial(_get, arena.web, f"{url}/file", _MIB))
        yield await arena.contest("read 1 MiB", "read", ("middle.txt", _MIB), [one])
    for size, name in ((_KIB, "1 KiB"), (_MIB, "1 MiB")):
        content = _text(size).decode()
        by_hand = floor("write, fsync, rename", _written(root / "by-hand.txt", content))
        yield await arena.contest(f"write {name}", "write", _own(content), [by_hand])
    yield await _edits(arena)
    listed = root / "listed"
    listed.mkdir()
    for number in range(1000):
        (listed / f"{number}.ts").touch()
    ls = floor("ls -l", functools.partial(run, "ls", "-l", cwd=listed))
    yield await arena.contest("list 1000 entries", "list", ("listed", 1000), [ls])


async def large_files(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """100 MiB each way."""
    root, large = arena.root, arena.root / "large.bin"
    large.write_bytes(_text(_LARGE))
    async with program(*file_server(large)) as (url, _):
        one = floor("aiohttp FileResponse", functools.partial(_get, arena.web, f"{url}/file", _LARGE))
        yield await arena.contest("read 100 MiB", "download", ("large.bin", _LARGE), [one], heavy=True)
    cp = functools.partial(run, "sh", "-c", "cp large.bin cp.bin && sync cp.bin", cwd=root)
    yield await arena.contest(
        "write 100 MiB", "upload", _uploaded(large), [floor("cp and sync", cp)], heavy=True
    )
    for each in root.glob("*.bin"):
        each.unlink()


async def _edits(arena: Arena) -> list[Figure]:
    """A word replaced in a file of 1 KiB; each contender has one of its own."""
    root, entries, numbers = arena.root, [], itertools.count(1)
    by_hand = _written(root / "by-hand.txt", _text(_KIB).decode())
    entries.append(floor("write, fsync, rename", by_hand))

    def edited(tools: Tools, path: Path) -> Act:
        state = {"word": "word 0\n"}

        async def act() -> object:
            old, new = state["word"], f"word {next(numbers)}\n"
            answer = await tools.edit(path.name, old, new)
            state["word"] = new
            return answer

        return act

    for index, each in enumerate(arena.contenders):
        if each.offers("edit"):
            path = root / f"edited-{index}.txt"
            path.write_bytes(b"word 0\n" + _text(_KIB))
            entries.append(Entry(each.name, edited(each, path), each.kind))
    scale = arena.bench.scale
    return await compare("edit 1 KiB", entries, scale.runs, scale.seconds)


def _handled(arena: Arena) -> Act:
    async def act() -> None:
        async with arena.web.post(f"{arena.bare}/get", data=b'{"path":"small.txt"}') as response:
            await response.read()

    return act


async def _get(web: aiohttp.ClientSession, url: str, size: int) -> None:
    received = 0
    async with web.get(url) as response:
        async for chunk in response.content.iter_any():
            received += len(chunk)
    expect(received == size, f"{received} bytes of {size}")


def _written(path: Path, content: str) -> Act:
    data = content.encode()

    async def act() -> None:
        durable_write(path, data)

    return act


def _own(content: str) -> Callable[[Tools], Sequence[object]]:
    def words(tools: Tools) -> tuple[str, str]:
        return f"written-{tools.name.replace(' ', '-').replace(',', '')}.txt", content

    return words


def _uploaded(source: Path) -> Callable[[Tools], Sequence[object]]:
    def words(tools: Tools) -> tuple[str, Path]:
        return f"uploaded-{tools.name.replace(' ', '-').replace(',', '')}.bin", source

    return words


def _text(size: int) -> bytes:
    return (_LINE * (size // len(_LINE) + 1)).encode()[:size]
