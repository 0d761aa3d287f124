"""The registry of sessions: which there are, whose, how reached, who is at work on them.

It says what was intended; whether a sandbox lives is asked of its backend. Each method is one transaction:
what it read is what it changes, so of two orchestrators at once the second meets what the first has made.
"""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.backends import Guest
from orchestrator.leases import Holder, Lease, Purpose, may_take, refusal
from orchestrator.paths import SessionId, UserId, WorkspaceId, is_plain_name
from orchestrator.plan import KeptPlan
from orchestrator.registry import Registry
from orchestrator.session_states import BETWEEN, LIVE, Event, State, after
from protocol.errors import Conflict, NotFound

__all__ = ["LIVE", "Event", "Records", "SessionRecord", "State", "WorkspaceRecord"]

IsOver = Callable[[Lease], bool]
"""Whether nobody is at work under a lease any more."""
Change = Callable[[frozenset[int], "SessionRecord"], "SessionRecord"]
"""A record as it is to be from now on; the ports of live sessions are known to it."""


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
    plan: KeptPlan | None = None
    """What of its launch holds whenever it is started; None when nothing was planned."""


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


class Records:
    """The registry in ``path``; made when first used."""

    def __init__(self, path: Path) -> None:
        self._registry = Registry(path)

    def kept_open(self) -> AbstractContextManager[None]:
        """For one who stays: see ``Registry.kept_open``."""
        return self._registry.kept_open()

    def add(
        self, choose: Callable[[frozenset[int]], SessionRecord], lease: Lease | None = None
    ) -> SessionRecord:
        """Keep a new session. ``choose`` makes it, knowing live sessions' ports; nobody else chooses then.

        Raises Conflict when another session of its workspace is live.
        """

        def added(db: sqlite3.Connection) -> SessionRecord:
            record = choose(_ports(db))
            _refuse_company(db, record)
            columns = _columns(record)
            places = ", ".join(f":{name}" for name in columns)
            db.execute(f"INSERT INTO sessions ({', '.join(columns)}) VALUES ({places})", columns)
            db.execute(_USE_WORKSPACE, columns)
            _put_lease(db, record.session_id, lease)
            return record

        return self._registry.write(added)

    def claim(
        self,
        session_id: str,
        lease: Lease,
        is_over: IsOver,
        event: Event | None = None,
        change: Change | None = None,
        seen: State | None = None,
    ) -> SessionRecord:
        """Become the one who is at work on a session, and make its first move, if there is one.

        Raises Busy while another is at work on it, Conflict where the table of states has no such move or the
        state is not the one ``seen``, and NotFound; then nothing has changed.
        """

        def claimed(db: sqlite3.Connection) -> SessionRecord:
            record = _of(db, session_id)
            _refuse_held(_lease(db, session_id), lease, record, is_over)
            if seen not in (None, record.state):
                raise Conflict(f"{session_id} is {record.state.value} by now", sessionId=session_id)
            if event is not None:
                record = msgspec.structs.replace(record, state=after(record.state, event, session_id))
            if change is not None:
                record = change(_ports(db, session_id), record)
            if event is Event.RESUME:
                _refuse_company(db, record)
                db.execute(_USE_WORKSPACE, _columns(record))
            _put_lease(db, session_id, lease)
            return _put(db, record)

        return self._registry.write(claimed, ending=lease.purpose is Purpose.STOP)

    def move(
        self,
        session_id: str,
        event: Event,
        by: Holder | None = None,
        *,
        release: bool = False,
        **changes: object,
    ) -> SessionRecord:
        """Make the move that the table of states has for ``event``; ``changes`` are other fields.

        Raises Conflict when it has none, or when another than ``by`` is at work on the session.
        """

        def moved(db: sqlite3.Connection) -> SessionRecord:
            record = _of(db, session_id)
            if by is not None:
                _refuse_other(_lease(db, session_id), by, session_id)
            state = after(record.state, event, session_id)
            if release:
                _put_lease(db, session_id, None)
            return _put(db, msgspec.structs.replace(record, state=state, **changes))

        return self._registry.write(moved, ending=event not in _BEGINNING)

    def release(self, session_id: str, holder: Holder) -> None:
        """``holder`` is no longer at work on it."""
        done = "DELETE FROM leases WHERE session_id = ? AND holder = ?"
        self._registry.write(lambda db: db.execute(done, (session_id, str(holder))), ending=True)

    def renew(self, holder: Holder, expires: float) -> None:
        """All that ``holder`` is at work on it goes on with."""
        more = "UPDATE leases SET expires = ? WHERE holder = ?"
        self._registry.write(lambda db: db.execute(more, (expires, str(holder))))

    def unattended(self, is_over: IsOver) -> builtins.list[SessionRecord]:
        """Everybody's sessions that are between two states while nobody is at work on them."""

        def found(db: sqlite3.Connection) -> builtins.list[SessionRecord]:
            records = [
                _record(row) for row in db.execute(f"SELECT * FROM sessions WHERE state IN {_BETWEEN_SQL}")
            ]
            held = {record.session_id: _lease(db, record.session_id) for record in records}
            return [each for each in records if (lease := held[each.session_id]) is None or is_over(lease)]

        return self._registry.read(found)

    def remove(self, session_id: str, *, keep_workspace: bool = False) -> None:
        """Forget it; and its workspace, unless that has another session or is to be kept."""

        def removed(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM leases WHERE session_id = ?", (session_id,))
            if not keep_workspace:
                db.execute(_FORGET_WORKSPACE, {"session_id": session_id})
            db.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))

        self._registry.write(removed, ending=True)

    def get(self, user_id: UserId, session_id: str) -> SessionRecord:
        """The user's session. Raises NotFound, also for another user's: it tells nobody that there is one."""
        query = "SELECT * FROM sessions WHERE session_id = ? AND user_id = ?"
        plain = is_plain_name(session_id) and is_plain_name(user_id)
        rows = self._read(query, (session_id, user_id)) if plain else []
        if not rows:
            shown = session_id[:200]
            raise NotFound(
                f"no session {shown!r}; `workspace ls --all` shows which there are", sessionId=shown
            )
        return rows[0]

    def list(self, user_id: UserId, *, stopped: bool = False) -> list[SessionRecord]:
        """The user's sessions, oldest first; with ``stopped``, those that are over too."""
        where = "" if stopped else f" AND state IN {_LIVE_SQL}"
        query = f"SELECT * FROM sessions WHERE user_id = ?{where} ORDER BY created, session_id"
        return self._read(query, (user_id,)) if is_plain_name(user_id) else []

    def running(self) -> builtins.list[SessionRecord]:
        """Everybody's sessions that run as far as it is known here."""
        query = "SELECT * FROM sessions WHERE state = ? ORDER BY created, session_id"
        return self._read(query, (State.RUNNING.value,))

    def workspaces(self, user_id: UserId) -> builtins.list[WorkspaceRecord]:
        """The user's workspaces, oldest first."""
        query = "SELECT * FROM workspaces WHERE user_id = ? ORDER BY created, workspace_id"
        if not is_plain_name(user_id):
            return []
        return self._registry.read(lambda db: [_workspace(row) for row in db.execute(query, (user_id,))])

    def workspace(self, user_id: UserId, workspace_id: str) -> WorkspaceRecord:
        """The user's workspace. Raises NotFound, also for another user's."""
        found = [each for each in self.workspaces(user_id) if each.workspace_id == workspace_id]
        if not found:
            shown = workspace_id[:200]
            raise NotFound(f"no workspace {shown!r}", workspaceId=shown)
        return found[0]

    def _read(self, query: str, values: tuple[str, ...]) -> builtins.list[SessionRecord]:
        return self._registry.read(lambda db: [_record(row) for row in db.execute(query, values)])


def _sql(states: Sequence[State]) -> str:
    """
    >>> _sql([State.RUNNING, State.ERROR])
    "('running', 'error')"
    """
    return "(" + ", ".join(f"'{state.value}'" for state in states) + ")"


_LIVE_SQL, _BETWEEN_SQL = _sql(LIVE), _sql(BETWEEN)
_DATA: dict[str, type[Any]] = {"guest": Guest, "plan": KeptPlan}
"""Columns of JSON, or nothing."""
_BEGINNING = (Event.MADE, Event.READY, Event.RESUME)


def _of(db: sqlite3.Connection, session_id: str) -> SessionRecord:
    row = db.execute("SELECT * FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
    if row is None:
        raise NotFound(f"{session_id} was removed meanwhile", sessionId=session_id)
    return _record(row)


def _put(db: sqlite3.Connection, record: SessionRecord) -> SessionRecord:
    columns = _columns(record)
    values = ", ".join(f"{name} = :{name}" for name in columns)
    db.execute(f"UPDATE sessions SET {values} WHERE session_id = :session_id", columns)
    return record


def _columns(record: SessionRecord) -> dict[str, object]:
    data = {name: msgspec.json.encode(value) if (value := getattr(record, name)) else None for name in _DATA}
    return msgspec.structs.asdict(record) | {"state": record.state.value} | data


def _ports(db: sqlite3.Connection, but_of: str = "") -> frozenset[int]:
    live = f"SELECT tool_port, dev_port FROM sessions WHERE state IN {_LIVE_SQL} AND session_id != ?"
    return frozenset(port for row in db.execute(live, (but_of,)) for port in row if port)


def _lease(db: sqlite3.Connection, session_id: str) -> Lease | None:
    row = db.execute("SELECT * FROM leases WHERE session_id = ?", (session_id,)).fetchone()
    return row and Lease(Holder.parse(row["holder"]), Purpose(row["purpose"]), row["expires"])


def _put_lease(db: sqlite3.Connection, session_id: str, lease: Lease | None) -> None:
    if lease is None:
        db.execute("DELETE FROM leases WHERE session_id = ?", (session_id,))
        return
    row = (session_id, str(lease.holder), lease.purpose.value, lease.expires)
    db.execute(
        "INSERT OR REPLACE INTO leases (session_id, holder, purpose, expires) VALUES (?, ?, ?, ?)", row
    )


def _refuse_held(held: Lease | None, wanted: Lease, record: SessionRecord, is_over: IsOver) -> None:
    if held is None or is_over(held) or (held.holder, held.purpose) == (wanted.holder, wanted.purpose):
        return
    if not may_take(held, wanted.purpose, record.state):
        raise refusal(record.session_id, held.purpose, held.holder.pid)


def _refuse_other(held: Lease | None, by: Holder, session_id: str) -> None:
    if held is not None and held.holder != by:
        raise Conflict(
            f"{session_id} was taken over by process {held.holder.pid}, which has it {held.purpose.value}",
            sessionId=session_id,
            pid=held.holder.pid,
        )


def _refuse_company(db: sqlite3.Connection, record: SessionRecord) -> None:
    """A workspace has one session at a time: two would overwrite each other's work."""
    query = (
        f"SELECT session_id FROM sessions WHERE workspace_id = ? AND session_id != ? AND state IN {_LIVE_SQL}"
    )
    other = db.execute(query, (record.workspace_id, record.session_id)).fetchone()
    if other is not None:
        raise Conflict(
            f"the workspace {record.workspace_id} has a session already: use {other[0]}, or end it by "
            f"`workspace down {other[0]}`",
            sessionId=other[0],
        )


_FORGET_WORKSPACE = """
    DELETE FROM workspaces WHERE workspace_id =
        (SELECT workspace_id FROM sessions WHERE session_id = :session_id)
    AND NOT EXISTS (SELECT 1 FROM sessions AS other
        WHERE other.workspace_id = workspaces.workspace_id AND other.session_id != :session_id)
"""


_USE_WORKSPACE = """
    INSERT INTO workspaces (workspace_id, user_id, template, created, used)
    VALUES (:workspace_id, :user_id, :template, :created, :created)
    ON CONFLICT (workspace_id) DO UPDATE SET used = max(used, excluded.used)
"""


def _record(row: sqlite3.Row) -> SessionRecord:
    values = dict(row)
    values |= {name: msgspec.json.decode(row[name], type=kind) for name, kind in _DATA.items() if row[name]}
    values |= {name: bool(row[name]) for name in ("has_work", "discards")}  # SQLite has no truth values
    return msgspec.convert(values, SessionRecord)


def _workspace(row: sqlite3.Row) -> WorkspaceRecord:
    return msgspec.convert(dict(row), WorkspaceRecord)
