"""Files that are there whole or not at all, also after a power cut. Everything here blocks."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PART = ".part"
"""How the name of a file ends that is being written."""


def write_private(target: Path, data: bytes) -> None:
    """Write ``target`` anew, for its owner alone: readers find what was there before, or all of ``data``."""
    fresh = part_of(target)
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        write_all(file, data)
        os.fsync(file)
        put_in_place(fresh, target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def part_of(target: Path) -> Path:
    """A name beside ``target`` that nobody else writes to: hidden, and of a suffix that nobody looks for."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")


def write_all(file: int, data: bytes | bytearray) -> None:
    """To a descriptor, however little it takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def put_in_place(fresh: Path, target: Path) -> None:
    """Rename ``fresh``, whose bytes are on the disk already, so that a power cut does not undo it."""
    fresh.replace(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # else a power cut may forget the name, though not the bytes
    finally:
        os.close(directory)
