"""``python -m benchmarks.checkpoints [RUNS]``: the past of a tree of 10 000 files of which ten are dirty.

The floor is git, which has the same to do: ``git add`` of the same ten files and ``git commit``.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.arena import Bench
from benchmarks.floors import program, run
from benchmarks.measure import Act, Figure, compare, figure
from benchmarks.searches import plant
from orchestrator.client import Client, open_client

_FILES = 10_000
_DIRTY = 10


async def past(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """As a group of the whole run."""
    yield await checkpoints(bench.scratch, bench.scale.heavy_runs)


async def checkpoints(scratch: Path, runs: int) -> list[Figure]:
    """A first checkpoint, those that follow, an edit's own, and the way back."""
    ours, theirs = scratch / "checkpoints", scratch / "git"
    for root in (ours, theirs):
        await asyncio.to_thread(plant, root, _FILES)
    argv = sys.executable, "-m", "toolserver", "--port", "0", "--workspace-root", str(ours)
    async with program(*argv) as (url, _), open_client(url) as client:
        await _committed(theirs, "init", "-q")
        git, first = await _timed(lambda: _commit(theirs)), await _timed(client.checkpoint)
        case = f"first checkpoint, {_FILES} files"
        begun = [figure(case, "git add and commit", [git], git), figure(case, "checkpoint", [first], git)]
        # What was written within a clock's tick is read again: a tree at rest is the common case.
        await asyncio.sleep(3)
        await client.checkpoint()
        return [*begun, *await _dirty(client, ours, theirs, runs), *await _undone(client, runs)]


async def _dirty(client: Client, ours: Path, theirs: Path, runs: int) -> list[Figure]:
    number = itertools.count()
    times: dict[str, list[float]] = {"git add and commit": [], "checkpoint": [], "rollback": []}
    for _ in range(runs):
        text = f"export const changed = {next(number)};\n"
        for root in (ours, theirs):
            for each in range(_DIRTY):
                (root / f"0/{each}/file-{each * 100}.ts").write_text(text)
        for name, act in (("git add and commit", lambda: _commit(theirs)), ("checkpoint", client.checkpoint)):
            times[name].append(await _timed(act))
        before = (await client.checkpoints(automatic=False, limit=2)).checkpoints[-1].id
        times["rollback"].append(await _timed(functools.partial(client.rollback, to=before)))
    floor = sorted(times["git add and commit"])[runs // 2]
    case = f"{_DIRTY} dirty of {_FILES} files"
    return [figure(case, name, found, floor) for name, found in times.items()]


async def _undone(client: Client, runs: int) -> list[Figure]:
    number = itertools.count()

    async def write_and_undo() -> None:
        await client.write(path="0/0/file-0.ts", content=f"export const x = {next(number)};\n")
        await client.undo()

    candidates: list[tuple[str, Act]] = [
        ("write", lambda: client.write(path="0/0/file-1.ts", content=f"{next(number)}\n")),
        ("write, then undo", write_and_undo),
    ]
    return await compare(f"undo among {_FILES} files", candidates, runs)


async def _timed(act: Act) -> float:
    begun = time.perf_counter()
    await act()
    return (time.perf_counter() - begun) * 1000


async def _commit(root: Path) -> None:
    await _committed(root, "add", "-A")
    await _committed(root, "commit", "-q", "-m", "x", "--allow-empty")


async def _committed(root: Path, *argv: str) -> None:
    await run("git", "-c", "user.name=x", "-c", "user.email=x@localhost", *argv, cwd=root)


async def main(runs: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        for each in await checkpoints(Path(scratch), runs):
            print(each.row())


if __name__ == "__main__":
    subprocess.run(["git", "--version"], check=True, stdout=subprocess.DEVNULL)
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
