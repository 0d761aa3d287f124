"""A staged tree in place of the root's content: whole or not at all, whatever ends the daemon in between.

The root directory itself is never replaced: mounts, watchers, working directories and the kernel's rules for
it hang on it. Only what is in it moves, by renames that a journal announces:

    stage -> journal -> for each path: old one out, new one in -> journal gone -> old ones removed

As long as the journal is there, ``recover`` (or the error's own handler) undoes every move that was made, so
that the old tree is back; once it is gone, the new tree is the tree.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from protocol.paths import RESERVED
from toolserver.system.directories import DIRECTORY, Directories
from toolserver.system.removal import remove_trash, trash_name

_JOURNAL = "journal"
_DRAFT = "journal.new"
_STAGING_PREFIX = "staging-"


class _Move(msgspec.Struct, frozen=True, array_like=True):
    """One path of the root: what is there goes out; with ``comes``, the staged one comes in."""

    path: str
    comes: bool


class _Journal(msgspec.Struct, frozen=True):
    staging: str
    trash: str
    moves: list[_Move]


class Staging:
    """One tree on its way in: ``open``, fill the directory, ``replace`` or ``merge``, and always ``discard``.

    All of it blocks. An OSError from ``replace`` or ``merge`` means that the old tree is back.
    """

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self._state = state
        self._name = _STAGING_PREFIX + secrets.token_hex(8)
        self._area: Path | None = None

    def open(self) -> Path:
        """An empty directory, from which everything can be renamed into the root."""
        self._area = _area(self._root, self._state)
        self._area.mkdir(mode=0o700, exist_ok=True)
        directory = self._area / self._name
        directory.mkdir(mode=0o755)
        return directory

    def replace(self) -> None:
        """The staged tree becomes the whole content of the root."""
        staged = set(os.listdir(self._area_now() / self._name))
        old = set(os.listdir(self._root)) - {RESERVED}
        self._put([_Move(name, name in staged) for name in sorted(old | staged)])

    def merge(self) -> None:
        """The staged tree is laid over the root's content; what it does not name stays."""
        with _Tree(self._root) as root, _Tree(self._area_now() / self._name) as staged:
            moves = list(_merging(root, staged, ""))
        self._put(moves)

    def discard(self) -> None:
        """Remove what is left of it, and of the old tree. Does nothing before ``open``."""
        if self._area is None:
            return
        with contextlib.suppress(FileNotFoundError):
            (self._area / self._name).rename(self._area / trash_name())
        _tidy(self._area)
        self._area = None

    def _put(self, moves: list[_Move]) -> None:
        area = self._area_now()
        journal = _Journal(self._name, trash_name(), moves)
        (area / journal.trash).mkdir(mode=0o700)
        _write_journal(area, journal)
        try:
            _do(self._root, area, journal)
        except BaseException:
            _undo(self._root, area, journal)
            _end_journal(area)
            raise
        _end_journal(area)

    def _area_now(self) -> Path:
        assert self._area is not None, "open() comes first"
        return self._area


def recover(root: Path, state: Path) -> bool:
    """Undo what a killed daemon has left half done, and remove its leftovers; True when there was any."""
    undone = False
    for area in (state, root / RESERVED):
        journal = _read_journal(area)
        if journal is not None:
            _undo(root, area, journal)
            _end_journal(area)
            undone = True
        if area.is_dir():
            (area / _DRAFT).unlink(missing_ok=True)
            for name in os.listdir(area):
                if name.startswith(_STAGING_PREFIX):
                    (area / name).rename(area / trash_name())
            _tidy(area)
    return undone


def _area(root: Path, state: Path) -> Path:
    """Where to stage: the state directory if a rename from there into the root works, else inside the root.

    It works within one mount; two mounts of one file system are still two.
    """
    return state if _mount(root) == _mount(state) is not None else root / RESERVED


def _mount(directory: Path) -> str | None:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    finally:
        os.close(fd)
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)


def _merging(root: _Tree, staged: _Tree, below: str) -> Iterator[_Move]:
    """The moves of a merge: a directory on both sides is gone into, anything else moves as a whole."""
    for name in sorted(staged.names(below)):
        path = f"{below}/{name}" if below else name
        if staged.is_directory(path) and root.is_directory(path):
            yield from _merging(root, staged, path)
        else:
            yield _Move(path, comes=True)


def _do(root: Path, area: Path, journal: _Journal) -> None:
    with _Tree(root) as tree, _Tree(area / journal.staging) as staged, _Tree(area / journal.trash) as trash:
        for number, move in enumerate(journal.moves):
            if tree.exists(move.path):
                tree.move(move.path, trash, str(number))
            if move.comes:
                staged.move(move.path, tree, move.path)


def _undo(root: Path, area: Path, journal: _Journal) -> None:
    """Each move is undone by what is there to see, so that an undoing that was killed can be done again."""
    with _Tree(root) as tree, _Tree(area / journal.staging) as staged, _Tree(area / journal.trash) as trash:
        for number, move in reversed(list(enumerate(journal.moves))):
            if move.comes and not staged.exists(move.path) and tree.exists(move.path):
                tree.move(move.path, staged, move.path)
            if trash.exists(str(number)):
                trash.move(str(number), tree, move.path)


class _Tree:
    """A directory and what is below it, reached without following a link."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, DIRECTORY)
        self._directories = Directories(self._fd)

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._directories.close()
        os.close(self._fd)

    def names(self, path: str) -> list[str]:
        return os.listdir(self._directories.open(path))

    def exists(self, path: str) -> bool:
        return self._mode(path) is not None

    def is_directory(self, path: str) -> bool:
        mode = self._mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def move(self, path: str, other: _Tree, to: str) -> None:
        """Rename ``path`` to ``to`` in ``other``."""
        above, name = self._directories.of(path)
        target, new_name = other._directories.of(to)
        try:
            os.rename(name, new_name, src_dir_fd=above, dst_dir_fd=target)
        except PermissionError:
            # A directory that its owner may not write cannot change its "..": let it, for the moment.
            mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                raise
            os.chmod(name, 0o700, dir_fd=above)
            os.rename(name, new_name, src_dir_fd=above, dst_dir_fd=target)
            os.chmod(new_name, stat.S_IMODE(mode), dir_fd=target)

    def _mode(self, path: str) -> int | None:
        try:
            above, name = self._directories.of(path)
            return os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


def _write_journal(area: Path, journal: _Journal) -> None:
    """On the disk before the first move, and never half."""
    draft = area / _DRAFT
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(journal))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(area / _JOURNAL)
    _sync(area)


def _end_journal(area: Path) -> None:
    (area / _JOURNAL).unlink()
    _sync(area)


def _read_journal(area: Path) -> _Journal | None:
    try:
        return msgspec.json.decode((area / _JOURNAL).read_bytes(), type=_Journal)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _tidy(area: Path) -> None:
    fd = os.open(area, DIRECTORY)
    try:
        remove_trash(fd)
    finally:
        os.close(fd)
    if area.name == RESERVED:
        with contextlib.suppress(OSError):
            area.rmdir()
