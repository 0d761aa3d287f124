"""A tree as its members come: files, directories, links, each below one directory and never through a link.

Every name is opened by the descriptor of the directory that holds it, with O_NOFOLLOW, and made with O_EXCL:
what is there already was made by the archive itself. Of two members of one name and kind the last counts; of
two kinds the archive is refused. Directories get their mode and time last, so that a read-only one can be
filled.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from protocol.archives import (
    below_no_directory,
    changed_kind,
    hard_link_source,
    permissions,
    refuse_leaving_symlink,
    refuse_through_link,
)
from protocol.errors import ArchiveInvalid
from protocol.limits import Limits
from protocol.tar import Kind, Member, shown
from toolserver.system.directories import GrowingDirectories
from toolserver.system.large_files import LARGE_BYTES, Allocation, write_all

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FILE = -1


class TreeWriter:
    """The tree below ``root``, a descriptor that stays the caller's. ``begin``, ``write``..., ``end``."""

    def __init__(self, root: int, limits: Limits) -> None:
        self.files = self.directories = self.links = self.bytes = 0
        self._limits = limits
        self._directories = GrowingDirectories(root)
        self._symlinks: set[str] = set()
        self._settings: dict[str, tuple[int, int]] = {}
        """Mode and time of each directory, given when nothing more comes into it."""
        self._file = _NO_FILE
        self._member = Member(name="")
        self._allocation: Allocation | None = None
        self._written = 0
        """Of a file that has an allocation."""
        self._begin: dict[Kind, Callable[[Member, str], None]] = {
            Kind.FILE: self._begin_file,
            Kind.DIRECTORY: self._make_directory,
            Kind.SYMLINK: self._make_symlink,
            Kind.HARD_LINK: self._make_hard_link,
        }

    def begin(self, member: Member, path: str) -> None:
        """The member at ``path``, a checked name. Raises ArchiveUnsafe, ArchiveInvalid, OSError."""
        if self._symlinks:
            refuse_through_link(path, self._symlinks)
        self._begin[member.kind](member, path)

    def write(self, data: memoryview) -> None:
        """The next bytes of the file begun last; those of a member that was not begun are passed over."""
        if self._file == _NO_FILE:
            return
        self.bytes += len(data)
        if self._allocation is not None:
            self._written += len(data)
            self._allocation.reach(self._written)
        write_all(self._file, data)

    def end(self) -> None:
        """The member is whole."""
        fd = self._file
        if fd == _NO_FILE:
            return
        mtime = self._member.mtime_ns
        os.fchmod(fd, permissions(self._member.mode))
        os.utime(fd, ns=(mtime, mtime))
        self._file = _NO_FILE
        os.close(fd)

    def finish(self) -> None:
        """Give the directories their modes and times, the deepest first."""
        for path in sorted(self._settings, reverse=True):
            mode, mtime = self._settings[path]
            fd = self._directories.open(path)
            os.utime(fd, ns=(mtime, mtime))
            os.fchmod(fd, mode)

    def close(self) -> None:
        """Close everything that is open."""
        if self._file != _NO_FILE:
            os.close(self._file)
            self._file = _NO_FILE
        self._directories.close()

    def _begin_file(self, member: Member, path: str) -> None:
        above, name = self._above(path)
        try:
            self._file = os.open(name, _CREATE, 0o600, dir_fd=above)
        except FileExistsError:
            _make_way(above, name, path, Kind.FILE)
            self._file = os.open(name, _CREATE, 0o600, dir_fd=above)
            self.files -= 1
        self._member = member
        self._allocation = Allocation(self._file, member.size) if member.size >= LARGE_BYTES else None
        self._written = 0
        self.files += 1

    def _make_directory(self, member: Member, path: str) -> None:
        if path == ".":  # it is there, and its mode and time are its own
            return
        above, name = self._above(path)
        try:
            self._directories.open(path)
        except NotADirectoryError:
            raise changed_kind(path, _kind_of(above, name), "directory") from None
        if path not in self._settings:
            self.directories += 1
        self._settings[path] = (permissions(member.mode), member.mtime_ns)

    def _make_symlink(self, member: Member, path: str) -> None:
        above, name = self._link_to(member.link, path)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=above, follow_symlinks=False)
        self.links += 1

    def _link_to(self, target: str, path: str) -> tuple[int, str]:
        refuse_leaving_symlink(path, target, self._limits)
        above, name = self._above(path)
        try:
            os.symlink(target, name, dir_fd=above)
        except FileExistsError:
            _make_way(above, name, path, Kind.SYMLINK)
            os.symlink(target, name, dir_fd=above)
            self.links -= 1
        self._symlinks.add(path)
        return above, name

    def _make_hard_link(self, member: Member, path: str) -> None:
        source = hard_link_source(path, member.link, self._limits)
        if source == path:
            raise ArchiveInvalid(f"hard link {shown(path)!r} names itself", member=shown(path))
        refuse_through_link(source, self._symlinks)
        try:
            self._copy_link(source, path)
        except FileNotFoundError:
            message = f"hard link {shown(path)!r} to {shown(source)!r} comes before what it names"
            raise ArchiveInvalid(message, member=shown(path), target=shown(source)) from None
        self.links += 1

    def _copy_link(self, source: str, path: str) -> None:
        fd, name = self._above(source)
        kind = stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
        if kind == stat.S_IFLNK:
            # Not linked but made anew: in another directory its target is to be judged again.
            self._link_to(os.readlink(name, dir_fd=fd), path)
        elif kind == stat.S_IFREG:
            self._hard_link(fd, name, path)
        else:
            raise ArchiveInvalid(f"hard link {shown(path)!r} names a directory", member=shown(path))

    def _hard_link(self, source_above: int, source: str, path: str) -> None:
        held = os.dup(source_above)  # looking up the other directory may close this one
        try:
            above, name = self._above(path)
            try:
                os.link(source, name, src_dir_fd=held, dst_dir_fd=above, follow_symlinks=False)
            except FileExistsError:
                _make_way(above, name, path, Kind.FILE)
                os.link(source, name, src_dir_fd=held, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(held)

    def _above(self, path: str) -> tuple[int, str]:
        try:
            return self._directories.of(path)
        except NotADirectoryError:
            raise below_no_directory(path) from None


_MODES = {Kind.FILE: stat.S_IFREG, Kind.SYMLINK: stat.S_IFLNK}
_NAMES = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "directory"}


def _make_way(above: int, name: str, path: str, kind: Kind) -> None:
    """Remove an earlier member of the same name and kind, so that the last one counts."""
    before = _kind_of(above, name)
    now = _NAMES[_MODES[kind]]
    if before != now:
        raise changed_kind(path, before, now)
    os.unlink(name, dir_fd=above)


def _kind_of(above: int, name: str) -> str:
    return _NAMES[stat.S_IFMT(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)]
