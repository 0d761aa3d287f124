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
from collections.abc import Mapping, Sequence

import msgspec

from protocol.limits import MIB
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.moving import exists, is_immovable, move, move_by_parts, put_back
from toolserver.system.removal import trash_name

NEW, OLD = "new", "old"
_JOURNAL, _DRAFT = "journal", "journal.draft"
_IN_PARTS = ".parts"
"""Ends the name that stands in ``old`` beside a directory which moves entry by entry."""
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
        return exists(self.fd, _JOURNAL)

    def apply(self, number: int, step: Step) -> None:
        """Do one step."""
        above, name = self._root.of(step.name)
        if step.leaves:
            self._leave(number, above, name)
        if step.arrives:
            move(self._new.of(step.name)[0], name, above, name)

    def _leave(self, number: int, above: int, name: str) -> None:
        try:
            move(above, name, self._old, str(number))
        except OSError as error:
            if not is_immovable(error, above, name):
                raise
            os.mkdir(f"{number}{_IN_PARTS}", dir_fd=self._old)
            move_by_parts(above, name, self._old, str(number))

    def set_modes(self, modes: Mapping[str, int]) -> None:
        """Give directories that stay their new bits; a step of theirs without entries knows the old ones."""
        for path, mode in modes.items():
            above, name = self._root.of(path)
            _set_mode(above, name, mode)

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
            if exists(above, name) and not exists(staged, name):
                move(above, name, staged, name)
        if step.leaves and exists(self._old, str(number)):
            self._come_back(number, above, name)
        if step.mode is not None:
            _set_mode(above, name, step.mode)

    def _come_back(self, number: int, above: int, name: str) -> None:
        if exists(self._old, f"{number}{_IN_PARTS}"):
            put_back(self._old, str(number), above, name)
            return
        if exists(above, name):  # somebody has made it since the old one left
            move(above, name, self._old, trash_name())
        move(self._old, str(number), above, name)


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


def _set_mode(above: int, name: str, mode: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
