"""Spares: trees of packages that were unfolded before anybody needs them, so that placing one is a rename.

    DIRECTORY/KEY-BOOT-HEX  a spare, whole: it was renamed to that name when its last byte was checked
    DIRECTORY/making-HEX    one being made, by who has the directory's lock; the next removes a killed one's

BOOT is the running system's: nobody waits until a spare is on the disk, so after a power cut one may be whole
by its names and empty inside. Those of another boot are never taken, and go with the next one that is made.

A spare has one owner, and the directory is for that one alone: nobody else can write to one, nor take it.
Whoever takes it renames it, which the file system grants to one only, and from then on it is not here any
more. No dev server's cache is in one: those are good for one root only. All functions block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from toolserver.system.copying import held
from toolserver.system.depstore.filling import Unfit
from toolserver.system.depstore.pack import Index
from toolserver.system.depstore.unfolding import is_carried, unfold_gently
from toolserver.system.directories import DIRECTORY
from toolserver.system.removal import PREFIX, remove_trash, trash_name

NAME = "spares"
"""Of the directory, in a store and in a tool server's own area."""
_MAKING = "making-"


@dataclass(frozen=True)
class Spares:
    """Those in ``directory``, which is made with the first one."""

    directory: Path

    def take(self, key: str, area: int, name: str) -> bool:
        """Move a spare of ``key`` to ``name`` in the directory ``area``; False when there is none for us.

        Raises OSError when there is one that cannot be moved there.
        """
        with contextlib.ExitStack() as stack:
            try:
                spares = stack.enter_context(held(os.open(self.directory, DIRECTORY)))
            except OSError:
                return False
            for each in _of(spares, key) if _is_ours(spares) else ():
                with contextlib.suppress(FileNotFoundError):  # another was quicker
                    os.rename(each, name, src_dir_fd=spares, dst_dir_fd=area)
                    return True
        return False

    def count(self, key: str) -> int:
        """How many there are."""
        with contextlib.suppress(OSError), held(os.open(self.directory, DIRECTORY)) as spares:
            return len(_of(spares, key))
        return 0

    def oldest_first(self) -> list[str]:
        """Of each spare its key."""
        found = []
        with contextlib.suppress(OSError), held(os.open(self.directory, DIRECTORY)) as spares:
            for name in _of(spares, None):
                with contextlib.suppress(FileNotFoundError):
                    found.append((os.stat(name, dir_fd=spares).st_ctime_ns, name.partition("-")[0]))
        return [key for _, key in sorted(found)]

    def make(self, key: str, pack: int, index: Index, stop: threading.Event) -> None:
        """One more, out of an open pack, in nobody's way; raises CorruptPack, Unfit, OSError."""
        if index.bound:
            raise Unfit(f"its packages are good for {index.root} only")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.directory) as spares:
            making = f"{_MAKING}{secrets.token_hex(8)}"
            os.mkdir(making, 0o755, dir_fd=spares)
            with held(os.open(making, DIRECTORY, dir_fd=spares)) as target:
                os.fchmod(target, 0o755)
                unfold_gently(pack, index, target, lambda path: not is_carried(path), stop)
            os.rename(making, f"{key}-{boot()}-{secrets.token_hex(8)}", src_dir_fd=spares, dst_dir_fd=spares)

    def tidy(self) -> None:
        """Remove what a killed one was making, unless somebody makes one now."""
        with contextlib.suppress(Unfit, OSError), _locked(self.directory):
            pass

    def drop(self, key: str | None = None) -> bool:
        """Remove one of ``key``, or all, those of another boot too; False when there was none."""
        found = False
        with contextlib.suppress(OSError), held(os.open(self.directory, DIRECTORY)) as spares:
            every = [name for name in os.listdir(spares) if not name.startswith((_MAKING, PREFIX))]
            for name in every if key is None else _of(spares, key)[:1]:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(name, trash_name(), src_dir_fd=spares, dst_dir_fd=spares)
                    found = True
            remove_trash(spares)
        return found


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """For one who makes; what a killed one was making goes, and at the end what this one has not finished."""
    with held(os.open(directory, DIRECTORY)) as spares:
        if not _is_ours(spares):
            raise Unfit("spares there are another user's")
        try:
            fcntl.flock(spares, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unfit("another makes one at this moment") from None
        _tidy(spares)
        try:
            yield spares
        finally:
            _tidy(spares)


def _is_ours(spares: int) -> bool:
    return os.fstat(spares).st_uid == os.geteuid()


def _tidy(spares: int) -> None:
    """What was not finished goes, and what is of another boot, for who has the lock."""
    for name in os.listdir(spares):
        if not _is_spare(name) and not name.startswith(PREFIX):
            os.rename(name, trash_name(), src_dir_fd=spares, dst_dir_fd=spares)
    remove_trash(spares)


def _of(spares: int, key: str | None) -> list[str]:
    """The names of spares, of one key or all."""
    return sorted(each for each in os.listdir(spares) if _is_spare(each, key))


def _is_spare(name: str, key: str | None = None) -> bool:
    """
    >>> name = f"ab-{boot()}-12"
    >>> _is_spare(name), _is_spare(name, "ab"), _is_spare(name, "a"), _is_spare("ab-00000000-12")
    (True, True, False, False)
    """
    match name.split("-"):
        case [begin, system, _]:
            return system == boot() and key in (None, begin)
    return False


@cache
def boot() -> str:
    """Which start of the system this is: the same for all processes until the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "unknown"


def is_shared_by_users(directory: Path) -> bool:
    """Whether users of one group fill it, each for all: what one owns is of no use to another.

    >>> is_shared_by_users(Path("/nowhere"))
    False
    """
    try:
        return bool(directory.stat().st_mode & stat.S_ISGID)
    except OSError:
        return False
