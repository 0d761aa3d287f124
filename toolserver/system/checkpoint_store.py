"""The past of the tree, in one SQLite file of the daemon's own: contents by their hash, and who was when.

    whole point    a checkpoint: every path's version has the interval of points in which it was so
    partial point  before a request of ours changed some paths: what these were (``befores``)

A point is there whole or not at all, and a kill at any instant leaves the file readable: SQLite's
write-ahead log sees to that. Checkpoints that were asked for are synced to the disk; partial points are not,
so a power cut may take the newest of them. Contents are read back only if their hash is still theirs.
Methods block, and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from protocol.errors import Conflict, NoSpace, Unavailable
from protocol.limits import Limits
from toolserver.system.past import ABSENT, State

if TYPE_CHECKING:
    import sqlite3

_FILE = "checkpoints.db"
_VERSION = 1
_SCHEMA = """
CREATE TABLE points(
    id INTEGER PRIMARY KEY AUTOINCREMENT, whole INTEGER NOT NULL, name TEXT, cause TEXT NOT NULL,
    request TEXT, created INTEGER NOT NULL, files INTEGER NOT NULL, stored INTEGER NOT NULL, unkept TEXT,
    undoes INTEGER, undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE blobs(
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, stored INTEGER NOT NULL,
    packed INTEGER NOT NULL);
CREATE TABLE contents(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE versions(
    path BLOB NOT NULL, since INTEGER NOT NULL, until INTEGER, mode INTEGER NOT NULL, size INTEGER NOT NULL,
    content BLOB, inode INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
    PRIMARY KEY(path, since)) WITHOUT ROWID;
CREATE TABLE befores(
    path BLOB NOT NULL, point INTEGER NOT NULL, mode INTEGER NOT NULL, size INTEGER NOT NULL, content BLOB,
    inode INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
    after_mode INTEGER, after_size INTEGER, after_inode INTEGER, after_modified INTEGER,
    after_changed INTEGER,
    PRIMARY KEY(path, point)) WITHOUT ROWID;
CREATE INDEX befores_of ON befores(point);
CREATE TABLE facts(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_WORTH_PACKING_BYTES = 256
_WORTH = 0.9
"""Of a content's size: packed to more than that, it is kept as it is and read more quickly."""
_ROOM = 0.9
"""Down to this part of a bound, so that not every point pays for making room."""
_ROWS = "mode, size, content, inode, modified, changed"
_BUSY_MS = 10_000


class Point(NamedTuple):
    """A row of ``points``."""

    id: int
    whole: bool
    name: str | None
    cause: str
    request: str | None
    created: int
    """Nanoseconds since 1970."""
    files: int
    stored: int
    """Bytes that were new with it, as kept."""
    unkept: str | None
    """Why not everything is kept with it; None when it is."""
    undoes: int | None = None
    undone: bool = False


class Link(NamedTuple):
    """One touch of a path by a request of ours: what it was before and, when that is known, after."""

    point: int
    before: State
    after: State | None


class Damaged(Conflict):
    """A kept content is other than it was."""


class Store:
    """The file, opened when first needed."""

    def __init__(self, state: Path, limits: Limits) -> None:
        self._state = state
        self._limits = limits
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._bytes = 0
        self.set_aside: str | None = None
        """Where an unreadable file of an earlier run was put."""
        self._known: dict[str, State] | None = None
        self._capturing = 0
        self.generation = 0
        """Another one whenever contents went that somebody may have counted on."""

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # ---- contents

    def put(self, contents: Iterable[bytes]) -> None:
        """Keep these, each once."""
        with self.changing() as db:
            for data in contents:
                self._put(db, data)

    def get(self, digest: bytes, path: str = "") -> bytes:
        """A content. Raises Damaged."""
        with self._told(), self._lock:
            row = (
                self._db()
                .execute("SELECT packed, data FROM blobs JOIN contents USING (id) WHERE hash = ?", (digest,))
                .fetchone()
            )
        data = _unpacked(*row) if row is not None else None
        if data is None or hashlib.sha256(data).digest() != digest:
            raise Damaged(
                f"the kept content of {path!r} is damaged: its hash is not what it was; nothing was changed. "
                "Name other 'paths', or another checkpoint",
                path=path,
            )
        return data

    def size_of(self, digest: bytes) -> int | None:
        """Bytes of a content; None when it is not kept."""
        with self._told(), self._lock:
            row = self._db().execute("SELECT size FROM blobs WHERE hash = ?", (digest,)).fetchone()
        return None if row is None else int(row[0])

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """While contents are kept for a point that is not there yet: none of them goes."""
        with self._lock:
            self._capturing += 1
        try:
            yield
        finally:
            with self._lock:
                self._capturing -= 1

    # ---- whole points

    def known(self) -> dict[str, State]:
        """The versions of the newest whole point; do not change it."""
        with self._told(), self._lock:
            if self._known is None:
                rows = self._db().execute(f"SELECT path, {_ROWS} FROM versions WHERE until IS NULL")
                self._known = _states(rows)
            return self._known

    def add_whole(self, new: Point, changed: Mapping[str, State]) -> Point:
        """A whole point: as the newest of them, but for these paths (ABSENT: gone). ``new`` needs no id."""
        known = self.known()
        merged = {**known, **changed} if changed else known
        with self.changing(durable=True) as db:
            number = self._add(db, new)
            db.executemany(
                "UPDATE versions SET until = ? WHERE path = ? AND until IS NULL",
                [(number, os.fsencode(path)) for path in changed if path in known],
            )
            db.executemany(
                f"INSERT INTO versions(path, since, {_ROWS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(path, number, state) for path, state in changed.items() if state.exists],
            )
        with self._lock:
            self._known = {path: state for path, state in merged.items() if state.exists}
        return self.point(number)

    def tree_at(self, number: int) -> dict[str, State]:
        """Every path of a whole point."""
        with self._told(), self._lock:
            rows = self._db().execute(
                f"SELECT path, {_ROWS} FROM versions WHERE since <= ?1 AND (until IS NULL OR until > ?1)",
                (number,),
            )
            return _states(rows)

    # ---- partial points

    def add_partial(
        self,
        cause: str,
        request: str,
        befores: Mapping[str, State],
        *,
        stored: int = 0,
        undoes: int | None = None,
        unkept: str | None = None,
    ) -> int:
        """What some paths are, before they change."""
        with self.changing() as db:
            files = sum(state.is_file for state in befores.values())
            now = time.time_ns()
            number = self._add(db, Point(0, False, None, cause, request, now, files, stored, unkept, undoes))
            db.executemany(
                f"INSERT INTO befores(path, point, {_ROWS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(path, number, state) for path, state in befores.items()],
            )
        return number

    def settle(self, number: int, afters: Mapping[str, State]) -> None:
        """What these paths are, once they have changed."""
        with self.changing() as db:
            db.executemany(
                "UPDATE befores SET after_mode = ?, after_size = ?, after_inode = ?, after_modified = ?,"
                " after_changed = ? WHERE path = ? AND point = ?",
                [
                    (state.mode, state.size, *state.identity, os.fsencode(path), number)
                    for path, state in afters.items()
                ],
            )

    def forget(self, number: int) -> None:
        """A partial point whose change did not happen."""
        with self.changing() as db:
            db.execute("DELETE FROM befores WHERE point = ?", (number,))
            db.execute("DELETE FROM points WHERE id = ?", (number,))

    def befores(self, number: int) -> dict[str, State]:
        """What the paths of a partial point were."""
        with self._told(), self._lock:
            return _states(
                self._db().execute(f"SELECT path, {_ROWS} FROM befores WHERE point = ?", (number,))
            )

    def before_all(self, number: int) -> dict[str, State]:
        """What every path was at ``number`` that this partial point or a later one has touched."""
        with self._told(), self._lock:
            rows = self._db().execute(
                f"SELECT path, {_ROWS}, min(point) FROM befores WHERE point >= ? GROUP BY path", (number,)
            )
            return _states(row[:7] for row in rows)

    def touches(self, path: str, number: int) -> list[Link]:
        """The touches of a path from this point on, in order."""
        with self._told(), self._lock:
            rows = self._db().execute(
                f"SELECT point, {_ROWS}, after_mode, after_size, after_inode, after_modified, after_changed"
                " FROM befores WHERE path = ? AND point >= ? ORDER BY point",
                (os.fsencode(path), number),
            )
            return [Link(row[0], _state(row[1:7]), _after(row[7:])) for row in rows]

    def mark_undone(self, number: int, undone: bool) -> None:
        """That an undo has taken this point back, or that this is so no more."""
        with self.changing() as db:
            db.execute("UPDATE points SET undone = ? WHERE id = ?", (undone, number))

    # ---- all points

    def points(self) -> list[Point]:
        """All, the oldest first."""
        with self._told(), self._lock:
            return [_point(row) for row in self._db().execute(f"SELECT {_POINT} FROM points ORDER BY id")]

    def point(self, number: int) -> Point:
        """One of them; LookupError."""
        with self._told(), self._lock:
            row = self._db().execute(f"SELECT {_POINT} FROM points WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise LookupError(number)
        return _point(row)

    def bytes_kept(self) -> int:
        """Of all contents, as kept."""
        with self._told(), self._lock:
            self._db()
            return self._bytes

    def dropped(self) -> int:
        """How many points have gone to make room, ever."""
        with self._told(), self._lock:
            row = self._db().execute("SELECT value FROM facts WHERE name = 'dropped'").fetchone()
        return int(row[0]) if row else 0

    def is_over(self) -> bool:
        """Whether something has to go."""
        with self._told(), self._lock:
            row = self._db().execute("SELECT count(*), coalesce(sum(whole), 0) FROM points").fetchone()
        limits = self._limits
        return (
            row[0] - row[1] > limits.max_kept_edits
            or row[1] > limits.max_checkpoints
            or self._bytes > limits.max_checkpoint_bytes
        )

    def shrink(self) -> list[Point]:
        """Drop the oldest points past the bounds, partial ones first, never the newest; which those were."""
        with self._lock:
            if self._capturing:
                return []
            dropped: list[Point] = []
            points = self.points()
            for whole, most in ((False, self._limits.max_kept_edits), (True, self._limits.max_checkpoints)):
                these = [each for each in points if each.whole == whole]
                if len(these) > most:
                    dropped += these[: len(these) - int(most * _ROOM)]
            if dropped:
                self._drop(dropped)
            if not dropped and self._bytes > self._limits.max_checkpoint_bytes:
                self._drop([])  # what was looked at and never kept
            while self._bytes > self._limits.max_checkpoint_bytes and (more := self._oldest()):
                self._drop(more)
                dropped += more
            return dropped

    def bytes_of(self, digests: Iterable[bytes]) -> int:
        """Of these contents, as kept."""
        with self._told(), self._lock:
            db = self._db()
            rows = (
                db.execute("SELECT stored FROM blobs WHERE hash = ?", (each,)).fetchone() for each in digests
            )
            return sum(row[0] for row in rows if row)

    def _oldest(self) -> list[Point]:
        """What goes next: some of the partial points, else one whole one."""
        points = self.points()
        partial = [each for each in points if not each.whole][:-1]
        if partial:
            return partial[: max(1, len(partial) // 4)]
        return [each for each in points if each.whole][:-1][:1]

    def _drop(self, points: list[Point]) -> None:
        with self.changing() as db:
            numbers = [(each.id,) for each in points]
            db.executemany("DELETE FROM points WHERE id = ?", numbers)
            db.executemany("DELETE FROM befores WHERE point = ?", numbers)
            if any(each.whole for each in points):
                db.execute(
                    "DELETE FROM versions WHERE NOT EXISTS (SELECT 1 FROM points WHERE whole"
                    " AND id >= since AND (until IS NULL OR id < until))"
                )
            db.execute(
                "DELETE FROM blobs WHERE hash NOT IN (SELECT content FROM versions WHERE content NOT NULL"
                " UNION ALL SELECT content FROM befores WHERE content NOT NULL)"
            )
            db.execute("DELETE FROM contents WHERE id NOT IN (SELECT id FROM blobs)")
            db.execute(
                "INSERT INTO facts VALUES ('dropped', ?1) ON CONFLICT(name) DO UPDATE SET value = value + ?1",
                (len(points),),
            )
            self._bytes = _total(db)
        self._known = None
        self.generation += 1
        with self._told():
            self._db().execute("PRAGMA incremental_vacuum").fetchall()

    # ---- the file

    @contextlib.contextmanager
    def changing(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; ``durable`` has it on the disk when it is over. May be nested."""
        with self._told(), self._lock:
            db = self._db()
            if db.in_transaction:
                yield db
                return
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            before = self._bytes
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                self._bytes, self._known = before, None
                with contextlib.suppress(Exception):
                    db.execute("ROLLBACK")
                raise

    def _put(self, db: sqlite3.Connection, data: bytes) -> None:
        digest = hashlib.sha256(data).digest()
        if db.execute("SELECT 1 FROM blobs WHERE hash = ?", (digest,)).fetchone():
            return
        packed, kept = _packed(data)
        cursor = db.execute(
            "INSERT INTO blobs(hash, size, stored, packed) VALUES (?, ?, ?, ?)",
            (digest, len(data), len(kept), packed),
        )
        db.execute("INSERT INTO contents VALUES (?, ?)", (cursor.lastrowid, kept))
        self._bytes += len(kept)

    def _add(self, db: sqlite3.Connection, new: Point) -> int:
        cursor = db.execute(
            "INSERT INTO points(whole, name, cause, request, created, files, stored, unkept, undoes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            new[1:10],
        )
        return int(cursor.lastrowid or 0)

    def _give_up(self) -> None:
        with self._lock:
            self.close()
            self._known = None
            self.generation += 1
            self.set_aside = _put_aside(self._state / _FILE)

    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            import sqlite3

            path = self._state / _FILE
            try:
                self._connection = _opened(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self.set_aside = _put_aside(path)
                self._connection = _opened(path)
            self._bytes = _total(self._connection)
        return self._connection

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        import sqlite3

        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise NoSpace("no space is left for checkpoints; nothing was changed") from None
            raise Unavailable(f"checkpoints cannot be kept: {error}; look at {self._state}") from error
        except sqlite3.DatabaseError as error:
            self._give_up()
            raise Unavailable(
                f"the kept checkpoints cannot be read ({error}); nothing was changed. They are set aside as "
                f"{self.set_aside!r}, and new ones are kept from now on"
            ) from error


_POINT = "id, whole, name, cause, request, created, files, stored, unkept, undoes, undone"


def _opened(path: Path) -> sqlite3.Connection:
    import sqlite3

    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"version {version} of checkpoints is not known")
    except BaseException:
        db.close()
        raise
    return db


def _put_aside(path: Path) -> str:
    name = f"damaged-{time.time_ns():x}-{path.name}"
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{end}", path.with_name(name + end))
    return name


def _total(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(sum(stored), 0) FROM blobs").fetchone()[0])


def _packed(data: bytes) -> tuple[bool, bytes]:
    """Whether it pays to pack it, and what is kept."""
    if len(data) < _WORTH_PACKING_BYTES:
        return False, data
    import zstandard

    packed = zstandard.ZstdCompressor(level=1).compress(data)
    return (True, packed) if len(packed) < _WORTH * len(data) else (False, data)


def _unpacked(packed: int, data: object) -> bytes | None:
    """The content; None when it is none."""
    if not isinstance(data, bytes):
        return None
    if not packed:
        return data
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError:
        return None


def _row(path: str, number: int, state: State) -> tuple[object, ...]:
    return os.fsencode(path), number, state.mode, state.size, state.content, *state.identity


def _states(rows: Iterable[Any]) -> dict[str, State]:
    return {os.fsdecode(row[0]): _state(row[1:]) for row in rows}


def _state(row: Any) -> State:
    mode, size, content, *identity = row
    return State(mode, size, content, (identity[0], identity[1], identity[2])) if mode else ABSENT


def _after(row: Any) -> State | None:
    mode, size, *identity = row
    if mode is None:
        return None
    return State(mode, size, None, (identity[0], identity[1], identity[2])) if mode else ABSENT


def _point(row: Any) -> Point:
    number, whole, name, cause, request, created, files, stored, unkept, undoes, undone = row
    return Point(
        number, bool(whole), name, cause, request, created, files, stored, unkept, undoes, bool(undone)
    )
