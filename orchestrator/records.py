"""The registry of sessions: which there are, whose, how reached. One SQLite file, for its owner's eyes alone.

Every terminal and every orchestrator on this data directory reads and writes it. A connection lives for one
question, so it may be asked from any thread; a write waits for another's at most ``BUSY_SECONDS``. The
registry says what was intended; whether a sandbox lives is asked of its backend. On a full disk it is still
read, and a session in it still ended: that is how room is made.
"""

from __future__ import annotations

import builtins
import enum
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator.backends import Guest
from orchestrator.directories import private_directory
from orchestrator.paths import SessionId, UserId, WorkspaceId
from protocol.errors import Busy, Internal, NoSpace, NotFound, ToolError, Unavailable
from protocol.limits import MIB

T = TypeVar("T")

BUSY_SECONDS = 5.0
"""A write takes a millisecond; this is for a disk that stalls."""
FULL_BYTES = MIB
"""A disk with less room is taken for full: the memory file alone, that WAL shares, takes 32 KiB."""

VERSION = 2
"""Of the file; ``migrations`` has a step for each. Kept here: a file that is not behind costs no import."""


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
    workspace_id: WorkspaceId
    """Of the file tree that it is a run of; what saves are keyed by."""
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
    reason: str = ""
    """Why it is an error; empty in every other state."""
    has_work: bool = False
    """Its files may be somebody's work: whatever fails, they are kept."""
    discards: bool = False
    """While it stops: its files shall go."""


class WorkspaceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One file tree's identity. It outlives its sessions."""

    workspace_id: WorkspaceId
    user_id: UserId
    template: str
    """What it was first made from, as a person would name it."""
    created: str
    """ISO 8601 UTC."""
    used: str
    """When a session of it last began, likewise."""


@dataclass(frozen=True)
class _Way:
    """How the file is opened, and what is said to SQLite first."""

    query: str = ""
    pragmas: tuple[str, ...] = ()


_USUAL = _Way()
_TO_WRITE = _Way(pragmas=("journal_mode = WAL",))
"""Said each time: a write on a full disk left another mode behind."""
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


class Records:
    """The registry in ``path``; made when first used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, choose: Callable[[frozenset[int]], SessionRecord]) -> SessionRecord:
        """Keep a new session. ``choose`` makes it, knowing live sessions' ports; nobody else chooses then."""

        def added(db: sqlite3.Connection) -> SessionRecord:
            rows = db.execute(f"SELECT tool_port, dev_port FROM sessions WHERE state IN {_LIVE_SQL}")
            record = choose(frozenset(port for row in rows for port in row if port))
            columns = msgspec.structs.asdict(record) | {"state": record.state.value, "guest": None}
            places = ", ".join(f":{name}" for name in columns)
            db.execute(f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({places})", columns)
            db.execute(_USE_WORKSPACE, columns)
            return record

        return self._ask(lambda db: _in_transaction(db, added), _WRITE)

    def set_guest(self, session_id: str, guest: Guest) -> None:
        """The backend made it, with these ports."""
        change = "UPDATE sessions SET guest = ?, tool_port = ?, dev_port = ? WHERE session_id = ?"
        encoded = msgspec.json.encode(guest)
        self._change(_WRITE, change, (encoded, guest.tool_port, guest.dev_port, session_id))

    def set_state(self, session_id: str, state: State) -> None:
        """What is intended now."""
        change = "UPDATE sessions SET state = ? WHERE session_id = ?"
        self._change(_WRITE_ANYHOW, change, (state.value, session_id))

    def remove(self, session_id: str) -> None:
        """Forget it."""
        self._change(_WRITE_ANYHOW, "DELETE FROM sessions WHERE session_id = ?", (session_id,))

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

    def workspaces(self, user_id: UserId) -> builtins.list[WorkspaceRecord]:
        """The user's workspaces, oldest first."""
        query = "SELECT * FROM workspaces WHERE user_id = ? ORDER BY created, workspace_id"
        return self._ask_if_there(lambda db: [_workspace(row) for row in db.execute(query, (user_id,))])

    def workspace(self, user_id: UserId, workspace_id: str) -> WorkspaceRecord:
        """The user's workspace. Raises NotFound, also for another user's."""
        found = [each for each in self.workspaces(user_id) if each.workspace_id == workspace_id]
        if not found:
            raise NotFound(f"no workspace {workspace_id!r}", workspaceId=workspace_id)
        return found[0]

    def _read(self, query: str, values: tuple[str, ...]) -> builtins.list[SessionRecord]:
        return self._ask_if_there(lambda db: [_record(row) for row in db.execute(query, values)])

    def _ask_if_there(self, work: Callable[[sqlite3.Connection], builtins.list[T]]) -> builtins.list[T]:
        if not self._path.exists():  # asking changes nothing
            return []
        return self._ask(work, _READ)

    def _change(self, ways: Sequence[_Way], change: str, values: tuple[object, ...]) -> None:
        self._ask(lambda db: _in_transaction(db, lambda db: db.execute(change, values)), ways)

    def _ask(self, work: Callable[[sqlite3.Connection], T], ways: Sequence[_Way]) -> T:
        """What ``work`` gives, by the first way that the disk allows; else why the usual one failed."""
        errors: builtins.list[sqlite3.Error] = []
        for way in ways:
            try:
                with self._open(way) as db:
                    return work(db)
            except sqlite3.Error as error:
                errors.append(error)
                if _is_busy(error):
                    break  # whoever else is in there, another way in is none
        raise _unusable(self._path, errors[0]) from errors[0]

    @contextmanager
    def _open(self, way: _Way) -> Iterator[sqlite3.Connection]:
        private_directory(self._path.parent)
        if not self._path.exists():
            # Before SQLite does, with the umask's mode; its journal and memory files then get this mode too.
            self._path.touch(mode=0o600)
        uri = f"{self._path.absolute().as_uri()}{way.query}"
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            for pragma in way.pragmas:
                db.execute(f"PRAGMA {pragma}")
            _migrate(db)
            yield db
        finally:
            db.close()


def _in_transaction(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
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


_LIVE_SQL = "(" + ", ".join(f"'{state.value}'" for state in LIVE) + ")"


_USE_WORKSPACE = """
    INSERT INTO workspaces (workspace_id, user_id, template, created, used)
    VALUES (:workspace_id, :user_id, :template, :created, :created)
    ON CONFLICT (workspace_id) DO UPDATE SET used = max(used, excluded.used)
"""


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


def _record(row: sqlite3.Row) -> SessionRecord:
    values = dict(row)
    values["guest"] = msgspec.json.decode(row["guest"], type=Guest) if row["guest"] else None
    values |= {name: bool(row[name]) for name in ("has_work", "discards")}  # SQLite has no truth values
    return msgspec.convert(values, SessionRecord)


def _workspace(row: sqlite3.Row) -> WorkspaceRecord:
    return msgspec.convert(dict(row), WorkspaceRecord)
