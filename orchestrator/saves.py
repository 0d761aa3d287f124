"""A save's way to this host's disk: written under another name, read back, and only then named.

A stream that breaks off, a full disk or a kill at any instant leaves what was there before. What a kill
leaves behind is a file that says by its name that it is a part, and whose lock is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from orchestrator.archive_check import Checked, read_through
from orchestrator.durable import part_of, put_in_place, write_all
from protocol.errors import ArchiveInvalid, InvalidRequest
from protocol.messages.archives import ArchiveFormat

T = TypeVar("T")

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


async def write_save(
    chunks: AsyncIterator[bytes], target: Path, claimed: Callable[[], str | None] = lambda: None
) -> SavedArchive:
    """Write to a file beside ``target``, read it back, rename it: else what was there stays.

    ``target``'s directory has to be there. Readable by its owner alone, for it holds a user's work.
    ``claimed`` gives the tar's digest as the sender tells it, once all chunks have come.
    Raises ArchiveInvalid when what is read back is not what was sent, and what ``chunks`` raises.
    """
    async with Part(part_of(target)) as part:
        await part.fill(chunks)
        await part.check(claimed())
        await part.place(target)
        return SavedArchive(target, part.size, part.sha256)


class Part:
    """A file on its way; gone when it is left without a place. Locked, so that nobody sweeps it away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = -1

    async def __aenter__(self) -> Part:
        try:
            await to_end(self._open)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_end(self._close)

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        """Write all of them, down to the disk."""
        async for chunk in chunks:
            await to_end(self._write, chunk)
        await to_end(os.fsync, self._file)

    async def check(self, claimed: str | None) -> Checked:
        """Read the file back to its last byte; raises ArchiveInvalid unless it is what was written.

        ``claimed`` is the digest of the tar as its sender tells it.
        """
        checked = await to_end(read_through, self.path)
        if (checked.size, checked.sha256) != (self.size, self.sha256):
            raise ArchiveInvalid(
                f"{self.path.parent} gave back other bytes than were written: its disk may be failing. "
                "Older saves were left alone; save to another disk by `workspace save -o FILE`"
            )
        if claimed is not None and checked.digest != claimed:
            raise ArchiveInvalid(
                f"what arrived is not what the tool server packed ({checked.digest}, not {claimed}): "
                "older saves were left alone; save once more",
            )
        return checked

    async def place(self, target: Path) -> None:
        """Give it its name, for good."""
        await to_end(put_in_place, self.path, target)

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def _write(self, data: bytes) -> None:
        write_all(self._file, data)
        self._digest.update(data)
        self.size += len(data)

    def _close(self) -> None:
        if self._file >= 0:
            self.path.unlink(missing_ok=True)  # it has another name by now, if all went well
            os.close(self._file)


async def to_end(work: Callable[..., T], *values: object) -> T:
    """``work`` in a thread that is waited for even when nobody wants its result any more.

    It works on a descriptor: closed under its hands, the number might be another file's.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work, *values))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # seen: it comes second to the cancellation
        raise
