"""Trash: trees that are to go, whatever they hold, however deep they are.

A tree is taken apart from the top: each directory in it is first moved up into the area itself, so that two
descriptors and no recursion do for any depth, and whatever a kill leaves behind is trash by its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator

from toolserver.system.directories import DIRECTORY

PREFIX = "trash-"
"""Begins the name of everything in an area that nobody needs any more."""


def trash_name() -> str:
    """A new name for something that is to go."""
    return PREFIX + secrets.token_hex(8)


def remove_trash(area: int, stop: Callable[[], bool] = lambda: False) -> None:
    """Remove all trash from the directory ``area``, or some when told to stop. Others may remove as well."""
    while waiting := [name for name in os.listdir(area) if name.startswith(PREFIX)]:
        for name in waiting:
            if stop():
                return
            with contextlib.suppress(FileNotFoundError):  # another was quicker
                _take_apart(area, name, stop)


@contextlib.contextmanager
def left_where_read_only() -> Iterator[None]:
    """Pass over litter on a file system that nothing can be changed on: it is for a start that may write."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EROFS:
            raise


def _take_apart(area: int, name: str, stop: Callable[[], bool]) -> None:
    """Remove ``name``, or some of it when told to stop; what directories were in it lie in the area now."""
    if _unlinked(area, name):
        return
    fd = opened_for_change(area, name)
    try:
        for entry in os.listdir(fd):
            if stop():
                return
            if not _unlinked(fd, entry):
                _move_up(fd, entry, area)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=area)


def _unlinked(above: int, name: str) -> bool:
    """Whether ``name`` is gone now; False for a directory."""
    try:
        os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True


def _move_up(above: int, name: str, area: int) -> None:
    # A directory's own ".." changes as it moves, so it must be writable itself.
    os.close(opened_for_change(above, name))
    os.rename(name, trash_name(), src_dir_fd=above, dst_dir_fd=area)


def opened_for_change(above: int, name: str) -> int:
    """The directory ``name``, open, and its owner may now do everything with it."""
    try:
        fd = os.open(name, DIRECTORY, dir_fd=above)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=above)
        fd = os.open(name, DIRECTORY, dir_fd=above)
    mode = os.fstat(fd).st_mode
    if mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd
