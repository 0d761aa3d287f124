"""One entry moved from a directory to another, by a rename if the kernel grants it.

It does not in two cases. A directory that its owner may not write to must be writable for the moment, because
its ".." changes. And on an overlay, a directory that comes from the image below cannot be renamed at all: it
is made anew and what is in it moved entry by entry. That takes many steps, so there is a way back from each.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator

from toolserver.system.directories import DIRECTORY
from toolserver.system.removal import opened_for_change

NOREPLACE, EXCHANGE = 1, 2
"""Flags of renameat2(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


def exists(above: int, name: str) -> bool:
    """Whether there is anything of that name."""
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def rename(source: tuple[int, str], target: tuple[int, str], flags: int) -> None:
    """renameat2(2); raises OSError, with EINVAL where the file system does not know ``flags``."""
    (here, name), (there, new) = source, target
    if _libc.renameat2(here, os.fsencode(name), there, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def is_locked(mode: int) -> bool:
    """Whether this is a directory that its owner may not write to."""
    return stat.S_ISDIR(mode) and not mode & stat.S_IWUSR


def move(source_above: int, source: str, above: int, name: str) -> None:
    """Rename; raises OSError, with EXDEV where only ``move_by_parts`` helps."""
    try:
        os.rename(source, name, src_dir_fd=source_above, dst_dir_fd=above)
    except PermissionError:
        with _writable(source_above, source):
            os.rename(source, name, src_dir_fd=source_above, dst_dir_fd=above)


def is_immovable(error: OSError, above: int, name: str) -> bool:
    """Whether ``error`` means that this is a directory of the image below an overlay."""
    return error.errno == errno.EXDEV and _is_directory(above, name)


def move_by_parts(source_above: int, source: str, above: int, name: str) -> None:
    """Make the directory anew as ``name`` and move what is in ``source`` there; a kill leaves two halves."""
    os.mkdir(name, 0o700, dir_fd=above)
    with _both(source_above, source, above, name) as (here, there):
        mode = os.fstat(here).st_mode
        if is_locked(mode):
            os.fchmod(here, 0o700)
        for entry in os.listdir(here):
            _move_part(here, entry, there)
        os.fchmod(there, stat.S_IMODE(mode))
    os.rmdir(source, dir_fd=source_above)


def _move_part(source_above: int, name: str, above: int) -> None:
    try:
        move(source_above, name, above, name)
    except OSError as error:
        if not is_immovable(error, source_above, name):
            raise
        move_by_parts(source_above, name, above, name)


def put_back(source_above: int, source: str, above: int, name: str) -> None:
    """Undo ``move_by_parts``, however far it came: the half at ``source`` goes back into that at ``name``."""
    if not (_is_directory(source_above, source) and exists(above, name) and _is_directory(above, name)):
        move(source_above, source, above, name)
        return
    with _both(source_above, source, above, name) as (here, there):
        for entry in os.listdir(here):
            put_back(here, entry, there, entry)
    os.rmdir(source, dir_fd=source_above)


@contextlib.contextmanager
def _both(source_above: int, source: str, above: int, name: str) -> Iterator[tuple[int, int]]:
    here = os.open(source, DIRECTORY, dir_fd=source_above)
    try:
        there = os.open(name, DIRECTORY, dir_fd=above)
        try:
            yield here, there
        finally:
            os.close(there)
    finally:
        os.close(here)


@contextlib.contextmanager
def _writable(above: int, name: str) -> Iterator[None]:
    mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
    if not is_locked(mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    fd = opened_for_change(above, name)
    try:
        yield
    finally:
        os.fchmod(fd, stat.S_IMODE(mode))
        os.close(fd)


def _is_directory(above: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
