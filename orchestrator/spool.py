"""Bytes on their way from here: in memory while they are few, past that in a file that has no name.

Nothing has to be cleaned up: the file is gone with the object, and with the process, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from orchestrator.durable import write_all

IN_MEMORY_BYTES = 4 * 1024 * 1024
"""Templates stay far below; beyond it the disk is as quick as the wire."""
_READ_BYTES = 256 * 1024


class Spool:
    """Written once, then read as often as anybody likes, also by several at once."""

    def __init__(self, place: Callable[[], Path] | None = None, in_memory: int = IN_MEMORY_BYTES) -> None:
        """``place`` gives the directory for the file, when one is needed: the system's own, if left out."""
        self._place = place
        self._in_memory = in_memory
        self._held = bytearray()
        self._file = -1
        self.size = 0

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def write(self, data: bytes) -> None:
        """Add to the end. Blocks."""
        self.size += len(data)
        if self._file >= 0:
            write_all(self._file, data)
            return
        self._held += data
        if len(self._held) > self._in_memory:
            self._file = _nameless(self._place() if self._place else None)
            write_all(self._file, self._held)
            self._held = bytearray()

    def read_at(self, start: int, count: int = _READ_BYTES) -> bytes:
        """At most so many bytes from there on; none at the end. Blocks."""
        if self._file < 0:
            return bytes(self._held[start : start + count])
        return os.pread(self._file, count, start)

    def pieces(self) -> Iterator[bytes]:
        """All of it, piece by piece. Blocks."""
        at = 0
        while part := self.read_at(at):
            yield part
            at += len(part)

    def read(self) -> bytes:
        """All of it, in memory. Blocks."""
        return b"".join(self.pieces())

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece."""
        at = 0
        while part := await asyncio.to_thread(self.read_at, at):
            yield part
            at += len(part)


def _nameless(directory: Path | None) -> int:
    """A descriptor of a file that nobody else can open."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        return os.dup(file.fileno())
