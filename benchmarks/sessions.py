"""How long it takes to create a session, and how many come up in a minute, each with its own tool server.

    python -m benchmarks.sessions [--created 500] [--started 60] [--at-once 4] [--isolation auto]

A created session is a record and a directory; no process is started before its first use. A started one has a
tool server that answers. Everything is in a temporary directory, and ended again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.backends import Host
from orchestrator.backends.installed import InstalledBackends
from orchestrator.paths import PathManager, UserId
from orchestrator.ports import Wish
from orchestrator.records import Records, SessionRecord
from orchestrator.sessions import PortWishes, Sessions

ANN = UserId("ann")


async def created(sessions: Sessions, number: int) -> list[float]:
    """Seconds of each, one after the other."""
    taken = []
    for _ in range(number):
        begun = time.perf_counter()
        await sessions.create(ANN, "bench", "local")
        taken.append(time.perf_counter() - begun)
    return taken


async def started(sessions: Sessions, number: int, at_once: int) -> tuple[float, list[float]]:
    """Seconds for all, and of each, from the asking to a tool server that answers; then all are ended."""
    turns, taken, running = asyncio.Semaphore(at_once), [], []

    async def one(index: int) -> None:
        async with turns:
            begun = time.perf_counter()
            wishes = PortWishes(tool=Wish(0), dev=Wish(20000 + index))
            record = await sessions.begin(ANN, "bench", wishes, "local")
            running.append(record)
            await sessions.ready(record)
            taken.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for index in range(number):
                group.create_task(one(index))
        return time.perf_counter() - begun, taken
    finally:
        await end(sessions, running)


async def bare(directory: Path, number: int, at_once: int) -> float:
    """The floor: seconds for as many tool servers and nothing around them, started and ended by hand."""
    turns = asyncio.Semaphore(at_once)
    running: list[asyncio.subprocess.Process] = []

    async def one(index: int) -> None:
        async with turns:
            environ = {
                **os.environ,
                "WORKSPACE_ROOT": str(directory / f"bare{index}"),
                "TOOL_SERVER_PORT": "0",
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "toolserver"),
                env={**environ, "TOOL_SERVER_TOKEN": "t" * 32, "DEV_SERVER_PORT": str(20000 + index)},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            running.append(process)
            assert process.stdout is not None
            assert b"listening" in await process.stdout.readline()

    begun = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for index in range(number):
                group.create_task(one(index))
        return time.perf_counter() - begun
    finally:
        for each in running:
            with contextlib.suppress(ProcessLookupError):
                each.kill()
            await each.wait()


async def end(sessions: Sessions, running: list[SessionRecord]) -> None:
    """A few at once."""
    for first in range(0, len(running), 8):
        await asyncio.gather(*(sessions.end(each, keep_files=False) for each in running[first : first + 8]))


def told(name: str, taken: list[float]) -> None:
    """Milliseconds."""
    ordered = sorted(each * 1000 for each in taken)
    p95 = ordered[int(len(ordered) * 0.95)]
    print(f"{name}: {len(ordered)}, p50 {statistics.median(ordered):.2f} ms, p95 {p95:.2f} ms")


async def main(arguments: argparse.Namespace, directory: Path) -> None:
    """Both, one after the other."""
    paths = PathManager(directory)
    prefork = "1" if arguments.prefork else "0"
    environ = {**os.environ, "WORKSPACE_ISOLATION": arguments.isolation, "WORKSPACE_PREFORK": prefork}
    backends = InstalledBackends(Host(paths, environ))
    async with Sessions(paths, Records(paths.db_path("sessions")), backends) as sessions:
        told("created", await created(sessions, arguments.created))
        seconds, taken = await started(sessions, arguments.started, arguments.at_once)
        told("started", taken)
        floor = await bare(directory, arguments.started, arguments.at_once)
        print(
            f"{len(taken) / seconds * 60:.0f} sessions a minute, {arguments.at_once} at once; "
            f"{seconds / floor:.2f} times what as many bare tool servers take, "
            f"of which {len(taken) / floor * 60:.0f} a minute start"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--created", type=int, default=500)
    parser.add_argument("--started", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument(
        "--prefork", action="store_true", help="fork the tool servers from one that is loaded"
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        asyncio.run(main(parser.parse_args(), Path(place)))
