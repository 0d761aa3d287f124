"""Archives in and out: a small tree, a large one, one large file; beside GNU tar on the same file system.

Both leave what they make there, unsynced. Neither begins before the disk has what was written earlier and the
tool server has removed the tree before: a large case is not to pay for the one before it. Before each turn
in, as much memory as it takes is used and let go of: the host of a virtual machine takes back what lies idle
for some seconds, and to get it again takes longer than to write into it. 500 MB took 0.2 s right after as
much had been freed, and 0.9 s after ten seconds; tar, whose tree goes right before its turn, would always
have the first.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.arena import Bench
from benchmarks.floors import run
from benchmarks.measure import Act, Entry, Figure, Kind, Taken, compare
from benchmarks.peers.ours import ByHttp, ours
from benchmarks.transfers import receive, send
from protocol import routes
from protocol.messages.archives import ArchiveFormat

_SMALL_FILES = 50
_WARMED = 10
"""Rounds of a case that is worth one unmeasured turn; the large trees take seconds each."""
_LOOK_SECONDS = 0.1
_QUIET_SECONDS = 10.0
"""At most, for the tool server to come to rest."""


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
        async with ours(place / "app") as (_, http):
            yield await _in(what, http, place, runs, scale.seconds * 3)
            yield await _out(what, http, place, runs, scale.seconds * 3)
        await asyncio.to_thread(shutil.rmtree, place)


async def _in(what: str, http: ByHttp, place: Path, runs: int, seconds: float) -> list[Figure]:
    packed, target = place / "in.tar.gz", place / "unpacked"
    await run("tar", "-czf", str(packed), "-C", str(place / "source"), ".", check=True)
    is_small = runs > _WARMED
    size = 0 if is_small else sum(each.stat().st_size for each in (place / "source").rglob("*"))

    async def warmed() -> None:
        await asyncio.to_thread(_used_once, place / "idle", size)

    async def made_anew() -> None:
        # What was there before is not tar's to remove; the tool server puts the new tree in its place.
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        target.mkdir()
        await warmed()

    tar = functools.partial(run, "tar", "-xzf", str(packed), "-C", str(target), check=True)
    ours_in = functools.partial(send, http.url + routes.ARCHIVE, packed)
    entries = [
        ("tar xzf", _apart(tar, http, is_small, made_anew)),
        ("ours", _apart(ours_in, http, is_small, warmed)),
    ]
    return await compare(f"archive in, {what}", entries, runs, seconds, warm=is_small)


async def _out(what: str, http: ByHttp, place: Path, runs: int, seconds: float) -> list[Figure]:
    is_small = runs > _WARMED

    def tar(*how: str) -> Act:
        act = functools.partial(run, "tar", *how, str(place / "out"), "-C", str(place / "source"), ".")
        return _apart(functools.partial(act, check=True), http, is_small)

    def received(format: ArchiveFormat) -> Act:
        url = f"{http.url}{routes.ARCHIVE}?format={format.value}"
        return _apart(functools.partial(receive, url, place / "out"), http, is_small)

    entries = [
        Entry("tar czf", tar("-czf"), Kind.FLOOR),
        Entry("ours, gzip", received(ArchiveFormat.GZIP)),
        Entry("ours, zstd", received(ArchiveFormat.ZSTD)),
    ]
    if shutil.which("zstd"):
        entries.insert(1, Entry("tar -I 'zstd -1'", tar("-I", "zstd -1", "-cf"), Kind.FLOOR))
    return await compare(f"archive out, {what}", entries, runs, seconds, warm=is_small)


def _used_once(path: Path, size: int) -> None:
    """Have the page cache hold ``size`` bytes more, and let go of them."""
    piece = bytes(64 * 1024)
    with path.open("wb", buffering=0) as file:
        for _ in range(0, size, len(piece)):
            file.write(piece)
    path.unlink()


async def _nothing() -> None:
    pass


def _apart(act: Act, http: ByHttp, is_small: bool, before: Act = _nothing) -> Act:
    """``act`` on its own: ``before`` it, and until what came earlier is over, the clock stands still."""

    async def alone() -> Taken:
        await before()
        if not is_small:  # thousands of those fit between two looks
            await asyncio.to_thread(os.sync)
            assert http.pid is not None
            await _at_rest(http.pid)
        begun = time.perf_counter()
        await act()
        return Taken((time.perf_counter() - begun) * 1000)

    return alone


async def _at_rest(pid: int) -> None:
    """Until a program takes no processor time any more."""
    ends = time.monotonic() + _QUIET_SECONDS
    taken, before = _ticks(pid), -1
    while taken != before and time.monotonic() < ends:
        await asyncio.sleep(_LOOK_SECONDS)
        taken, before = _ticks(pid), taken


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


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
