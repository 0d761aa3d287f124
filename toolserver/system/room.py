"""Whether there is room for more: refused before the disk is full, or the workspace larger than it may be.

What is kept free is for those who do not ask here: commands, builds, package managers. They meet the disk
itself, and a full one leaves them with halves.

How large the workspace is, is looked at again when the last look is ten seconds old; in between what was
asked for is added, whatever it replaced. It counts the blocks of everything below the root on the root's file
system: what is mounted into it is not the workspace's own, and a file of several names counts once.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable

from protocol.errors import NoSpace
from protocol.limits import Limits

_LEAST_BYTES = 64 * 1024
"""A disk of 6 MiB is there to be full."""
_OLD_SECONDS = 10.0
_FRESH_SECONDS = 1.0
"""Nobody is refused by an older figure."""
NOTHING_RESERVED = Limits(reserved_disk_bytes=0, reserved_disk_entries=0)


class Room:
    """On the disk of one directory, whose descriptor may be a path's (O_PATH). Blocks; from any thread."""

    def __init__(
        self,
        descriptor: int,
        limits: Limits,
        look: Callable[[int], os.statvfs_result] = os.fstatvfs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._descriptor = descriptor
        self._limits = limits
        self._look = look
        self._clock = clock
        self._measuring = threading.Lock()
        self._used = 0
        self._looked = float("-inf")

    def need(self, path: str, size: int, entries: int = 1) -> None:
        """Raise NoSpace unless there is room for ``size`` bytes in ``entries`` new files, for ``path``."""
        self.need_disk(f"for {path!r}", size, entries)
        self.need_share(f"for {path!r}", size)

    def need_disk(self, what: str, size: int, entries: int = 1) -> None:
        """As ``need``, on the disk alone."""
        disk = self._look(self._descriptor)
        reserved = reserved_bytes(disk, self._limits)
        free = disk.f_bavail * disk.f_frsize
        if free - size < reserved:
            raise NoSpace(
                f"no space is left {what}; nothing was changed. Remove files and try again",
                limit="reservedDiskBytes",
                value=reserved,
                free_bytes=free,
                needed_bytes=size,
            )
        # Some file systems make them as they are needed, and tell of none.
        reserved = min(self._limits.reserved_disk_entries, disk.f_files // 100)
        if disk.f_files and disk.f_favail - entries < reserved:
            raise NoSpace(
                f"the disk can hold no more files {what}; nothing was changed. Remove files and try again",
                limit="reservedDiskEntries",
                value=reserved,
                free_entries=disk.f_favail,
            )

    def need_share(self, what: str, size: int) -> None:
        """As ``need``, of what the workspace may take."""
        limit = self._limits.max_workspace_bytes
        if not limit:
            return
        with self._measuring:
            if self._clock() - self._looked > _OLD_SECONDS:
                self._measure()
            if self._used + size > limit and self._clock() - self._looked > _FRESH_SECONDS:
                self._measure()
            if self._used + size > limit:
                raise NoSpace(
                    f"the workspace takes {self._used} bytes of its {limit}, and no space is left {what}; "
                    "nothing was changed. Remove files and try again",
                    limit="maxWorkspaceBytes",
                    value=limit,
                    used_bytes=self._used,
                    needed_bytes=size,
                )
            self._used += size

    def _measure(self) -> None:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._descriptor)
        try:
            self._used = used_bytes(root)
        finally:
            os.close(root)
        self._looked = self._clock()


def reserved_bytes(disk: os.statvfs_result, limits: Limits) -> int:
    """How much of a disk is kept free: a hundredth at most, and nothing where that is next to nothing."""
    hundredth = disk.f_blocks * disk.f_frsize // 100
    return 0 if hundredth < _LEAST_BYTES else min(limits.reserved_disk_bytes, hundredth)


def used_bytes(root: int) -> int:
    """What everything below an open directory takes on its file system, but for what vanishes meanwhile."""
    device, total = os.fstat(root).st_dev, 0
    seen: set[int] = set()
    for _, directories, files, fd in os.fwalk(".", dir_fd=root, onerror=None):
        for name in (*files, *directories):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            if info.st_dev != device:
                if stat.S_ISDIR(info.st_mode):
                    directories.remove(name)
                continue
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                if info.st_ino in seen:
                    continue
                seen.add(info.st_ino)
            total += info.st_blocks * 512
    return total
