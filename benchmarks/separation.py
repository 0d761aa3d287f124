"""What it adds to a command that it is kept from its tool server: ``python -m benchmarks.separation [RUNS]``.

``true`` by two daemons, with and without, beside a bare spawn, by turns. Outside of TMPDIR, where nothing of
the daemon's can be hidden from commands.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from benchmarks.floors import program, spawn
from benchmarks.measure import Act
from orchestrator.client import Client, open_client

_WISHES = ("none", "auto")


async def main(runs: int) -> None:
    """Print a line for each: milliseconds."""
    true = shutil.which("true") or "/bin/true"
    with tempfile.TemporaryDirectory(prefix="separation-") as name:
        async with AsyncExitStack() as stack:
            acts: dict[str, Act] = {"posix_spawn + pidfd": lambda: spawn([true])}
            for wish in _WISHES:
                client = await _daemon(stack, Path(name, wish), wish)
                tier = (await client.separation()).tier
                acts[f"command true, separation {wish} ({tier})"] = partial(client.command, argv=[true])
            taken: dict[str, list[float]] = {each: [] for each in acts}
            for _ in range(runs):
                for each, act in acts.items():
                    began = time.perf_counter()
                    await act()
                    taken[each].append((time.perf_counter() - began) * 1000)
    for each, times in taken.items():
        print(f"{each:38} median {statistics.median(times):6.3f} ms, least {min(times):6.3f} ms")


async def _daemon(stack: AsyncExitStack, directory: Path, wish: str) -> Client:
    for each in ("home", "tmp", "root"):
        (directory / each).mkdir(parents=True)
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
        "TOOL_SERVER_SEPARATION": wish,
    }
    argv = sys.executable, "-m", "toolserver", "--port", "0", "--workspace-root", str(directory / "root")
    url, _ = await stack.enter_async_context(program(*argv, env=env))
    return await stack.enter_async_context(open_client(url))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
