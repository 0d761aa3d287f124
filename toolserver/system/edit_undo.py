"""A change of several files in its journal, and the way back from any instant of it (see ``edit_journal``).

Taking back looks at what is there now, so it may be broken off anywhere and begun again.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re

import msgspec

from protocol.limits import MIB
from toolserver.system.directories import Directories
from toolserver.system.moving import exists

VERSION = 1
_MAX_BYTES = 64 * MIB
_TEMPORARY = re.compile(rb"\.workspace-core\.[0-9a-f]{16}~")


class Act(enum.IntEnum):
    """What becomes of a path."""

    CREATE = 0
    REPLACE = 1
    DELETE = 2


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One file in the journal."""

    act: int
    path: bytes
    """Below the root; names need not be UTF-8."""
    staged: bytes
    kept: bytes
    """The old file's second name; of a new file's, a mark that it was put. Empty where nothing is kept."""

    @property
    def name(self) -> str:
        return os.fsdecode(self.path)


class Journal(msgspec.Struct, frozen=True, array_like=True):
    """What is about to happen."""

    version: int
    entries: list[Entry]
    made: list[bytes]
    """Directories that are made for new files, the highest first."""


def undo(directories: Directories, journal: Journal) -> None:
    """Take back what was done of it, however far it came."""
    for entry in reversed(journal.entries):
        # Where somebody has removed the directory meanwhile, there is nothing to put back into.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            above, name = directories.of(entry.name)
            (_undo_new if entry.act == Act.CREATE else _undo_change)(above, name, entry)
    sync_directories(directories, journal)
    for made in reversed(journal.made):
        with contextlib.suppress(OSError):  # not made yet, or somebody keeps something there
            above, name = directories.of(os.fsdecode(made))
            os.rmdir(name, dir_fd=above)


def _undo_new(above: int, name: str, entry: Entry) -> None:
    staged, kept = os.fsdecode(entry.staged), os.fsdecode(entry.kept)
    if exists(above, staged):
        if _is_same(above, staged, name):
            os.unlink(name, dir_fd=above)
    elif kept and exists(above, kept):  # the mark of a file that was put by renaming
        _unlink(above, name)
    _unlink(above, kept)
    _unlink(above, staged)


def _undo_change(above: int, name: str, entry: Entry) -> None:
    kept = os.fsdecode(entry.kept)
    if kept and exists(above, kept):
        # Of two names of one file, which they are before it is put, renaming leaves both.
        os.rename(kept, name, src_dir_fd=above, dst_dir_fd=above)
        _unlink(above, kept)
    _unlink(above, os.fsdecode(entry.staged))


def tidy(directories: Directories, journal: Journal) -> None:
    """Remove the second names of a change that was made."""
    for entry in journal.entries:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            above, _ = directories.of(entry.name)
            _unlink(above, os.fsdecode(entry.kept))
            _unlink(above, os.fsdecode(entry.staged))


def sync_directories(directories: Directories, journal: Journal) -> None:
    """Put the names in all directories concerned on the disk."""
    above = {entry.name.rpartition("/")[0] for entry in journal.entries}
    above |= {os.fsdecode(made).rpartition("/")[0] for made in journal.made}
    for path in sorted(above):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.fsync(directories.open(path))


def _is_same(above: int, one: str, other: str) -> bool:
    try:
        here = os.stat(other, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.stat(one, dir_fd=above, follow_symlinks=False), here)


def _unlink(above: int, name: str) -> None:
    # Looked first: a read-only file system refuses to remove even what is not there.
    if name and exists(above, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=above)


def read_journal(area: int, name: str) -> Journal | None:
    """None for one that was cut short, of which nothing had begun; or that is not ours."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=area)
        with os.fdopen(fd, "rb") as file:
            journal = msgspec.msgpack.decode(file.read(_MAX_BYTES), type=Journal)
    except (OSError, msgspec.MsgspecError):
        return None
    sound = journal.version == VERSION and all(map(_is_sound, journal.entries))
    return journal if sound and all(map(_is_below, journal.made)) else None


def _is_sound(entry: Entry) -> bool:
    names = [entry.staged, *([entry.kept] if entry.kept else [])]
    return _is_below(entry.path) and all(_TEMPORARY.fullmatch(name) for name in names)


def _is_below(path: bytes) -> bool:
    """
    >>> _is_below(b"src/a"), _is_below(b"../a"), _is_below(b"/a")
    (True, False, False)
    """
    return b"\0" not in path and not any(name in {b"", b".", b".."} for name in path.split(b"/"))
