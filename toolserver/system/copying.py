"""A file, a link or a whole directory, copied by descriptors: content, modes and times.

The kernel copies, and shares blocks where the file system can. What is copied counts against the limits of an
archive.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from protocol.errors import Conflict, TooLarge
from protocol.limits import Limits
from toolserver.system.directories import DIRECTORY
from toolserver.system.large_files import write_all
from toolserver.system.room import Room

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES = 1 << 30
"""In one call: the kernel copies, and shares blocks where the file system can."""
_SLOW_COPY_BYTES = 1 << 20


class Copying:
    """One copy under way, and what it consists of so far."""

    def __init__(self, limits: Limits, room: Room) -> None:
        self._limits = limits
        self._room = room
        self.entries = 0
        self.bytes = 0

    def entry(self, fd: int, name: str, above: int, new: str, path: str) -> None:
        """Copy ``name`` of the directory ``fd`` to ``new`` in ``above``; ``path`` is for messages."""
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        self._count(info, path)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=fd), new, dir_fd=above)
        elif stat.S_ISDIR(info.st_mode):
            self._directory(fd, name, above, new, path)
        elif stat.S_ISREG(info.st_mode):
            _copy_file(fd, name, above, new)
        else:
            raise Conflict(f"{path!r} is a socket, a FIFO or a device, which cannot be copied", path=path)
        times = info.st_atime_ns, info.st_mtime_ns
        os.utime(new, ns=times, dir_fd=above, follow_symlinks=False)

    def _directory(self, fd: int, name: str, above: int, new: str, path: str) -> None:
        with held(os.open(name, DIRECTORY, dir_fd=fd)) as source:
            os.mkdir(new, 0o700, dir_fd=above)
            with held(os.open(new, DIRECTORY, dir_fd=above)) as target:
                for entry in os.listdir(source):
                    self.entry(source, entry, target, entry, f"{path}/{entry}")
                os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))

    def _count(self, info: os.stat_result, path: str) -> None:
        self.entries += 1
        size = info.st_size if stat.S_ISREG(info.st_mode) else 0
        self.bytes += size
        self._room.need(path, min(size, info.st_blocks * 512))
        limits = self._limits
        for name, value, limit in (
            ("maxArchiveEntries", self.entries, limits.max_archive_entries),
            ("maxUnpackedBytes", self.bytes, limits.max_unpacked_bytes),
            ("maxArchiveDepth", path.count("/"), limits.max_archive_depth),
        ):
            if value > limit:
                raise TooLarge(
                    f"the copy would pass {name}, which is {limit}; nothing was copied",
                    limit=name,
                    value=limit,
                )


def _copy_file(fd: int, name: str, above: int, new: str) -> None:
    with held(os.open(name, _READ, dir_fd=fd)) as source:
        info = os.fstat(source)
        if not stat.S_ISREG(info.st_mode):  # swapped for something else since it was looked at
            raise OSError(errno.EINVAL, "is no file any more", name)
        with held(os.open(new, _WRITE, 0o600, dir_fd=above)) as target:
            _copy_bytes(source, target)
            os.fchmod(target, stat.S_IMODE(info.st_mode))


def _copy_bytes(source: int, target: int) -> None:
    try:
        while os.copy_file_range(source, target, _COPY_BYTES):
            pass
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        while data := os.read(source, _SLOW_COPY_BYTES):
            write_all(target, data)


@contextlib.contextmanager
def held(fd: int) -> Iterator[int]:
    """Closes ``fd`` at the end."""
    try:
        yield fd
    finally:
        os.close(fd)
