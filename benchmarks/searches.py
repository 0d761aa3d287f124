"""A word, and names, in trees of 100, 1000 and 50 000 files; what a change costs until it is told."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.arena import Arena, floor
from benchmarks.floors import run
from benchmarks.measure import Entry, Figure, Taken, compare
from orchestrator.client import Client
from protocol.messages.search import PatternKind, Where
from protocol.messages.watch import Changes, Watching
from toolserver.system.inotify import Inotify


async def searches(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """Each tree is planted once, and everybody looks through the same one."""
    rg, client, scale = arena.bench.rg, arena.client.client, arena.bench.scale
    for count in scale.files:
        top = f"tree-{count}"
        await asyncio.to_thread(plant, arena.root / top, count)
        cwd = arena.root / top
        word = functools.partial(run, rg, "--no-config", "--json", "needle", cwd=cwd)
        yield await arena.contest(
            f"a word in {count} files", "search", (top, "needle", count // 100), [floor("ripgrep", word)]
        )
        listed = functools.partial(run, rg, "--no-config", "--files", cwd=cwd)
        names = [floor("ripgrep --files", listed)]
        yield await arena.contest(f"names of {count} files", "names", (top, "file-99", 1), names)
        yield await compare(
            f"names of {count} files, other patterns",
            [
                *names,
                Entry("fuzzy", functools.partial(_names, client, top, PatternKind.FUZZY, "fil99")),
                Entry("regex", functools.partial(_names, client, top, PatternKind.REGEX, r"9\d9\.ts$")),
            ],
            scale.runs,
            scale.seconds / 2,
        )


async def watched(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """From a write on the disk to the news of it, beside the kernel's own notice in this process."""
    directory = arena.root / "watched"
    directory.mkdir()
    ours, bare = directory / "ours.txt", arena.bench.scratch / "noticed"
    bare.mkdir()
    scale = arena.bench.scale
    async with arena.client.client.watch.stream(paths=["watched"], debounce_ms=0) as events:
        async for event in events:
            if isinstance(event, Watching):
                break

        async def told() -> Taken:
            begun = _touch(ours)
            async for event in events:
                if isinstance(event, Changes):
                    return Taken((time.perf_counter() - begun) * 1000)
            raise AssertionError("the watch has ended")

        async def noticed() -> Taken:
            return await _noticed(bare)

        yield await compare(
            "write to watch event", [("inotify", noticed), ("ours, watch", told)], scale.runs, scale.seconds
        )


_numbers = itertools.count()


def _touch(path: Path) -> float:
    begun = time.perf_counter()
    path.with_suffix(".new").write_text(f"{next(_numbers)}\n")
    path.with_suffix(".new").rename(path)
    return begun


async def _noticed(directory: Path) -> Taken:
    notices, loop, told = Inotify(), asyncio.get_running_loop(), asyncio.Event()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        notices.add(fd)
        loop.add_reader(notices.fd, told.set)
        begun = _touch(directory / "file.txt")
        await told.wait()
        return Taken((time.perf_counter() - begun) * 1000)
    finally:
        loop.remove_reader(notices.fd)
        notices.close()
        os.close(fd)


def plant(top: Path, count: int) -> None:
    """Small sources, a hundred to a directory; one in a hundred holds the word."""
    for number in range(count):
        path = top / f"{number // 1000}" / f"{number // 100}" / f"file-{number}.ts"
        if not number % 100:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"export const value{number} = {number};\n" * 10 + ("needle\n" if not number % 100 else "")
        )


async def _names(client: Client, top: str, kind: PatternKind, pattern: str) -> object:
    return await client.search(in_=Where.NAMES, kind=kind, pattern=pattern, path=top)
