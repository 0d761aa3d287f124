"""What a swap is about to do, written down before it does it, and how to take it back.

The journal is there exactly while the workspace may be between two states: it appears whole (by a rename),
and its removal is the commit. Whoever finds one undoes its steps. Undoing looks at where each entry lies now,
so a step that was not reached stays as it is, and undoing may itself be broken off and begun again.

    step      root/PATH -> old/NUMBER, then new/PATH -> root/PATH; either half may be missing
    undone    the same backwards
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from protocol.limits import MIB
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.removal import opened_for_change, trash_name

NEW, OLD = "new", "old"
_JOURNAL, _DRAFT = "journal", "journal.draft"
_VERSION = 1
_MAX_BYTES = 256 * MIB
"""Half a million steps with long paths; a longer journal is none of ours."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the root that changes."""

    path: bytes
    """Below the root, and below ``new``; names need not be UTF-8."""
    leaves: bool
    """What is there goes into ``old``."""
    arrives: bool
    """What is staged there comes."""
    mode: int | None = None
    """Of a leaving directory that its owner may not write to: moving it changes that for a moment."""

    @property
    def name(self) -> str:
        return os.fsdecode(self.path)


class _Journal(msgspec.Struct, array_like=True):
    version: int
    steps: list[Step]


class DamagedJournal(Exception):
    """What is called the journal was not written by this program."""


class Area:
    """The directory of one swap: ``new``, ``old``, and the journal. Also a context manager.

    ``area`` and ``root`` are descriptors that stay the caller's.
    """

    def __init__(self, area: int, root: int) -> None:
        self.fd = area
        self._root = Directories(root)
        with contextlib.ExitStack() as stack:
            self.new = _opened(area, NEW, stack)
            self._old = _opened(area, OLD, stack)
            self._new = Directories(self.new)
            stack.callback(self._new.close)
            stack.callback(self._root.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()

    def __enter__(self) -> Area:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, steps: Sequence[Step]) -> None:
        """Write the journal; from here to ``commit`` a kill is undone."""
        fd = os.open(_DRAFT, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.msgpack.encode(_Journal(_VERSION, list(steps))))
            file.flush()
            os.fsync(fd)
        os.rename(_DRAFT, _JOURNAL, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        os.fsync(self.fd)

    def is_unfinished(self) -> bool:
        """Whether the journal is there."""
        return _exists(self.fd, _JOURNAL)

    def apply(self, number: int, step: Step) -> None:
        """Do one step."""
        above, name = self._root.of(step.name)
        if step.leaves:
            _move(above, name, self._old, str(number))
        if step.arrives:
            _move(self._new.of(step.name)[0], name, above, name)

    def commit(self) -> None:
        """The new state holds."""
        os.unlink(_JOURNAL, dir_fd=self.fd)
        os.fsync(self.fd)

    def undo(self) -> bool:
        """Take back what an unfinished swap has done; False when there was none. Raises DamagedJournal."""
        steps = self._read()
        if steps is None:
            return False
        for number, step in reversed(list(enumerate(steps))):
            # Where somebody has removed the directory meanwhile, there is nothing to put back into.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._undo(number, step)
        self.commit()
        return True

    def _read(self) -> list[Step] | None:
        try:
            fd = os.open(_JOURNAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedJournal from error
        with os.fdopen(fd, "rb") as file:
            return _checked(file.read(_MAX_BYTES))

    def _undo(self, number: int, step: Step) -> None:
        above, name = self._root.of(step.name)
        if step.arrives:
            staged = self._new.of(step.name)[0]
            if _exists(above, name) and not _exists(staged, name):
                _move(above, name, staged, name)
        if step.leaves and _exists(self._old, str(number)):
            if _exists(above, name):  # somebody has made it since the old one left
                _move(above, name, self._old, trash_name())
            _move(self._old, str(number), above, name)
        if step.mode is not None:
            _set_mode(above, name, step.mode)


def _opened(area: int, name: str, stack: contextlib.ExitStack) -> int:
    fd = os.open(name, DIRECTORY, dir_fd=area)
    stack.callback(os.close, fd)
    return fd


def _checked(payload: bytes) -> list[Step]:
    """The steps. In a directory that the workspace's own programs can write to, they may not be ours."""
    try:
        journal = msgspec.msgpack.decode(payload, type=_Journal)
    except msgspec.MsgspecError as error:
        raise DamagedJournal from error
    if journal.version != _VERSION or not all(_is_below(step.path) for step in journal.steps):
        raise DamagedJournal
    return journal.steps


def _is_below(path: bytes) -> bool:
    """
    >>> _is_below(b"src/a"), _is_below(b"../a"), _is_below(b"/a")
    (True, False, False)
    """
    return b"\0" not in path and not any(name in {b"", b".", b".."} for name in path.split(b"/"))


def _exists(above: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _move(source_above: int, source: str, above: int, name: str) -> None:
    try:
        os.rename(source, name, src_dir_fd=source_above, dst_dir_fd=above)
    except PermissionError:
        # A directory that moves gets another "..", so its owner must be allowed to write to it.
        with _writable(source_above, source):
            os.rename(source, name, src_dir_fd=source_above, dst_dir_fd=above)


@contextlib.contextmanager
def _writable(above: int, name: str) -> Iterator[None]:
    mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
    if not is_locked(mode):
        raise PermissionError(f"{name!r} may not be moved")
    fd = opened_for_change(above, name)
    try:
        yield
    finally:
        os.fchmod(fd, stat.S_IMODE(mode))
        os.close(fd)


def is_locked(mode: int) -> bool:
    """Whether this is a directory that its owner may not write to."""
    return stat.S_ISDIR(mode) and not mode & stat.S_IWUSR


def _set_mode(above: int, name: str, mode: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
