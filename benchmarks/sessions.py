"""How long it takes to create a session, and how many come up in a minute, each with its own tool server.

    python -m benchmarks.sessions [--created 500] [--started 60] [--at-once 4] [--isolation auto]

A created session is a record and a directory; no process is started before its first use. A started one has a
tool server that answers, and so has a forked one (``WORKSPACE_PREFORK``); both by turns. Everything is in a
temporary directory, and ended again.
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
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from orchestrator.backends import Host
from orchestrator.backends.installed import InstalledBackends
from orchestrator.paths import PathManager, UserId
from orchestrator.ports import Wish
from orchestrator.records import Records, SessionRecord
from orchestrator.sessions import PortWishes, Sessions

ANN = UserId("ann")
ROUNDS = 3
"""By turns, for the machine is never the same twice."""


async def created(sessions: Sessions, number: int) -> list[float]:
    """Seconds of each, one after the other."""
    taken = []
    for _ in range(number):
        begun = time.perf_counter()
        await sessions.create(ANN, "bench", "local")
        taken.append(time.perf_counter() - begun)
    return taken


async def started(
    sessions: Sessions, number: int, at_once: int, look: Callable[[list[SessionRecord]], None] | None = None
) -> tuple[float, list[float]]:
    """Seconds for all, and of each, from the asking to a tool server that answers; then all are ended.

    ``look`` is called while all are up.
    """
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
        lasted = time.perf_counter() - begun
        if look is not None:
            look(running)
        return lasted, taken
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
    """A few at once, and all of them: one that cannot be ended is told when the others are."""
    failed: list[BaseException] = []
    for first in range(0, len(running), 8):
        ending = (sessions.end(each, keep_files=False) for each in running[first : first + 8])
        ended = await asyncio.gather(*ending, return_exceptions=True)
        failed += [each for each in ended if isinstance(each, BaseException)]
    if failed:
        raise failed[0]


def cost(record: SessionRecord) -> tuple[float, float]:
    """Of a tool server by now: milliseconds of processor time, MiB with shared pages in parts. Needs root."""
    place = Path("/proc", record.guest.labels["pid"]) if record.guest else Path("/proc/self")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))
    parts = (line.split() for line in (place / "smaps_rollup").read_text().splitlines())
    kib = next(int(words[1]) for words in parts if words[0] == "Pss:")
    return ticks / os.sysconf("SC_CLK_TCK") * 1000, kib / 1024


def _weigh(costs: list[tuple[float, float]], running: list[SessionRecord]) -> None:
    with contextlib.suppress(PermissionError):
        costs += map(cost, running)


def told(name: str, taken: list[float]) -> None:
    """Milliseconds."""
    ordered = sorted(each * 1000 for each in taken)
    p95 = ordered[int(len(ordered) * 0.95)]
    print(f"{name}: {len(ordered)}, p50 {statistics.median(ordered):.2f} ms, p95 {p95:.2f} ms")


@contextlib.asynccontextmanager
async def opened(directory: Path, isolation: str, *, prefork: bool) -> AsyncIterator[Sessions]:
    """An orchestrator of its own; with ``prefork``, one that forks its tool servers."""
    paths = PathManager(directory)
    environ = {**os.environ, "WORKSPACE_ISOLATION": isolation, "WORKSPACE_PREFORK": str(int(prefork))}
    backends = InstalledBackends(Host(paths, environ))
    async with Sessions(paths, Records(paths.db_path("sessions")), backends) as sessions:
        yield sessions


async def main(arguments: argparse.Namespace, directory: Path) -> None:
    """Created ones, then started and forked ones by turns, then bare tool servers."""
    number, at_once = arguments.started // ROUNDS, arguments.at_once
    seconds = {"started": 0.0, "forked": 0.0}
    taken: dict[str, list[float]] = {"started": [], "forked": []}
    costs: dict[str, list[tuple[float, float]]] = {"started": [], "forked": []}
    async with (
        opened(directory / "started", arguments.isolation, prefork=False) as anew,
        opened(directory / "forked", arguments.isolation, prefork=True) as forking,
    ):
        told("created", await created(anew, arguments.created))
        # What forks them is there from then on; it is told by itself.
        first, _ = await started(forking, 1, 1)
        for _ in range(ROUNDS):
            for name, sessions in (("started", anew), ("forked", forking)):
                lasted, of_each = await started(sessions, number, at_once, partial(_weigh, costs[name]))
                seconds[name] += lasted
                taken[name] += of_each
    floor = await bare(directory, number * ROUNDS, at_once)
    for name, for_all in seconds.items():
        told(name, taken[name])
        rate, beside = len(taken[name]) / for_all * 60, for_all / floor
        print(
            f"{rate:.0f} {name} a minute, {at_once} at once; {beside:.2f} times what bare tool servers take"
        )
    for name, each in costs.items():
        if each:
            processor, memory = (statistics.median(column) for column in zip(*each, strict=True))
            print(f"{name}: {processor:.0f} ms of processor time and {memory:.1f} MiB each")
    print(f"the first that was forked, with the process that forks them: {first * 1000:.0f} ms")
    print(f"{number * ROUNDS / floor * 60:.0f} bare tool servers a minute")


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
