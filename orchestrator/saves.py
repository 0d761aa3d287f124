"""Saves on this host's disk: an archive as it came, under its name only when it is whole."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from protocol.errors import InvalidRequest
from protocol.messages.archives import ArchiveFormat

SUFFIXES: dict[str, ArchiveFormat] = {
    ".tar.gz": ArchiveFormat.GZIP,
    ".tgz": ArchiveFormat.GZIP,
    ".tar.zst": ArchiveFormat.ZSTD,
    ".tar": ArchiveFormat.TAR,
}
"""What a file's name says of an archive."""


@dataclass(frozen=True)
class SavedArchive:
    """A save on disk."""

    path: Path
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file as it is, in hexadecimal: what ``sha256sum`` prints."""


def format_of(path: Path) -> ArchiveFormat:
    """The format that a file's name asks for; raises InvalidRequest.

    >>> format_of(Path("work.tar.zst")).value
    'zstd'
    """
    for suffix, form in SUFFIXES.items():
        if path.name.endswith(suffix) and path.name != suffix:
            return form
    raise InvalidRequest(f"{str(path)!r} is no name of an archive: end it with {', '.join(SUFFIXES)}")


def save_name(now: datetime) -> str:
    """A save's file name; names sort by time.

    >>> save_name(datetime(2026, 11, 21, 9, 34, 5, 678000))
    '20261121_093405_678.tar.gz'
    """
    return f"{now:%Y%m%d_%H%M%S}_{now.microsecond // 1000:03d}.tar.gz"


async def write_save(chunks: AsyncIterator[bytes], target: Path) -> SavedArchive:
    """Write to a file beside ``target`` and rename it: a stream that breaks off leaves what was there.

    ``target``'s directory has to be there. Readable by its owner alone, for it holds a user's work.
    """
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    digest, size = hashlib.sha256(), 0
    file = await asyncio.to_thread(os.open, fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(_write_all, file, chunk)
            digest.update(chunk)
            size += len(chunk)
        await asyncio.to_thread(_put_in_place, file, fresh, target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return SavedArchive(target, size, digest.hexdigest())


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _put_in_place(file: int, fresh: Path, target: Path) -> None:
    os.fsync(file)
    fresh.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # else a power cut may forget the name, though not the bytes
    finally:
        os.close(directory)
