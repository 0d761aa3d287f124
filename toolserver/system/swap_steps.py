"""Which entries of the root change when a staged tree takes its place, or is merged over it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from protocol.limits import KIB
from protocol.paths import RESERVED
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.journal import Step
from toolserver.system.moving import is_locked

_PIECE_BYTES = 256 * KIB


def replacing(root: int, new: int, kept: frozenset[str] = frozenset((RESERVED,))) -> list[Step]:
    """All that is in ``root`` leaves but the names ``kept``; all that is in ``new`` arrives."""
    here, there = set(os.listdir(root)) - kept, set(os.listdir(new)) - kept
    return [
        _step(name, _mode(root, name) if name in here else None, arrives=name in there)
        for name in sorted(here | there)
    ]


def merging(root: int, new: int) -> list[Step]:
    """What is in ``new`` arrives, directories merged by name; a file that is the same already stays.

    A directory that is there keeps its mode. A link or a file gives way to a directory of its name, and the
    other way round: nothing is merged through a link.
    """
    return list(_merging(root, new, ""))


def leaving(root: int, paths: Iterable[str]) -> list[Step]:
    """Each of ``paths`` leaves; what is not there is passed over."""
    directories = Directories(root)
    try:
        found = ((path, _mode(*directories.of(path))) for path in paths)
        return [_step(path, mode, arrives=False) for path, mode in found if mode is not None]
    finally:
        directories.close()


def _merging(root: int, new: int, above: str) -> Iterator[Step]:
    for name in sorted(os.listdir(new)):
        path = above + name
        if path == RESERVED:
            continue
        before, now = _mode(root, name), _mode(new, name)
        if before is not None and stat.S_ISDIR(before) and now is not None and stat.S_ISDIR(now):
            yield from _merging_directories(root, new, name, path)
        elif before is None or not _same(root, new, name):
            yield _step(path, before, arrives=True)


def _merging_directories(root: int, new: int, name: str, path: str) -> Iterator[Step]:
    here = os.open(name, DIRECTORY, dir_fd=root)
    try:
        there = os.open(name, DIRECTORY, dir_fd=new)
        try:
            yield from _merging(here, there, path + "/")
        finally:
            os.close(there)
    finally:
        os.close(here)


def _step(path: str, before: int | None, *, arrives: bool) -> Step:
    mode = stat.S_IMODE(before) if before is not None and is_locked(before) else None
    return Step(os.fsencode(path), before is not None, arrives, mode)


def _mode(above: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _same(root: int, new: int, name: str) -> bool:
    """Whether both are files with one content and mode, or links with one target."""
    here = os.stat(name, dir_fd=root, follow_symlinks=False)
    there = os.stat(name, dir_fd=new, follow_symlinks=False)
    if here.st_mode != there.st_mode:
        return False
    if stat.S_ISLNK(here.st_mode):
        return os.readlink(name, dir_fd=root) == os.readlink(name, dir_fd=new)
    return stat.S_ISREG(here.st_mode) and here.st_size == there.st_size and _same_content(root, new, name)


def _same_content(root: int, new: int, name: str) -> bool:
    try:
        with _file(root, name) as here, _file(new, name) as there:
            while piece := here.read(_PIECE_BYTES):
                if piece != there.read(_PIECE_BYTES):
                    return False
            return True
    except PermissionError:  # it can be replaced, but not compared
        return False


def _file(above: int, name: str) -> BinaryIO:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
    return os.fdopen(fd, "rb", buffering=0)
