"""The registry of sessions: which there are, whose, how reached. One SQLite file, for its owner's eyes alone.

Every terminal and every orchestrator on this data directory reads and writes it. A connection lives for one
question, so it may be asked from any thread; a write waits for another's at most ``BUSY_SECONDS``. The
registry says what was intended; whether a sandbox lives is asked of its backend.
"""

from __future__ import annotations

import builtins
import enum
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from orchestrator.backends import Guest
from orchestrator.directories import private_directory
from orchestrator.paths import SessionId, UserId
from protocol.errors import Internal, NotFound

BUSY_SECONDS = 5.0
"""A write takes a millisecond; this is for a disk that stalls."""

# One script per version of the file; a later version adds one and never changes those before it.
_MIGRATIONS = (
    """
    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY,
        user_id TEXT NOT NULL,
        backend TEXT NOT NULL,
        state TEXT NOT NULL,
        template TEXT NOT NULL,
        token TEXT NOT NULL,
        tool_port INTEGER NOT NULL,
        dev_port INTEGER NOT NULL,
        created TEXT NOT NULL,
        guest BLOB
    ) STRICT;
    CREATE INDEX sessions_by_user ON sessions (user_id, created);
    """,
)


class State(enum.Enum):
    """A session's life, as intended."""

    CREATING = "creating"
    INITIALIZING = "initializing"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


LIVE = (State.CREATING, State.INITIALIZING, State.RUNNING, State.STOPPING)
"""States in which a session may hold ports and processes."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One session."""

    session_id: SessionId
    user_id: UserId
    backend: str
    state: State = State.CREATING
    template: str
    """What it was made from, as a person would name it."""
    token: str
    """The tool server's static token. In this file only, which nobody else may read."""
    tool_port: int
    dev_port: int
    """Inside the sandbox, as ``tool_port``; the backend says where they are from here."""
    created: str
    """ISO 8601 UTC."""
    guest: Guest | None = None
    """None until the backend made one."""


class Records:
    """The registry in ``path``; made when first used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, choose: Callable[[frozenset[int]], SessionRecord]) -> SessionRecord:
        """Keep a new session. ``choose`` makes it, knowing live sessions' ports; nobody else chooses then."""
        with self._writing() as db:
            rows = db.execute(f"SELECT tool_port, dev_port FROM sessions WHERE state IN {_LIVE_SQL}")
            record = choose(frozenset(port for row in rows for port in row if port))
            columns = msgspec.structs.asdict(record) | {"state": record.state.value, "guest": None}
            places = ", ".join(f":{name}" for name in columns)
            db.execute(f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({places})", columns)
        return record

    def set_guest(self, session_id: str, guest: Guest) -> None:
        """The backend made it, with these ports."""
        with self._writing() as db:
            db.execute(
                "UPDATE sessions SET guest = ?, tool_port = ?, dev_port = ? WHERE session_id = ?",
                (msgspec.json.encode(guest), guest.tool_port, guest.dev_port, session_id),
            )

    def set_state(self, session_id: str, state: State) -> None:
        """What is intended now."""
        with self._writing() as db:
            db.execute("UPDATE sessions SET state = ? WHERE session_id = ?", (state.value, session_id))

    def remove(self, session_id: str) -> None:
        """Forget it."""
        with self._writing() as db:
            db.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))

    def get(self, user_id: UserId, session_id: str) -> SessionRecord:
        """The user's session. Raises NotFound, also for another user's: it tells nobody that there is one."""
        query = "SELECT * FROM sessions WHERE session_id = ? AND user_id = ?"
        rows = self._read(query, (session_id, user_id))
        if not rows:
            raise NotFound(
                f"no session {session_id!r}; `workspace ls --all` shows which there are", sessionId=session_id
            )
        return rows[0]

    def list(self, user_id: UserId, *, stopped: bool = False) -> list[SessionRecord]:
        """The user's sessions, oldest first; with ``stopped``, those that are over too."""
        where = "" if stopped else f" AND state IN {_LIVE_SQL}"
        query = f"SELECT * FROM sessions WHERE user_id = ?{where} ORDER BY created, session_id"
        return self._read(query, (user_id,))

    def _read(self, query: str, values: tuple[str, ...]) -> builtins.list[SessionRecord]:
        if not self._path.exists():  # asking changes nothing
            return []
        with self._open() as db:
            return [_record(row) for row in db.execute(query, values)]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        private_directory(self._path.parent)
        if not self._path.exists():
            # Before SQLite does, with the umask's mode; its journal and memory files then get this mode too.
            self._path.touch(mode=0o600)
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            _migrate(db)
            yield db
        finally:
            db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


_LIVE_SQL = "(" + ", ".join(f"'{state.value}'" for state in LIVE) + ")"


def _migrate(db: sqlite3.Connection) -> None:
    version = _version(db)
    if version == len(_MIGRATIONS):
        return
    if version > len(_MIGRATIONS):
        raise Internal(
            f"the registry is of version {version}, this program knows up to {len(_MIGRATIONS)}: "
            "upgrade workspace-core, or choose another data directory by DATA_DIR"
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN EXCLUSIVE")
    for script in _MIGRATIONS[_version(db) :]:  # asked again: another may just have done it
        for statement in filter(str.strip, script.split(";")):
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _record(row: sqlite3.Row) -> SessionRecord:
    values = dict(row)
    values["guest"] = msgspec.json.decode(row["guest"], type=Guest) if row["guest"] else None
    return msgspec.convert(values, SessionRecord)
