"""Files put below a directory that others may write in: each whole or not at all, and through no link.

A guest's home is its tenant's. Whoever follows a link in there with the host's rights reads or overwrites
what the tenant could not, so every step is taken from the directory before it, by descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from protocol.errors import Conflict

MAX_BYTES = 64 * 1024 * 1024
"""Of a file that is read here. Generous: an agent's state of years has a few million."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class FileToPlace:
    """One file."""

    path: str
    """POSIX, relative to the directory it is placed below; no ``..``."""
    content: bytes = field(repr=False)
    mode: int = 0o600


def read_below(root: Path, path: str) -> bytes | None:
    """The content of ``root/path``; None when it is not there.

    Raises Conflict for a link and for what is no file, OSError when the disk refuses.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        _parent(root, path, make=False) as (directory, name),
        _opened(path, name, _READ, directory) as file,
    ):
        _refuse_unusual(path, os.fstat(file))
        with os.fdopen(file, "rb", closefd=False) as reader:
            return reader.read()
    return None


def place(root: Path, file: FileToPlace) -> bool:
    """Make ``root/file.path`` so; False when it was already. Missing directories are made, with mode 0700.

    The new file is written beside its place and renamed into it. It belongs to whom its directory belongs.
    Raises Conflict for a link on the way, OSError when the disk refuses.
    """
    if read_below(root, file.path) == file.content and _mode(root, file.path) == file.mode:
        return False
    with _parent(root, file.path, make=True) as (directory, name):
        fresh = f".{name}.{secrets.token_hex(8)}"
        try:
            _write(fresh, file, directory)
            os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=directory)
            raise
    return True


def _write(name: str, file: FileToPlace, directory: int) -> None:
    descriptor = os.open(name, _WRITE, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as writer:
        writer.write(file.content)
        writer.flush()
        _give(descriptor, directory)
        os.fchmod(descriptor, file.mode)
        os.fsync(descriptor)


def _give(descriptor: int, directory: int) -> None:
    """To the owner of ``directory``; only root can, and only root has to."""
    if os.geteuid() == 0:
        owner = os.fstat(directory)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _mode(root: Path, path: str) -> int:
    with _parent(root, path, make=False) as (directory, name):
        return stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


@contextlib.contextmanager
def _parent(root: Path, path: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory that ``path`` is in, and the name in it. ``root`` may be a link."""
    *above, name = path.split("/")
    with contextlib.ExitStack() as stack:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        for step in above:
            if make:
                _make(step, directory)
            directory = stack.enter_context(_opened(path, step, _DIRECTORY, directory))
        yield directory, name


def _make(name: str, directory: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return
    with _opened(name, name, _DIRECTORY, directory) as made:
        _give(made, directory)


@contextlib.contextmanager
def _opened(path: str, name: str, flags: int, directory: int) -> Iterator[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _unusual(path, name) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_unusual(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _unusual(path, path.rpartition("/")[2])
    if found.st_size > MAX_BYTES:
        raise Conflict(f"~/{path} has more than {MAX_BYTES} bytes: move it away", path=path)


def _unusual(path: str, name: str) -> Conflict:
    return Conflict(
        f"~/{path} is left as it is, because {name!r} is a link, or not what it should be: move it away",
        path=path,
    )
