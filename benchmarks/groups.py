"""All groups of cases, each with a bound on its time. What could not be measured says why."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from benchmarks.archives import deltas
from benchmarks.arena import Arena, Bench, arena
from benchmarks.checkpoints import past
from benchmarks.crowds import crowds
from benchmarks.growth import growth
from benchmarks.measure import UNTIL, Figure, missing
from benchmarks.memory import memory
from benchmarks.outputs import outputs
from benchmarks.processes import commands
from benchmarks.readiness import readiness
from benchmarks.requests import files, large_files, small
from benchmarks.searches import searches, watched
from benchmarks.starts import rates, starts
from benchmarks.tarballs import tarballs
from benchmarks.tokens import tokens

_LAST_SECONDS = 1.5
"""Of a group's time, for a case to end by itself."""
Cases = AsyncGenerator[list[Figure], None]


@dataclass(frozen=True)
class Group:
    """``quick`` and ``full``: seconds after which it is cut short, 0 to leave it out."""

    name: str
    quick: float
    full: float


IN_ARENA: dict[Group, Callable[[Arena], Cases]] = {
    Group("memory", 12, 20): memory,
    Group("requests", 12, 30): small,
    Group("commands", 18, 40): commands,
    Group("output", 24, 60): outputs,
    Group("files", 24, 60): files,
    Group("large files", 16, 40): large_files,
    Group("search", 30, 70): searches,
    Group("watch", 6, 15): watched,
    Group("crowds", 20, 75): crowds,
}
"""Run while all contenders are up, and take turns."""
ALONE: dict[Group, Callable[[Bench], Cases]] = {
    Group("tokens", 0, 10): tokens,
    Group("starts", 40, 60): starts,
    Group("sessions", 20, 60): rates,
    Group("archives", 36, 170): tarballs,
    Group("deltas", 0, 180): deltas,
    Group("checkpoints", 0, 30): past,
    Group("growth", 0, 70): growth,
    Group("templates", 40, 480): readiness,
}
"""Run with nobody else up."""


@dataclass
class Done:
    """A group, as it went."""

    name: str
    figures: list[Figure]
    seconds: float


async def all_groups(
    bench: Bench, full: bool, only: frozenset[str], patience: float = 1.0
) -> AsyncIterator[Done]:
    """One after the other; ``only`` by name, all when empty. ``patience`` times the bounds of all."""

    def wanted(group: Group) -> bool:
        return bool(group.full if full else group.quick) and (not only or group.name in only)

    inside = [each for each in IN_ARENA if wanted(each)]
    if inside:
        async with contextlib.AsyncExitStack() as stack:
            try:
                everybody = await stack.enter_async_context(arena(bench))
            except Exception as error:  # without the daemon there is nothing to measure in here
                for group in inside:
                    yield Done(group.name, [missing(group.name, "all", error)], 0.0)
            else:
                for group in inside:
                    yield await _bounded(group, IN_ARENA[group](everybody), full, patience)
    for lone, make in ALONE.items():
        if wanted(lone):
            yield await _bounded(lone, make(bench), full, patience)


async def _bounded(group: Group, cases: Cases, full: bool, patience: float) -> Done:
    bound, begun = patience * (group.full if full else group.quick), time.monotonic()
    figures: list[Figure] = []
    UNTIL.set(begun + bound - min(_LAST_SECONDS, bound / 4))
    try:
        async with asyncio.timeout(bound), contextlib.aclosing(cases) as each:
            async for found in each:
                figures += found
    except TimeoutError:
        figures.append(missing(group.name, "the rest", f"its {bound:g} s were over"))
    except Exception as error:  # one group's failure is a line in the report
        figures.append(missing(group.name, "the rest", error))
    return Done(group.name, figures, time.monotonic() - begun)
