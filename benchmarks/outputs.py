"""What output takes on its way to one reader, to its first byte and to its last, and what is left behind."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.arena import Arena, floor
from benchmarks.measure import Act, Entry, Figure, Taken, compare, value
from benchmarks.memory import resident_mib
from benchmarks.peers.ours import TELL_THE_TIME
from benchmarks.peers.tools import expect, found_program
from protocol.routes import SUBPROTOCOL_JSON

MB = 1_000_000
_SMALL, _LARGE = 1 * MB, 100 * MB
_KEPT_BYTES = 64 * 1024 * 1024
"""Of each command's output, in a file."""
_ROUNDS_TO_FULL = 16
"""Then all that may be kept is, and each command's output takes the place of an older one's."""
_FIRST_ROUNDS = 6


async def outputs(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """The first byte of a stream, then 1 MB and 100 MB to their last."""
    yield await arena.contest("first byte of a stream", "first_byte", (), [floor("a pipe", _piped_byte)])
    small, large = await _file(arena, _SMALL), await _file(arena, _LARGE)
    yield await arena.contest("1 MB of output", "output", (small.name, _SMALL), [_floor(small)])
    async for figures in _in_pairs(arena, large):
        yield figures
    words = large.name, _LARGE
    yield await arena.contest("100 MB of output", "output", words, [_floor(large)], heavy=True)
    pid = arena.client.pid
    assert pid is not None
    yield [value("memory after 100 MB of output", "ours", resident_mib(pid), "MiB")]
    small.unlink()
    large.unlink()


async def _in_pairs(arena: Arena, path: Path) -> AsyncGenerator[list[Figure], None]:
    """Beside two floors: ``cat`` to Python, and the same that keeps as much of it as the tool server does.

    The first few, for which the system has to find new memory, and those that take the place of older ones.
    """
    scale, client = arena.bench.scale, arena.client
    kept = functools.partial(asyncio.to_thread, _through_a_pipe, path, arena.bench.scratch)
    entries: list[Entry | tuple[str, Act]] = [
        _floor(path),
        floor("cat to Python, 64 MiB of it kept", kept),
        ("ours, WebSocket", functools.partial(client.output, path.name, _LARGE)),
    ]
    yield await compare("first 100 MB of output", entries, _FIRST_ROUNDS, scale.seconds)
    for _ in range(_ROUNDS_TO_FULL):
        await client.output(path.name, _LARGE)
    url = arena.http.url.replace("http", "ws", 1) + "/v1/ws"
    protocols = [Subprotocol(SUBPROTOCOL_JSON)]
    async with connect(url, subprotocols=protocols, compression=None, proxy=None, max_size=None) as socket:
        ids = itertools.count()
        entries += [
            ("ours, as text", functools.partial(client.text_output, path.name, _LARGE)),
            ("ours, JSON", lambda: _by_json(socket, str(next(ids)), path)),
        ]
        yield await compare("100 MB of output, in pairs", entries, scale.runs, 2 * scale.seconds)


async def _file(arena: Arena, size: int) -> Path:
    path = arena.root / f"output-{size}.txt"
    await asyncio.to_thread(path.write_bytes, (b"0123456789abcde\n" * (size // 16 + 1))[:size])
    return path


def _floor(path: Path) -> Entry:
    return floor("cat to Python", functools.partial(asyncio.to_thread, _through_a_pipe, path))


async def _by_json(socket: ClientConnection, id: str, path: Path) -> None:
    """As a client without MessagePack would: each frame taken apart, its text there to be used."""
    params = {"argv": [found_program("cat"), str(path)], "whenSlow": "wait", "maxOutputBytes": 0}
    await socket.send(json.dumps({"id": id, "op": "command", "params": params}))
    received = 0
    async for message in socket:
        frame = json.loads(message)
        if "event" not in frame:
            break
        received += len(frame["event"].get("data", ""))
    expect(received == _LARGE, f"{received} bytes of {_LARGE}")


async def _piped_byte() -> Taken:
    def first() -> float:
        with subprocess.Popen([sys.executable, "-S", "-c", TELL_THE_TIME], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = os.read(process.stdout.fileno(), 65536)
            return (time.monotonic_ns() - int(line.split()[0])) / 1e6

    return Taken(await asyncio.to_thread(first))


def _through_a_pipe(path: Path, keep_in: Path | None = None) -> None:
    with (
        tempfile.TemporaryFile(dir=keep_in) as kept,
        subprocess.Popen([found_program("cat"), path], stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        offset = 0
        while data := os.read(process.stdout.fileno(), 65536):
            if keep_in is not None:
                os.pwrite(kept.fileno(), data, offset % _KEPT_BYTES)
                offset += len(data)
