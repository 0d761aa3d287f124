"""A tree as archive members, read through descriptors so that no race leads outside.

Sorted by name within each directory, a directory before what is in it. Left out are what the exclusions say,
and, each with its reason, what no archive of ours could bring back: sockets, FIFOs, devices, links that
leave, names past the limits, and what may not be read. So every archive that is packed can be unpacked.

With a base in its record only what differs from that becomes a member, and the directories above it.
"""

from __future__ import annotations

import errno
import operator
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeAlias

import msgspec

from protocol.archives import refuse_leaving_symlink, refuse_oversized
from protocol.errors import ToolError
from protocol.exclusions import Exclusions
from protocol.limits import Limits
from protocol.tar import Kind, Member, shown
from toolserver.system.directories import DIRECTORY
from toolserver.system.tarballs.reading import Content, Whole, at_once, content_of
from toolserver.system.tarballs.record import Record

_SECOND_NS = 1_000_000_000
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without O_NONBLOCK a FIFO that took the file's place would hold up the open for ever."""

_SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENXIO}
_MAX_NAMED = 1000
"""Paths kept by name in a report; the counts go on."""

_ROOT_MODE = 0o755
"""Told of the root instead of its own: mode and time of the place are not the content's."""


class Report(msgspec.Struct):
    """What is known of the walk so far."""

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    left_out_count: int = 0
    left_out: list[str] = []
    """Paths with the reason for each, the first thousand."""
    changed: list[str] = []
    """Files that changed at every attempt to read them whole; the copy may mix two states."""

    def leave_out(self, path: str, reason: str) -> None:
        """Note that ``path`` is not in the archive."""
        self.left_out_count += 1
        if len(self.left_out) < _MAX_NAMED:
            self.left_out.append(f"{shown(path, 4096)}: {reason}")

    def note_changed(self, path: str) -> None:
        """Note that the copy of ``path`` may not be one that ever was."""
        if len(self.changed) < _MAX_NAMED:
            self.changed.append(shown(path, 4096))


Entry: TypeAlias = tuple[Member, bytes | Iterable[bytes]]
"""A member, and its content: a small file's as it was read, a large one's to be read when its turn comes."""


class _Level(msgspec.Struct):
    fd: int
    path: str
    """Of the directory, with a slash at its end; empty for the root."""
    entries: Iterator[os.DirEntry[str]]
    unsaid: Member | None = None
    """The directory's own member, while nothing in it is known to differ from the base."""


class Walk:
    """The members below ``root``, a descriptor that stays the caller's, each with its content.

    ``record`` is told of every entry, also of those that are no members because they are as in its base.
    """

    def __init__(
        self, root: int, exclusions: Exclusions, limits: Limits, mtime: int | None, record: Record
    ) -> None:
        self.report = Report()
        self._record = record
        self._root = root
        self._exclusions = exclusions
        self._limits = limits
        self._mtime_ns = None if mtime is None else mtime * _SECOND_NS

    def entries(self) -> Generator[Entry, None, None]:
        """All of it; a content must be used up before the next entry is asked for."""
        yield Member(name=".", kind=Kind.DIRECTORY, mode=_ROOT_MODE, mtime_ns=self._mtime_ns or 0), ()
        levels = [self._level(os.open(".", DIRECTORY, dir_fd=self._root), "")]
        try:
            while levels:
                entry = next(levels[-1].entries, None)
                if entry is None:
                    os.close(levels.pop().fd)
                else:
                    yield from self._entry(entry, levels)
        finally:
            for level in levels:
                os.close(level.fd)

    def _level(self, fd: int, path: str) -> _Level:
        try:
            with os.scandir(fd) as found:
                return _Level(fd, path, iter(sorted(found, key=_name)))
        except BaseException:
            os.close(fd)
            raise

    def _entry(self, entry: os.DirEntry[str], levels: list[_Level]) -> Iterable[Entry]:
        path = levels[-1].path + entry.name
        try:
            return self._made(entry, path, levels)
        except (ToolError, OSError) as error:
            self._leave_out(path, error)
            return ()

    def _made(self, entry: os.DirEntry[str], path: str, levels: list[_Level]) -> Iterable[Entry]:
        is_directory = entry.is_dir(follow_symlinks=False)
        if self._exclusions.excludes_entry(path, is_directory):
            return ()
        refuse_oversized(path, self._limits)
        above = levels[-1].fd
        if is_directory:
            return self._directory(above, entry.name, path, levels)
        if entry.is_file(follow_symlinks=False):
            if self._record.has_base and self._record.is_known(path, entry.stat(follow_symlinks=False)):
                return ()
            return self._file(above, entry.name, path, levels)
        if entry.is_symlink():
            return self._symlink(above, entry.name, path, levels)
        self._leave_out_special(entry.stat(follow_symlinks=False), path)
        return ()

    def _directory(self, above: int, name: str, path: str, levels: list[_Level]) -> Iterable[Entry]:
        fd = os.open(name, DIRECTORY, dir_fd=above)
        member = self._member(path, Kind.DIRECTORY, os.fstat(fd))
        levels.append(self._level(fd, path + "/"))
        levels[-1].unsaid = member
        self.report.directories += 1
        return _said(levels) if self._record.note(path, member) else ()

    def _symlink(self, above: int, name: str, path: str, levels: list[_Level]) -> Iterable[Entry]:
        target = os.readlink(name, dir_fd=above)
        refuse_leaving_symlink(path, target, self._limits)
        info = os.stat(name, dir_fd=above, follow_symlinks=False)
        member = self._member(path, Kind.SYMLINK, info, link=target)
        if not self._record.note(path, member, os.fsencode(target)):
            return ()
        self.report.links += 1
        return (*_said(levels), (member, ()))

    def _file(self, above: int, name: str, path: str, levels: list[_Level]) -> Iterable[Entry]:
        fd = os.open(name, _FILE, dir_fd=above)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):  # it was a file when it was listed
                self._leave_out_special(info, path)
                return ()
            content = at_once(fd, info)
        finally:
            os.close(fd)
        if content is None:
            return self._slowly(above, name, path, levels)
        member = self._member(path, Kind.FILE, info, size=content.size)
        if self._record.is_same(path, member, content):
            return ()
        self._note_file(path, member, content)
        if levels[-1].unsaid is None:
            return ((member, content.data),)
        return (*_said(levels), (member, content.data))

    def _slowly(self, above: int, name: str, path: str, levels: list[_Level]) -> Iterator[Entry]:
        """A file that is large, or that somebody writes to."""
        try:
            fd = os.open(name, _FILE, dir_fd=above)
            try:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode):
                    self._leave_out_special(info, path)
                else:
                    yield from self._contents(fd, info, path, levels)
            finally:
                os.close(fd)
        except OSError as error:
            self._leave_out(path, error)

    def _contents(self, fd: int, info: os.stat_result, path: str, levels: list[_Level]) -> Iterator[Entry]:
        last: tuple[Member, Content | Whole] | None = None
        for content in content_of(fd, info):
            member = self._member(path, Kind.FILE, content.info, size=content.size)
            if last is None and self._record.is_same(path, member, content):
                return
            yield from _said(levels)
            yield member, content
            last = member, content
        if last is not None:
            self._note_file(path, *last)

    def _note_file(self, path: str, member: Member, content: Content | Whole) -> None:
        self._record.note_file(path, member, content)
        report = self.report
        report.files += 1
        report.bytes += content.size
        if content.is_torn:
            report.note_changed(path)

    def _leave_out(self, path: str, error: ToolError | OSError) -> None:
        """Pass over what cannot be packed; raises what is no reason to."""
        if isinstance(error, FileNotFoundError):  # gone since it was listed
            return
        if isinstance(error, ToolError):
            self.report.leave_out(path, error.message)
        elif error.errno in _UNREADABLE:
            self.report.leave_out(path, f"cannot be read: {os.strerror(error.errno or 0)}")
        else:
            raise error

    def _leave_out_special(self, info: os.stat_result, path: str) -> None:
        self.report.leave_out(path, _SPECIAL.get(stat.S_IFMT(info.st_mode), "no file"))

    def _member(
        self, path: str, kind: Kind, info: os.stat_result, *, size: int = 0, link: str = ""
    ) -> Member:
        mtime_ns = info.st_mtime_ns // _SECOND_NS * _SECOND_NS if self._mtime_ns is None else self._mtime_ns
        return Member(
            name=f"./{path}",
            kind=kind,
            size=size,
            mode=stat.S_IMODE(info.st_mode) & 0o777,
            mtime_ns=mtime_ns,
            link=link,
        )


def _said(levels: list[_Level]) -> Iterator[Entry]:
    """The members of all directories that a member lies in, unless they were given before."""
    for level in levels:
        member, level.unsaid = level.unsaid, None
        if member is not None:
            yield member, ()


_name: Callable[[os.DirEntry[str]], str] = operator.attrgetter("name")
