"""A file's content on its way in: written where nobody sees it, then named in one step.

The bytes go into a file without a name on the workspace's own disk, so a daemon that is killed leaves nothing
behind, and an injection that swaps the tree meanwhile does not touch them. Methods block: they belong on a
worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from protocol.errors import TooLarge
from protocol.limits import Limits
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk, refused
from toolserver.system.large_files import write_all
from toolserver.system.room import Room

_COPY_BYTES = 1024 * 1024
_NAMELESS = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC


class Upload:
    """One file without a name. Made by ``begin``; ends by ``place``, ``release``, or both."""

    def __init__(self, fd: int, path: WorkspacePath, max_bytes: int, room: Room) -> None:
        self._fd = fd
        self._room = room
        self._path = path
        self._max_bytes = max_bytes
        self._sum = hashlib.sha256()
        self.size = 0

    @classmethod
    def begin(cls, disk: Disk, path: WorkspacePath, spare: Path, limits: Limits) -> Upload:
        """For ``path``. ``spare`` is a directory for disks that know no files without a name."""
        return cls(_nameless(disk, path, spare), path, limits.max_upload_bytes, disk.room)

    @property
    def hash(self) -> str:
        """Of what was written so far, as ``read`` tells it."""
        return f"sha256:{self._sum.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Add to it; raises TooLarge, NoSpace."""
        refuse_too_large(self.size + len(data), self._max_bytes, self._path)
        self._room.need(self._path, len(data))
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise refused(error, self._path) from None
        self._sum.update(data)
        self.size += len(data)

    def sync(self) -> None:
        """Onto the disk, before it gets its name: done while nobody waits for a turn."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise refused(error, self._path) from None

    def place(self, disk: Disk, mode: int | None, create_parents: bool = True) -> None:
        """Give it its name, in place of what has it; mode and owner of a replaced file are kept."""
        disk.adopt(self._path, self._filler(), mode, create_parents)

    def release(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def _filler(self) -> Callable[[int, str], int]:
        """Makes a file of the given name in the given directory, and gives a descriptor of it."""

        def fill(directory: int, name: str) -> int:
            try:
                os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=directory, follow_symlinks=True)
                return os.dup(self._fd)
            except OSError as error:
                # Another disk is mounted inside the workspace, or the spare directory is on another one.
                if error.errno not in (errno.EXDEV, errno.ENOENT, errno.EPERM):
                    raise
            return self._copied(directory, name)

        return fill

    def _copied(self, directory: int, name: str) -> int:
        out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            offset = 0
            while count := os.sendfile(out, self._fd, offset, _COPY_BYTES):
                offset += count
            os.fsync(out)
        except BaseException:
            os.close(out)
            raise
        return out


def refuse_too_large(size: int, limit: int, path: str) -> None:
    """Raise TooLarge naming the limit."""
    if size > limit:
        raise TooLarge(
            f"{path!r} would have more than {limit} bytes, the limit of one upload",
            path=path,
            limit="maxUploadBytes",
            value=limit,
        )


def _nameless(disk: Disk, path: WorkspacePath, spare: Path) -> int:
    for place in _places(disk, spare):
        with contextlib.suppress(OSError), place as directory:
            return os.open(".", _NAMELESS, 0o600, dir_fd=directory)
    try:
        fd, name = tempfile.mkstemp(dir=spare)
    except OSError as error:
        raise refused(error, path) from None
    os.unlink(name)
    return fd


def _places(disk: Disk, spare: Path) -> Iterator[contextlib.AbstractContextManager[int]]:
    yield disk.top()
    yield _directory(spare)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
