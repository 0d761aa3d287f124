"""Archives in and out: a small tree, a large one, one large file; beside GNU tar on the same file system."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from benchmarks.arena import Bench
from benchmarks.floors import run
from benchmarks.measure import Act, Entry, Figure, Kind, Taken, compare
from benchmarks.peers.ours import ours
from orchestrator.client import Client
from protocol.messages.archives import ArchiveFormat

_SMALL_FILES = 50
_CHUNK_BYTES = 1024 * 1024
_WARMED = 10
"""Rounds of a case that is worth one unmeasured turn; the large trees take seconds each."""


async def tarballs(bench: Bench) -> AsyncGenerator[list[Figure], None]:
    """Each content on its own, so that no more than one is on the disk."""
    scale = bench.scale
    contents = (
        (f"{_SMALL_FILES} files", functools.partial(sources, count=_SMALL_FILES), scale.runs // 4),
        (f"{scale.tree_files} files", functools.partial(sources, count=scale.tree_files), scale.heavy_runs),
        (f"one file of {scale.large_bytes // 10**6} MB", functools.partial(_one, size=scale.large_bytes), 3),
    )
    for what, make, runs in contents:
        place = bench.scratch / "tarballs"
        source = place / "source"
        source.mkdir(parents=True)
        await asyncio.to_thread(make, source)
        async with ours(place / "app") as (client, _):
            for each in (
                (await _in(what, client.client, place, runs, scale.seconds * 3)),
                (await _out(what, client.client, place, runs, scale.seconds * 3)),
            ):
                yield each
        await asyncio.to_thread(shutil.rmtree, place)


async def _in(what: str, client: Client, place: Path, runs: int, seconds: float) -> list[Figure]:
    packed, target = place / "in.tar.gz", place / "unpacked"
    await run("tar", "-czf", str(packed), "-C", str(place / "source"), ".")

    async def tar() -> Taken:
        # What was there before is not tar's to remove; ours is timed with it.
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        target.mkdir()
        begun = time.perf_counter()
        await run("tar", "-xzf", str(packed), "-C", str(target))
        return Taken((time.perf_counter() - begun) * 1000)

    async def ours_in() -> None:
        await client.put_archive(_chunks(packed))

    return await compare(
        f"archive in, {what}", [("tar xzf", tar), ("ours", ours_in)], runs, seconds, warm=runs > _WARMED
    )


async def _out(what: str, client: Client, place: Path, runs: int, seconds: float) -> list[Figure]:
    source = str(place / "source")

    async def received(format: ArchiveFormat) -> None:
        async for _ in client.get_archive(format):
            pass

    gzip: list[Entry | tuple[str, Act]] = [
        ("tar czf", functools.partial(run, "tar", "-czf", str(place / "out"), "-C", source, ".")),
        Entry("ours, gzip", functools.partial(received, ArchiveFormat.GZIP)),
        Entry("ours, zstd", functools.partial(received, ArchiveFormat.ZSTD)),
    ]
    if shutil.which("zstd"):
        zstd = functools.partial(
            run, "tar", "-I", "zstd -1", "-cf", str(place / "out.zst"), "-C", source, "."
        )
        gzip.insert(1, Entry("tar -I 'zstd -1'", zstd, Kind.FLOOR))
    return await compare(f"archive out, {what}", gzip, runs, seconds, warm=runs > _WARMED)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


def sources(top: Path, count: int) -> None:
    """Texts as installed packages have them: 6 KB on average, most far smaller, packed to a third.

    Of a few repeated lines the floor would have nothing to compress, and of random bytes nothing to gain.
    """
    chance = random.Random(7)
    words = [f"{chance.getrandbits(24):x}" for _ in range(4000)]
    # The head of a vocabulary is said most, as in any language. One text, of which each file is a piece.
    text = " ".join(words[int(4000 * chance.random() ** 3)] for _ in range(200_000)).encode()
    for number in range(count):
        path = top / f"{number // 1000}" / f"{number // 40}" / f"file-{number}.ts"
        if not number % 40:
            path.parent.mkdir(parents=True, exist_ok=True)
        size = min(int(7 * chance.lognormvariate(6.1, 1.2)), 280_000)
        begin = chance.randrange(len(text) - size)
        path.write_bytes(text[begin : begin + size])


def _one(top: Path, size: int) -> None:
    # Half of it random: neither all zeros, nor a film.
    block = os.urandom(512 * 1024) + bytes(512 * 1024)
    with (top / "large.bin").open("wb") as file:
        for written in range(0, size, len(block)):
            file.write(block[: size - written])
