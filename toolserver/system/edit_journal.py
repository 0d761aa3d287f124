"""Several files changed as one: wholly, or not at all, whatever instant a kill or a power cut chooses.

    journal written          what is about to happen, and under which names
    kept, staged             each old file gets a second name; each new content lies synced beside its place
    put                      renamed, linked or unlinked, one file after the other
    journal renamed          the new state holds: this is the commit
    second names removed     and the journal with them

Whoever finds a journal that is not renamed takes back what it names, in any state it may be in, and may be
killed at it himself. A change of one file is one rename, so there nothing is kept and only what a kill would
leave lying about is written down. Every name is reached from the root by directory descriptors and never
over a link: the paths are real ones. Methods block; they belong on a worker thread.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.errors import AlreadyExists, Conflict, Internal, ToolError
from protocol.limits import MIB
from protocol.paths import WorkspacePath
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.disk import Disk, keep_mode_and_owner, refused, temporary_name
from toolserver.system.edit_undo import (
    VERSION,
    Act,
    Entry,
    Journal,
    read_journal,
    sync_directories,
    tidy,
    undo,
)
from toolserver.system.large_files import write_all
from toolserver.system.moving import exists

_AREA = "edits"
_DONE = ".done"
_STAGED = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""What file systems without hard links say, and the kernel of a file that is not ours to link."""


@dataclass(frozen=True)
class Write:
    """One file's change. ``path`` is a real path; a file that is there is expected to be as ``seen``."""

    path: WorkspacePath
    content: bytes | None
    """None deletes."""
    seen: os.stat_result | None
    mode: int | None = None
    """Permission bits; None keeps those that it has, or its ``source``."""
    source: WorkspacePath | None = None
    """It is moved from here, unchanged: the same file under another name where the file system can."""
    like: os.stat_result | None = None
    """A new file gets this one's mode and owner."""

    @property
    def act(self) -> Act:
        if self.content is None:
            return Act.DELETE
        return Act.CREATE if self.seen is None else Act.REPLACE


class Recovered(enum.Enum):
    """What became of one journal at a start."""

    UNDONE = "undone"
    TIDIED = "tidied"
    """The change had been made; what it kept is removed."""
    EMPTY = "empty"
    """It was cut short, so nothing had begun."""
    FAILED = "failed"
    """The disk refused; it is tried again at the next start."""


def commit(disk: Disk, state: Path, writes: Sequence[Write]) -> None:
    """Make all changes, or none. Raises Conflict for a file that is no longer as seen, NoSpace, Forbidden."""
    if not writes:
        return
    size = sum(len(each.content) for each in writes if each.content is not None)
    if size:
        disk.room.need(writes[0].path, size, len(writes))
    with disk.top() as root, _area(state) as area:
        _Transaction(root, area, writes).run()


def recover(root: Path, state: Path) -> list[Recovered]:
    """Finish or take back what a kill has left; before anybody else uses the tree."""
    if not (state / _AREA).is_dir():
        return []
    with contextlib.ExitStack() as stack:
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root_fd)
        area = stack.enter_context(_area(state))
        return [_recovered(root_fd, area, name) for name in sorted(os.listdir(area))]


def _recovered(root: int, area: int, name: str) -> Recovered:
    journal = read_journal(area, name)
    outcome = Recovered.EMPTY
    try:
        if journal is not None:
            with _directories(root) as directories:
                done = name.endswith(_DONE)
                (tidy if done else undo)(directories, journal)
                outcome = Recovered.TIDIED if done else Recovered.UNDONE
        os.unlink(name, dir_fd=area)
    except OSError:
        return Recovered.FAILED
    return outcome


class _Transaction:
    """One commit."""

    def __init__(self, root: int, area: int, writes: Sequence[Write]) -> None:
        self._root = root
        self._area = area
        self._writes = writes
        self._durable = len(writes) > 1
        self._at = writes[0].path
        """Where an error of the system happened."""

    def run(self) -> None:
        with _directories(self._root) as directories:
            try:
                journal = self._planned(directories)
                name = self._written(journal)
            except OSError as error:
                raise refused(error, self._at) from None
            try:
                self._do(directories, journal)
                if self._durable:
                    os.rename(name, name + _DONE, src_dir_fd=self._area, dst_dir_fd=self._area)
                    name += _DONE
                    os.fsync(self._area)
            except BaseException as error:
                self._take_back(directories, journal, name)
                if isinstance(error, OSError):
                    raise self._told(error) from None
                raise
            # What cannot be removed now is removed at the next start: the journal stays for that.
            with contextlib.suppress(OSError):
                tidy(directories, journal)
                os.unlink(name, dir_fd=self._area)

    def _planned(self, directories: Directories) -> Journal:
        entries = [
            Entry(
                write.act,
                os.fsencode(write.path),
                temporary_name().encode(),
                temporary_name().encode() if self._durable else b"",
            )
            for write in self._writes
        ]
        missing: dict[str, None] = {}
        for write in self._writes:
            self._at = write.path
            missing |= dict.fromkeys(_missing(directories, write.path))
        return Journal(VERSION, entries, [os.fsencode(each) for each in sorted(missing)])

    def _written(self, journal: Journal) -> str:
        name = secrets.token_hex(8)
        fd = os.open(name, _STAGED, 0o600, dir_fd=self._area)
        try:
            write_all(fd, msgspec.msgpack.encode(journal))
            if self._durable:
                os.fsync(fd)
                os.fsync(self._area)
        except BaseException:
            os.unlink(name, dir_fd=self._area)
            raise
        finally:
            os.close(fd)
        return name

    def _do(self, directories: Directories, journal: Journal) -> None:
        for made in map(os.fsdecode, journal.made):
            above, name = directories.of(made)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=above)
        for step in (self._keep, self._stage):
            self._each(directories, journal, step)
        self._sync(directories, journal)
        self._each(directories, journal, self._put)
        self._sync(directories, journal)

    def _each(
        self, directories: Directories, journal: Journal, step: Callable[[Directories, Write, Entry], None]
    ) -> None:
        for write, entry in zip(self._writes, journal.entries, strict=True):
            self._at = write.path
            step(directories, write, entry)

    def _keep(self, directories: Directories, write: Write, entry: Entry) -> None:
        above, name = directories.of(entry.name)
        _refuse_changed(above, name, write)
        if not entry.kept or write.act is Act.CREATE:
            return
        try:
            os.link(name, entry.kept, src_dir_fd=above, dst_dir_fd=above, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _copy(above, name, os.fsdecode(entry.staged))
            # Under its own name only once it is whole: what is kept may be put back at any time.
            os.rename(entry.staged, entry.kept, src_dir_fd=above, dst_dir_fd=above)

    def _stage(self, directories: Directories, write: Write, entry: Entry) -> None:
        if write.content is None:
            return
        if write.source is not None and self._linked(directories, write.source, entry):
            return
        above, _ = directories.of(entry.name)
        fd = os.open(entry.staged, _STAGED, 0o600, dir_fd=above)
        try:
            write_all(fd, write.content)
            keep_mode_and_owner(fd, write.seen or write.like, write.mode)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _linked(self, directories: Directories, source: WorkspacePath, entry: Entry) -> bool:
        here, name = directories.of(source)
        here = os.dup(here)  # the next call may close it
        try:
            above, _ = directories.of(entry.name)
            os.link(name, entry.staged, src_dir_fd=here, dst_dir_fd=above, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EXDEV):
                raise
            return False
        finally:
            os.close(here)
        return True

    def _put(self, directories: Directories, write: Write, entry: Entry) -> None:
        above, name = directories.of(entry.name)
        if write.act is Act.DELETE:
            os.unlink(name, dir_fd=above)
        elif write.act is Act.REPLACE:
            os.rename(entry.staged, name, src_dir_fd=above, dst_dir_fd=above)
        else:
            self._put_new(above, name, entry)

    def _put_new(self, above: int, name: str, entry: Entry) -> None:
        try:
            os.link(entry.staged, name, src_dir_fd=above, dst_dir_fd=above, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if exists(above, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
            if entry.kept:
                os.close(os.open(entry.kept, _STAGED, 0o600, dir_fd=above))
            os.rename(entry.staged, name, src_dir_fd=above, dst_dir_fd=above)

    def _sync(self, directories: Directories, journal: Journal) -> None:
        if self._durable:
            sync_directories(directories, journal)

    def _take_back(self, directories: Directories, journal: Journal, name: str) -> None:
        try:
            if name.endswith(_DONE):  # renamed, but not surely on the disk: not told as done, so not done
                os.rename(name, name.removesuffix(_DONE), src_dir_fd=self._area, dst_dir_fd=self._area)
                name = name.removesuffix(_DONE)
            undo(directories, journal)
            os.unlink(name, dir_fd=self._area)
        except OSError as error:
            raise Internal(
                f"the old files could not be put back wholly ({error.strerror}); restart the tool server",
                path=self._at,
            ) from error

    def _told(self, error: OSError) -> ToolError:
        if isinstance(error, FileExistsError):
            return AlreadyExists(
                f"{self._at!r} was made by somebody else meanwhile; nothing was changed", path=self._at
            )
        return refused(error, self._at)


def _missing(directories: Directories, path: str) -> Iterator[str]:
    """Directories on the way to ``path`` that are not there."""
    names = path.split("/")[:-1]
    for count in range(len(names), 0, -1):
        above = "/".join(names[:count])
        try:
            directories.open(above)
            return
        except FileNotFoundError:
            yield above


def _refuse_changed(above: int, name: str, write: Write) -> None:
    """A program may have written since the file was read: what it wrote is not to be lost."""
    try:
        info = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        info = None
    seen = write.seen
    if seen is None and info is not None:
        raise AlreadyExists(f"{write.path!r} was made by somebody else meanwhile; ask again", path=write.path)
    if seen is not None and (info is None or _mark(info) != _mark(seen)):
        raise Conflict(f"{write.path!r} was changed by a program meanwhile; ask again", path=write.path)


def _mark(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_ino, info.st_size, info.st_mtime_ns


def _copy(above: int, name: str, new: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
    try:
        info = os.fstat(fd)
        out = os.open(new, _STAGED, 0o600, dir_fd=above)
        try:
            while data := os.read(fd, MIB):
                write_all(out, data)
            keep_mode_and_owner(out, info, None)
            os.utime(out, ns=(info.st_atime_ns, info.st_mtime_ns))
            os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _area(state: Path) -> Iterator[int]:
    try:
        fd = os.open(state / _AREA, DIRECTORY)
    except FileNotFoundError:
        (state / _AREA).mkdir(mode=0o700, exist_ok=True)
        fd = os.open(state / _AREA, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _directories(root: int) -> Iterator[Directories]:
    directories = Directories(root)
    try:
        yield directories
    finally:
        directories.close()
