"""One edit of a file of 1 KiB, beside what the disk alone takes for it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from benchmarks.measure import Figure, compare
from orchestrator.client import Client

_KIB = 1024


async def edits(client: Client, root: Path, runs: int) -> list[Figure]:
    """A word replaced over the WebSocket; the floor is a file written, synced and renamed in this process.

    What ``edit`` takes beside the sync is the difference of the two medians.
    """
    file, by_hand = root / "edited.txt", root / "by-hand.txt"
    file.write_text("word 0\n" + "x" * _KIB, encoding="utf-8")
    content = file.read_bytes()
    numbers = itertools.count()

    async def floor() -> None:
        temporary = by_hand.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(by_hand)

    async def ours(*, dry_run: bool = False) -> None:
        number = next(numbers) if not dry_run else _current(file)
        old, new = f"word {number}\n", f"word {number + 1}\n"
        await client.edit(path="edited.txt", old_text=old, new_text=new, dry_run=dry_run)

    async def planned() -> None:
        await ours(dry_run=True)

    candidates = [("write, fsync, rename", floor), ("edit", ours), ("edit, dryRun (no fsync)", planned)]
    return await compare("edit 1 KiB, WebSocket", candidates, runs)


def _current(file: Path) -> int:
    return int(file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("word "))
