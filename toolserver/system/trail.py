"""Lines that outlive the daemon: appended to a file of bounded size, and the newest of them found again.

Two files of half the bound each, together no more than a thousandth of the disk, and none on one smaller than
64 MiB: when the newer is full it takes the place of the older. Everything here
blocks, and belongs on a thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from toolserver.system.large_files import write_all

_TAIL_BYTES = 4 * 1024 * 1024
"""Read of each file at the start: more lines than are kept in memory."""
_SMALLEST_SHARE = 64 * 1024
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Trail:
    """``audit.jsonl`` and ``audit.1.jsonl`` in the state directory, for the daemon's user alone."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._newer, self._older = directory / "audit.jsonl", directory / "audit.1.jsonl"
        self._max_bytes = max_bytes
        self._begun = False

    def append(self, lines: bytes) -> None:
        """Whole lines; raises OSError when the disk does not take them: then none of them is there."""
        disk = os.statvfs(self._newer.parent)
        share = disk.f_blocks * disk.f_frsize // 1000
        if share < _SMALLEST_SHARE:
            return
        half = min(self._max_bytes, share) // 2
        fd = os.open(self._newer, _APPEND, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and size + len(lines) > half:
                os.rename(self._newer, self._older)
                # Opened before the other is closed: one that is refused leaves nothing to be closed twice.
                full, fd = fd, os.open(self._newer, _APPEND | os.O_EXCL, 0o600)
                os.close(full)
                size = 0
            elif size and not self._begun and os.pread(fd, 1, size - 1) != b"\n":
                lines = b"\n" + lines  # after one that was cut by a kill
            try:
                write_all(fd, lines)
            except OSError:
                os.ftruncate(fd, size)  # who tries again writes all of them
                raise
            self._begun = True
        finally:
            os.close(fd)

    def newest(self) -> Iterator[bytes]:
        """Lines of earlier times, the oldest first; one that was cut by a kill is as it is."""
        for path in (self._older, self._newer):
            with contextlib.suppress(OSError), path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                if size > _TAIL_BYTES:
                    file.readline()
                yield from file
