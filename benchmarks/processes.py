"""Commands: what starting one costs, whatever the daemon holds, and what many do to everybody else."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

import aiohttp

from benchmarks.floors import program, spawn
from benchmarks.measure import Act, Figure, compare
from orchestrator.client import Client, open_client

_BALLAST_BYTES = 500_000_000
_HEAVY = f"ballast = bytearray(b'x' * {_BALLAST_BYTES}); from toolserver.__main__ import main; main()"
_IDLE, _BUSY = 500, 64
_LOUD = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done"


async def fresh_processes(client: Client, scratch: Path, runs: int) -> list[Figure]:
    """``true``, by a daemon as it is and by one that holds 500 MB, beside a bare spawn."""
    true = shutil.which("true") or "/bin/true"
    root = scratch / "heavy"
    root.mkdir()
    argv = sys.executable, "-c", _HEAVY, "--port", "0", "--workspace-root", str(root)
    async with program(*argv) as (url, _), open_client(url) as heavy:
        commands: list[tuple[str, Act]] = [
            ("posix_spawn + pidfd", lambda: spawn([true])),
            ("command true", lambda: client.command(argv=[true])),
            ("command true, 500 MB held", lambda: heavy.command(argv=[true])),
        ]
        return await compare("fresh process", commands, runs)


async def under_load(client: Client, url: str, runs: int) -> list[Figure]:
    """/health while nothing runs, then beside 500 idle and 64 busy commands of one socket."""
    async with aiohttp.ClientSession() as web:

        async def healthy() -> None:
            async with web.get(f"{url}/health") as response:
                await response.read()

        quiet = await compare("health", [("nothing runs", healthy)], runs)
        ids = [
            (await client.command(argv=["sleep", "1000"], background=True)).process_id for _ in range(_IDLE)
        ]
        loud = asyncio.gather(*(_busy(client) for _ in range(_BUSY)))
        await asyncio.sleep(1)  # until all of them are at it
        crowded = await compare("health", [("500 idle, 64 busy commands", healthy)], runs)
        loud.cancel()
        await asyncio.gather(loud, return_exceptions=True)
        begun = time.perf_counter()
        await asyncio.gather(*(client.stop(process_id=id) for id in ids))
        took = round((time.perf_counter() - begun) * 1000, 3)
    ratio = round(crowded[0].median_ms / quiet[0].median_ms, 2)
    told = Figure("health", crowded[0].candidate, crowded[0].median_ms, crowded[0].p99_ms, runs, ratio)
    return [*quiet, told, Figure("stop 500 commands at once", "stop", took, took, 1, 1.0)]


async def _busy(client: Client) -> None:
    while True:
        await client.command(command=_LOUD)
