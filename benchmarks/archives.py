"""``python -m benchmarks.archives [--scratch DIR]``: archives at full size, and deltas beside whole saves.

Without the other groups, on the file system of DIR: the ratios depend on it. In a delta's cases ten files of
a tree differ; its floor is the whole save of the same tree, and that put in whole.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.arena import Bench
from benchmarks.machine import machine
from benchmarks.measure import Figure, compare
from benchmarks.peers.all import gather
from benchmarks.peers.ours import ours
from benchmarks.report import HEAD
from benchmarks.scale import FULL
from benchmarks.tarballs import sources, tarballs
from orchestrator.toolchain import find_toolchain
from protocol.messages.archives import ArchiveFormat, InjectMode

_DIRTY = 10
_SETTLED_SECONDS = 2.5
"""What changed in the last two seconds is read again: a clock's tick is longer than a write."""


async def deltas(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """As a group of the whole run."""
    count, place = bench.scale.tree_files, bench.scratch / "deltas"
    root = place / "app"
    root.mkdir(parents=True)
    await asyncio.to_thread(sources, root, count)
    await asyncio.sleep(_SETTLED_SECONDS)
    numbers = itertools.count()
    async with ours(root) as (tools, _):
        client = tools.client

        async def taken(since: str | None = None) -> bytes:
            chunks = client.get_archive(ArchiveFormat.GZIP, since=since)
            return b"".join([chunk async for chunk in chunks])

        whole = await taken()
        since = (await client.get_manifest())[0].digest

        async def changed() -> bytes:
            number = next(numbers)
            for dirty in range(_DIRTY):
                await client.write(path=f"dirty/{dirty}", content=f"{number}")
            return await taken(since)

        yield await compare(
            f"save of {count} files, {_DIRTY} of them changed",
            [("whole", taken), ("a delta, with the changes", changed)],
            bench.scale.heavy_runs,
            bench.scale.seconds * 3,
        )
        delta = await changed()

        async def back() -> None:
            await client.put_archive(whole)

        async def back_and_delta() -> None:
            await client.put_archive(whole)
            await client.put_archive(delta, InjectMode.DELTA)

        yield await compare(
            f"{count} files in, and a delta of {_DIRTY} onto them",
            [("whole", back), ("whole, then the delta", back_and_delta)],
            bench.scale.heavy_runs,
            bench.scale.seconds * 3,
        )
    await asyncio.to_thread(shutil.rmtree, place)


async def _main(scratch: Path | None) -> int:
    tools = find_toolchain(os.environ)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as name:
        print(machine(Path(name), str(tools.rg), str(tools.node)))
        bench = Bench(Path(name), str(tools.rg), FULL, await gather(False))
        print(HEAD, flush=True)
        for group in (tarballs, deltas):
            async for figures in group(bench):
                print("\n".join(each.row() for each in figures), flush=True)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, help="where the files of the run are")
    sys.exit(asyncio.run(_main(parser.parse_args().scratch)))
