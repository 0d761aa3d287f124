"""What is in the workspace, kept in memory and brought up to date by what may have changed.

``inotify`` only says where to look; what happened is found by comparing the disk with what was known. So a
notice that is late, doubled or lost in an overflow never leaves a wrong picture: looking again mends it.
Directories that tools fill (``is_passed_over``) are entries without content. Methods block, and belong to one
worker thread at a time.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.exclusions import Exclusions
from protocol.paths import RESERVED
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.disk import is_temporary

_TOOLS_OWN = ("node_modules", ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache")
"""Directories of any depth that hold tens of thousands of files which nobody edits."""
_PASSED_OVER = Exclusions.nothing().with_rules([f"{name}/" for name in _TOOLS_OWN])
MAX_DEPTH = 64
"""As deep as an archive goes; what is below stays unknown."""


class What(enum.Enum):
    """What became of a path."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"
    MOVED = "moved"


class Entry(NamedTuple):
    """One path, as the disk had it."""

    mode: int
    size: int
    inode: int
    modified_ns: int
    changed_ns: int

    @property
    def is_directory(self) -> bool:
        """Itself, not what a link points to."""
        return stat.S_ISDIR(self.mode)


class Change(NamedTuple):
    """One path that is different now. ``source`` is where something that moved has been."""

    what: What
    path: str
    is_directory: bool
    source: str | None = None


def is_passed_over(path: str) -> bool:
    """Whether nobody looks into this directory.

    >>> is_passed_over("a/node_modules"), is_passed_over("src")
    (True, False)
    """
    return _PASSED_OVER.excludes_entry(path, True)


class TooMany(Exception):
    """The tree has more entries than are to be kept in memory."""


class Look(enum.Flag):
    """Why a path is looked at."""

    AGAIN = 0
    WRITTEN = enum.auto()
    """Somebody wrote into the file, even if its times are the same."""
    INTO = enum.auto()
    """What is in the directory, at any depth, may be other than known."""


class TreeIndex:
    """The entries below ``root`` (a descriptor that stays the caller's), by path.

    ``watch`` is called with the path and a descriptor of each directory that is looked into, before its names
    are read: what changes afterwards is told. ``unwatch`` is called with each that is gone.
    """

    def __init__(
        self,
        root: int,
        max_entries: int,
        watch: Callable[[str, int], None] = lambda *_: None,
        unwatch: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.version = 0
        """Another one whenever an entry is."""
        self.entries: dict[str, Entry] = {}
        self._names: dict[str, set[str]] = {}
        """Of each directory."""
        self._root = root
        self._max_entries = max_entries
        self._watch = watch
        self._unwatch = unwatch

    def fill(self) -> list[Change]:
        """Look at everything; what differs from what was known. Raises TooMany."""
        return self.refresh({"": Look.INTO})

    def refresh(self, suspects: Mapping[str, Look]) -> list[Change]:
        """Look at these paths again, ``""`` is the root; what differs. Raises TooMany, OSError."""
        # The root may be held by a descriptor that names a place only, and reads nothing.
        root = os.open(".", DIRECTORY, dir_fd=self._root)
        directories = Directories(root)
        differing = _Differing()
        waiting = sorted(suspects.items(), reverse=True)
        try:
            while waiting:
                path, why = waiting.pop()
                if self._look(path, why, directories, differing):
                    above = f"{path}/" if path else ""
                    names = self._look_into(path, directories)
                    waiting += [(above + name, why & Look.INTO) for name in sorted(names, reverse=True)]
            self._look_above(suspects, directories)
        finally:
            directories.close()
            os.close(root)
        self.version += differing.any
        return in_order(differing, self.entries)

    def regular_files(self) -> dict[str, Entry]:
        """A copy, of those that are no directory, link or device."""
        return {path: entry for path, entry in self.entries.items() if stat.S_ISREG(entry.mode)}

    def _look(self, path: str, why: Look, directories: Directories, differing: _Differing) -> bool:
        """Whether the names in it are to be looked at, too."""
        above, _, name = path.rpartition("/")
        if path == "" or not _is_shown(above, name):
            return path == ""
        old, new = self.entries.get(path), _entry_at(path, directories)
        if old is not None and (new is None or old.is_directory != new.is_directory):
            self._drop(path, differing)
            old = None
        if new is None:
            return False
        if old is None:
            self._add(path, new)
            differing.created.append(path)
        else:
            self.entries[path] = new
            if not new.is_directory and (new != old or Look.WRITTEN in why):
                differing.modified.add(path)
        is_other = old is None or old.inode != new.inode or Look.INTO in why
        return new.is_directory and is_other and not is_passed_over(path)

    def _look_above(self, suspects: Iterable[str], directories: Directories) -> None:
        """A directory's own times change with its names; by them it is known again when it moves."""
        for above in {path.rpartition("/")[0] for path in suspects} & self.entries.keys():
            new = _entry_at(above, directories)
            if new is not None and new.inode == self.entries[above].inode:
                self.entries[above] = new

    def _look_into(self, path: str, directories: Directories) -> set[str]:
        """The names in a directory, and those that were known."""
        known = self._names.get(path, set())
        try:
            fd = directories.open(path)
            self._watch(path, fd)
            return known | {name for name in os.listdir(fd) if _is_shown(path, name)}
        except OSError as error:
            refuse_blindness(error)
            return set(known)  # gone meanwhile, or closed to us: a notice of the directory above tells of it

    def _add(self, path: str, entry: Entry) -> None:
        if len(self.entries) >= self._max_entries:
            raise TooMany
        self.entries[path] = entry
        above, _, name = path.rpartition("/")
        self._names.setdefault(above, set()).add(name)

    def _drop(self, top: str, differing: _Differing) -> None:
        """Forget a path and all below it."""
        above, _, name = top.rpartition("/")
        self._names[above].discard(name)
        waiting = [top]
        while waiting:
            path = waiting.pop()
            waiting += [f"{path}/{name}" for name in self._names.pop(path, ())]
            differing.gone[path] = entry = self.entries.pop(path)
            if entry.is_directory:
                self._unwatch(path)


@dataclass
class _Differing:
    created: list[str] = field(default_factory=list)
    modified: set[str] = field(default_factory=set)
    gone: dict[str, Entry] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.created or self.modified or self.gone)


def in_order(differing: _Differing, entries: Mapping[str, Entry]) -> list[Change]:
    """What is gone, the deepest first; what moved; what is new, the highest first; what was changed."""
    created = {path for path in differing.created if path in entries}
    gone, modified = dict(differing.gone), set(differing.modified)
    moved = []
    for source, target in list(_moves(created, gone, entries)):
        if source in gone and target in created:  # else it came along with a directory
            is_directory = entries[target].is_directory
            moved.append(Change(What.MOVED, target, is_directory, source))
            for path in _along(source, target, gone, created, entries) if is_directory else ():
                if _identity(gone.pop(source + path)) != _identity(entries[target + path]):
                    modified.add(target + path)
                created.discard(target + path)
            del gone[source]
            created.discard(target)
    changed = (path for path in sorted(modified) if path in entries and not entries[path].is_directory)
    return [
        *(Change(What.DELETED, path, gone[path].is_directory) for path in sorted(gone, reverse=True)),
        *moved,
        *(Change(What.CREATED, path, entries[path].is_directory) for path in sorted(created)),
        *(Change(What.MODIFIED, path, False) for path in changed),
    ]


def _moves(
    created: set[str], gone: Mapping[str, Entry], entries: Mapping[str, Entry]
) -> Iterator[tuple[str, str]]:
    """Pairs of what is gone and what is new, that are the same file; the highest first.

    By inode, which a new file may have got of one that was just removed: so time and size count, too.
    """
    by_identity = {_identity(entries[path]): path for path in created}
    for source in sorted(gone):
        target = by_identity.get(_identity(gone[source]))
        if target is not None:
            yield source, target


def _identity(entry: Entry) -> tuple[int, ...]:
    return entry.inode, stat.S_IFMT(entry.mode), entry.size, entry.modified_ns


def _along(
    source: str, target: str, gone: Mapping[str, Entry], created: set[str], entries: Mapping[str, Entry]
) -> list[str]:
    """What moved within a directory, as the end of its path from there."""
    below = [path.removeprefix(source) for path in gone if path.startswith(f"{source}/")]
    return [
        end
        for end in below
        if target + end in created and entries[target + end].inode == gone[source + end].inode
    ]


def _is_shown(above: str, name: str) -> bool:
    return not is_temporary(name) and not (not above and name == RESERVED)


def refuse_blindness(error: OSError) -> None:
    """Raise what says nothing of the tree: who may open no more files would take all of it for gone."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error


def _entry_at(path: str, directories: Directories) -> Entry | None:
    if path.count("/") >= MAX_DEPTH:
        return None
    try:
        fd, name = directories.of(path)
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        refuse_blindness(error)
        return None
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    return Entry(info.st_mode, size, info.st_ino, info.st_mtime_ns, info.st_ctime_ns)
