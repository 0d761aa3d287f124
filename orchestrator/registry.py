"""The registry's file: opened, brought up to date, read and written, whatever the disk allows.

Every terminal and every orchestrator on this data directory uses it. A connection lives for one question, so
it may be asked from any thread; a write waits for another's at most ``BUSY_SECONDS``. On a full disk it is
still read, and what ends a session is still written: that is how room is made. What is in it: ``records``.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.directories import private_directory
from protocol.errors import Busy, Internal, NoSpace, ToolError, Unavailable
from protocol.limits import MIB

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

VERSION = 3
"""Of the file; ``migrations`` has a step for each. Kept here: a file that is not behind costs no import."""
BUSY_SECONDS = 5.0
"""A write takes a millisecond; this is for a disk that stalls."""
_PAUSE_SECONDS = 0.01
FULL_BYTES = MIB
"""A disk with less room is taken for full: the memory file alone, that WAL shares, takes 32 KiB."""


@dataclass(frozen=True)
class _Way:
    """How the file is opened, and what is said to SQLite first."""

    query: str = ""
    pragmas: tuple[str, ...] = ()


_USUAL = _Way()
_TO_WRITE = _Way(pragmas=("journal_mode = WAL", "synchronous = NORMAL"))
"""The mode is said each time: a write on a full disk left another one behind. A killed program loses nothing;
a power cut may take back the last moves, and then no process of theirs lives either."""
_ALONE = _Way(pragmas=("locking_mode = EXCLUSIVE",))
"""Without the shared memory file, which a full disk has no room for."""
_AS_IT_IS = _Way(query="?mode=ro&immutable=1")
"""Not even the journal is looked at: for a disk where nothing can be made at all."""
_IN_PLACE = _Way(pragmas=("locking_mode = EXCLUSIVE", "journal_mode = MEMORY"))
"""Pages are written over, and nothing beside them."""

_READ = (_USUAL, _ALONE, _AS_IT_IS)
_WRITE = (_TO_WRITE,)
_WRITE_ANYHOW = (_TO_WRITE, _IN_PLACE)
"""For what ends a session. One begun on a full disk had better fail at once."""


class Registry:
    """The file ``path``; made when first written to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """For one who writes often: else the last to close the file has to tidy up each time (1 ms)."""
        private_directory(self._path.parent)
        with self._open(_TO_WRITE) as db:
            db.execute("SELECT count(*) FROM sessions").fetchone()  # only now it takes part
            yield

    def read(self, work: Work[list[T]]) -> list[T]:
        """What ``work`` finds; nothing where there is no file. Asking changes nothing."""
        return self._ask(work, _READ) if self._path.exists() else []

    def write(self, work: Work[T], *, ending: bool = False) -> T:
        """What ``work`` gives, in one transaction; with ``ending`` on a full disk too."""
        return self._ask(lambda db: _in_transaction(db, work), _WRITE_ANYHOW if ending else _WRITE)

    def _ask(self, work: Work[T], ways: Sequence[_Way]) -> T:
        """What ``work`` gives, by the first way that the disk allows; else why the usual one failed.

        SQLite waits for others by itself, but not always: where two would wait for each other, one is refused
        at once, and asks again.
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            errors: list[sqlite3.Error] = []
            for way in ways:
                try:
                    with self._open(way) as db:
                        return work(db)
                except sqlite3.Error as error:
                    errors.append(error)
                    if _is_busy(error):
                        break  # whoever else is in there, another way in is none
            if not _is_busy(errors[-1]) or time.monotonic() > until:
                raise _unusable(self._path, errors[0]) from errors[0]
            time.sleep(_PAUSE_SECONDS)

    @contextmanager
    def _open(self, way: _Way) -> Iterator[sqlite3.Connection]:
        private_directory(self._path.parent)
        if not self._path.exists():
            # Before SQLite does, with the umask's mode; its journal and memory files then get this mode too.
            self._path.touch(mode=0o600)
        uri = f"{self._path.absolute().as_uri()}{way.query}"
        db = sqlite3.connect(
            uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            db.row_factory = sqlite3.Row
            for pragma in way.pragmas:
                db.execute(f"PRAGMA {pragma}")
            _migrate(db)
            yield db
        finally:
            db.close()


def _in_transaction(db: sqlite3.Connection, work: Work[T]) -> T:
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself has taken it back when the disk is full
            db.execute("ROLLBACK")
        raise
    return result


def _unusable(path: Path, error: sqlite3.Error) -> ToolError:
    """What a person can do about it."""
    name = _name(error)
    if name == "SQLITE_FULL" or shutil.disk_usage(path.parent).free < FULL_BYTES:
        return NoSpace(
            f"the disk of {path.parent} is full, so nothing can be written down: make room, for example by "
            "`workspace down SESSION --remove`, and run it again"
        )
    if _is_busy(error):
        return Busy(f"the registry {path} was in use for {BUSY_SECONDS:g} s on end; run it again")
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return Unavailable(
            f"the registry {path} is damaged ({error}): move it away; workspaces' files are kept beside it"
        )
    return Unavailable(f"the registry {path} cannot be used ({error}); `workspace doctor` may know why")


def _is_busy(error: sqlite3.Error) -> bool:
    return _name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "")  # our own misuse of sqlite3 has none


def _migrate(db: sqlite3.Connection) -> None:
    version = _version(db)
    if version == VERSION:
        return
    if version > VERSION:
        raise Internal(
            f"the registry is of version {version}, this program knows up to {VERSION}: "
            "upgrade workspace-core, or choose another data directory by DATA_DIR"
        )
    from orchestrator import migrations

    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN EXCLUSIVE")
    try:
        if _version(db) < VERSION:  # asked again: another may just have done it
            migrations.migrate(db, VERSION)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
