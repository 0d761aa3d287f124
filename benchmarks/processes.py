"""Commands: what starting one costs, in a kept shell too, and what its output takes to one reader."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.arena import Arena, floor
from benchmarks.floors import kept_bash, program, spawn, spawner
from benchmarks.measure import Act, Entry, Figure, Taken, compare, value
from benchmarks.memory import resident_mib
from benchmarks.peers.ours import TELL_THE_TIME
from benchmarks.peers.piped import Pipe, piped
from benchmarks.peers.tools import SAY_MARK, found_program
from orchestrator.client import open_client

_BALLAST_BYTES = 500_000_000
_HEAVY = f"ballast = bytearray(b'x' * {_BALLAST_BYTES}); from toolserver.__main__ import main; main()"
OUTPUTS = ((1_000_000, "1 MB"), (100_000_000, "100 MB"))


async def commands(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """``true`` to its exit status beside three ways to spawn, and ``echo`` in a shell that is kept."""
    true = found_program("true")
    async with AsyncExitStack() as stack:
        pipes = {
            loop: await stack.enter_async_context(piped(spawner(loop, true), arena.root))
            for loop in ("asyncio", "uvloop")
        }
        floors = [floor("posix_spawn + pidfd", lambda: spawn([true]))]
        for loop, pipe in pipes.items():
            await pipe.ready()
            floors.append(floor(f"{loop}'s subprocess", functools.partial(_spawned, pipe)))
        yield await arena.contest("command true", "true", (), floors)
    yield await _held(arena, true)
    async with kept_bash() as bash:
        kept = floor("bash on a pipe", functools.partial(bash, SAY_MARK))
        yield await arena.contest("kept shell", "shell", (), [kept])


async def _held(arena: Arena, true: str) -> list[Figure]:
    """A daemon that holds 500 MB: starting a program must not cost it more."""
    root = arena.bench.scratch / "heavy"
    root.mkdir()
    argv = sys.executable, "-c", _HEAVY, "--port", "0", "--workspace-root", str(root)
    async with program(*argv) as (url, _), open_client(url) as heavy:
        entries: list[Entry | tuple[str, Act]] = [
            ("posix_spawn + pidfd", lambda: spawn([true])),
            ("ours, WebSocket", arena.client.true),
            ("ours, 500 MB held", lambda: heavy.command(argv=[true])),
        ]
        scale = arena.bench.scale
        return await compare("command true, in pairs", entries, scale.runs, scale.seconds)


async def outputs(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """The first byte of a stream, then 1 MB and 100 MB to their last."""
    yield await arena.contest("first byte of a stream", "first_byte", (), [floor("a pipe", _piped_byte)])
    for size, name in OUTPUTS:
        path = arena.root / f"output-{size}.txt"
        await asyncio.to_thread(path.write_bytes, (b"0123456789abcde\n" * (size // 16 + 1))[:size])
        through = floor("cat to Python", functools.partial(asyncio.to_thread, _through_a_pipe, path))
        heavy = size > OUTPUTS[0][0]
        yield await arena.contest(f"{name} of output", "output", (path.name, size), [through], heavy=heavy)
        path.unlink()
    pid = arena.client.pid
    assert pid is not None
    yield [value("memory after 100 MB of output", "ours", resident_mib(pid), "MiB")]


async def _spawned(pipe: Pipe) -> Taken:
    return Taken((await pipe.ask({}))["taken"])


async def _piped_byte() -> Taken:
    def first() -> float:
        with subprocess.Popen([sys.executable, "-S", "-c", TELL_THE_TIME], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = os.read(process.stdout.fileno(), 65536)
            return (time.monotonic_ns() - int(line.split()[0])) / 1e6

    return Taken(await asyncio.to_thread(first))


def _through_a_pipe(path: Path) -> None:
    with subprocess.Popen([found_program("cat"), path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), 65536):
            pass
