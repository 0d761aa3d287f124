"""Directories of this host, made for their owner alone and removed to the last entry; and reading a file."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path


def content_of(file: Path, max_bytes: int) -> bytes:
    """What a file holds, at most one byte past ``max_bytes``. Raises OSError, also for what is no file.

    A fifo of that name would be waited for until somebody writes.
    """
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(file))
        return opened.read(max_bytes + 1)


def private_directory(path: Path, *, exist_ok: bool = True) -> Path:
    """Make ``path``, and what is missing above it, for its owner alone (0700). Raises FileExistsError.

    ``Path.mkdir(parents=True)`` would make the parents with the default mode.
    """
    for above in reversed([each for each in path.parents if not each.exists()]):
        above.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=exist_ok)
    return path


def give_tree(path: Path, owner: int) -> None:
    """Make all below ``path``, links themselves and not where they lead, the user ``owner``'s. Needs root."""
    for _, directories, files, at in os.fwalk(path):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, owner, owner, dir_fd=at, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Remove ``path`` with all below it; nothing happens where there is nothing. Follows no link.

    A package manager's cache may hold directories that even their owner cannot write to.
    """
    if path.is_symlink() or not path.exists():
        path.unlink(missing_ok=True)
        return
    try:
        _remove_all(path)
    except PermissionError:
        _open_up(path)
        _remove_all(path)


def _remove_all(path: Path) -> None:
    while path.exists():
        # What is missing is what another one, who removes the same tree, was first to remove.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def _open_up(directory: Path) -> None:
    directory.chmod(0o700)
    with contextlib.suppress(FileNotFoundError):
        for entry in list(directory.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                _open_up(entry)
