"""Commands: what starting one costs, in a kept shell too."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from benchmarks.arena import Arena, floor
from benchmarks.floors import kept_bash, program, spawn, spawner
from benchmarks.machine import placed
from benchmarks.measure import Act, Entry, Figure, Taken, compare
from benchmarks.peers.piped import Pipe, piped
from benchmarks.peers.tools import SAY_MARK, found_program
from orchestrator.client import open_client

_BALLAST_BYTES = 500_000_000
_HEAVY = f"ballast = bytearray(b'x' * {_BALLAST_BYTES}); from toolserver.__main__ import main; main()"


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
    yield await _on_one_core(arena, true)
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


async def _on_one_core(arena: Arena, true: str) -> list[Figure]:
    """As the floor has it, whose client is the one that starts programs: no other core has to wake up."""
    scale, server, core = arena.bench.scale, arena.http.pid, min(os.sched_getaffinity(0))
    assert server is not None
    entries = [("posix_spawn + pidfd", lambda: spawn([true])), ("ours, WebSocket", arena.client.true)]
    with placed({os.getpid(): core, server: core}):
        return await compare("command true, on one core", entries, scale.runs, scale.seconds)


async def _spawned(pipe: Pipe) -> Taken:
    return Taken((await pipe.ask({}))["taken"])
