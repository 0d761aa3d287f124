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
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.errors import AlreadyExists, Conflict, Internal, ToolError
from protocol.limits import MIB
from protocol.paths import ROOT, WorkspacePath
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.disk import Disk, keep_mode_and_owner, refused, temporary_name
from toolserver.system.moving import exists

_AREA = "edits"
_DONE = ".done"
_VERSION = 1
_MAX_BYTES = 64 * MIB
_TEMPORARY = re.compile(rb"\.workspace-core\.[0-9a-f]{16}~")
_STAGED = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""What file systems without hard links say, and the kernel of a file that is not ours to link."""


class Act(enum.IntEnum):
    """What becomes of a path."""

    CREATE = 0
    REPLACE = 1
    DELETE = 2


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


class _Journal(msgspec.Struct, frozen=True, array_like=True):
    version: int
    entries: list[Entry]
    made: list[bytes]
    """Directories that are made for new files, the highest first."""


def commit(disk: Disk, state: Path, writes: Sequence[Write]) -> None:
    """Make all changes, or none. Raises Conflict for a file that is no longer as seen, NoSpace, Forbidden."""
    if not writes:
        return
    with disk.opened(ROOT, os.O_RDONLY | os.O_DIRECTORY) as root, _area(state) as area:
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
    journal = _read(area, name)
    outcome = Recovered.EMPTY
    try:
        if journal is not None:
            with _directories(root) as directories:
                done = name.endswith(_DONE)
                (_tidy if done else _undo)(directories, journal)
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
                _tidy(directories, journal)
                os.unlink(name, dir_fd=self._area)

    def _planned(self, directories: Directories) -> _Journal:
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
        return _Journal(_VERSION, entries, [os.fsencode(each) for each in sorted(missing)])

    def _written(self, journal: _Journal) -> str:
        name = secrets.token_hex(8)
        fd = os.open(name, _STAGED, 0o600, dir_fd=self._area)
        try:
            _write(fd, msgspec.msgpack.encode(journal))
            if self._durable:
                os.fsync(fd)
                os.fsync(self._area)
        except BaseException:
            os.unlink(name, dir_fd=self._area)
            raise
        finally:
            os.close(fd)
        return name

    def _do(self, directories: Directories, journal: _Journal) -> None:
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
        self, directories: Directories, journal: _Journal, step: Callable[[Directories, Write, Entry], None]
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
            _write(fd, write.content)
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

    def _sync(self, directories: Directories, journal: _Journal) -> None:
        if self._durable:
            _sync_directories(directories, journal)

    def _take_back(self, directories: Directories, journal: _Journal, name: str) -> None:
        try:
            if name.endswith(_DONE):  # renamed, but not surely on the disk: not told as done, so not done
                os.rename(name, name.removesuffix(_DONE), src_dir_fd=self._area, dst_dir_fd=self._area)
                name = name.removesuffix(_DONE)
            _undo(directories, journal)
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


def _undo(directories: Directories, journal: _Journal) -> None:
    """Take back what was done of it, however far it came."""
    for entry in reversed(journal.entries):
        # Where somebody has removed the directory meanwhile, there is nothing to put back into.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            above, name = directories.of(entry.name)
            (_undo_new if entry.act == Act.CREATE else _undo_change)(above, name, entry)
    _sync_directories(directories, journal)
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


def _tidy(directories: Directories, journal: _Journal) -> None:
    for entry in journal.entries:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            above, _ = directories.of(entry.name)
            _unlink(above, os.fsdecode(entry.kept))
            _unlink(above, os.fsdecode(entry.staged))


def _sync_directories(directories: Directories, journal: _Journal) -> None:
    above = {entry.name.rpartition("/")[0] for entry in journal.entries}
    above |= {os.fsdecode(made).rpartition("/")[0] for made in journal.made}
    for path in sorted(above):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.fsync(directories.open(path))


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


def _is_same(above: int, one: str, other: str) -> bool:
    try:
        here = os.stat(other, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.stat(one, dir_fd=above, follow_symlinks=False), here)


def _copy(above: int, name: str, new: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
    try:
        info = os.fstat(fd)
        out = os.open(new, _STAGED, 0o600, dir_fd=above)
        try:
            while data := os.read(fd, MIB):
                _write(out, data)
            keep_mode_and_owner(out, info, None)
            os.utime(out, ns=(info.st_atime_ns, info.st_mtime_ns))
            os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _unlink(above: int, name: str) -> None:
    # Looked first: a read-only file system refuses to remove even what is not there.
    if name and exists(above, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=above)


def _read(area: int, name: str) -> _Journal | None:
    """None for one that was cut short, of which nothing had begun; or that is not ours."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=area)
        with os.fdopen(fd, "rb") as file:
            journal = msgspec.msgpack.decode(file.read(_MAX_BYTES), type=_Journal)
    except (OSError, msgspec.MsgspecError):
        return None
    sound = journal.version == _VERSION and all(map(_is_sound, journal.entries))
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
