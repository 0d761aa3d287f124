"""What ripgrep read is what the workspace holds: nothing is told that is not read again beneath the root.

ripgrep opens files by their names, so somebody who swaps a directory for a link while it walks could have it
read outside. Each line it tells is therefore compared with the file as the kernel resolves it from the root.
What is not the same there is left out and counted: it came from elsewhere, or has changed meanwhile.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import stat
from collections.abc import Callable

from protocol.errors import ToolError
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.threads import taken

_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
"""ripgrep reads files with these in UTF-8, and its offsets are those of that text, without the mark."""
_MAX_DECODED_BYTES = 64 * 1024 * 1024
"""Of a file in UTF-16; lines of larger ones are not confirmed."""


class Confirming:
    """For one search. ``locate`` gives the path that ripgrep's name for a file means."""

    def __init__(self, disk: Disk, locate: Callable[[bytes], WorkspacePath]) -> None:
        self._disk = disk
        self._locate = locate
        self._name: bytes | None = None
        self._fd: int | None = None
        self._skipped = 0
        """Bytes of the mark at the beginning, which offsets do not count."""
        self._decoded: bytes | None = None
        self.refused = 0

    async def holds(self, name: bytes, offset: int, line: bytes) -> bool:
        """Whether these bytes are there, in that file."""
        if name != self._name:
            await self._open(name)
        same = self._fd is not None and await self._read(offset, len(line)) == line
        self.refused += not same
        return same

    def close(self) -> None:
        """Let go of the file that was looked at last."""
        if self._fd is not None:
            os.close(self._fd)
        self._name = self._fd = self._decoded = None
        self._skipped = 0

    async def _open(self, name: bytes) -> None:
        self.close()
        self._name = name
        try:
            path = self._locate(name)
            flags = os.O_RDONLY | os.O_NONBLOCK
            now = self._disk.open_now(path, flags)
            self._fd = await taken(os.close, self._disk.open, path, flags) if now is None else now
        except ToolError:
            return
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            self._fd = None
            return
        await self._find_mark()

    async def _find_mark(self) -> None:
        begin = await self._at(0, 3)
        self._skipped = len(codecs.BOM_UTF8) if begin == codecs.BOM_UTF8 else 0
        for mark, charset in _MARKS:
            if begin.startswith(mark):
                data = await self._at(len(mark), _MAX_DECODED_BYTES)
                self._decoded = data.decode(charset, errors="replace").encode()

    async def _read(self, offset: int, count: int) -> bytes:
        if self._decoded is not None:
            return self._decoded[offset : offset + count]
        return await self._at(offset + self._skipped, count)

    async def _at(self, offset: int, count: int) -> bytes:
        """From memory, where it was a moment ago; else from the disk, on a thread."""
        assert self._fd is not None
        if count <= 1024 * 1024:
            content = bytearray(count)
            try:
                got = os.preadv(self._fd, [content], offset, os.RWF_NOWAIT)
                if got == count:
                    return bytes(content)
            except OSError:
                pass
        return await asyncio.to_thread(os.pread, self._fd, count, offset)
