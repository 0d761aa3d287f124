"""The registry's tables, version by version; a later version adds a step and never changes those before it.

Imported only when a file is behind: what carries the steps out costs a command a tenth of a second. All steps
that a file lacks are one transaction, which others wait for; killed in the middle, it was never there.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

registry = Migrations("registry")


@registry()
def m001_sessions(db: Database) -> None:
    """Which sessions there are. Files of this version have the table, and no record of the step."""
    _run(
        db,
        """
        CREATE TABLE IF NOT EXISTS sessions (
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
        CREATE INDEX IF NOT EXISTS sessions_by_user ON sessions (user_id, created);
        """,
    )


@registry()
def m002_workspaces_and_leases(db: Database) -> None:
    """A file tree's identity apart from its runs; who is at work on which session.

    What was begun before becomes a workspace of the same id: so its saves stay where they are.
    """
    _run(
        db,
        """
        CREATE TABLE workspaces (
            workspace_id TEXT PRIMARY KEY,
            user_id TEXT NOT NULL,
            template TEXT NOT NULL,
            created TEXT NOT NULL,
            used TEXT NOT NULL
        ) STRICT;
        CREATE INDEX workspaces_by_user ON workspaces (user_id, created);
        ALTER TABLE sessions ADD COLUMN workspace_id TEXT NOT NULL DEFAULT '';
        ALTER TABLE sessions ADD COLUMN reason TEXT NOT NULL DEFAULT '';
        ALTER TABLE sessions ADD COLUMN has_work INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE sessions ADD COLUMN discards INTEGER NOT NULL DEFAULT 0;
        UPDATE sessions SET workspace_id = session_id,
            has_work = state NOT IN ('creating', 'initializing');
        INSERT INTO workspaces (workspace_id, user_id, template, created, used)
            SELECT session_id, user_id, template, created, created FROM sessions;
        CREATE INDEX sessions_by_workspace ON sessions (workspace_id);
        CREATE TABLE leases (
            session_id TEXT PRIMARY KEY,
            holder TEXT NOT NULL,
            purpose TEXT NOT NULL,
            expires REAL NOT NULL
        ) STRICT;
        """,
    )


@registry()
def m003_plans(db: Database) -> None:
    """What of a session's launch holds whenever it is started again; earlier ones had nothing kept."""
    _run(db, "ALTER TABLE sessions ADD COLUMN plan BLOB")


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the file to ``version``, within the transaction that ``db`` is in."""
    registry.apply(Database(db, recursive_triggers=False, execute_plugins=False))
    db.execute(f"PRAGMA user_version = {version:d}")


def _run(db: Database, script: str) -> None:
    # One by one: ``executescript`` would end the transaction.
    for statement in filter(str.strip, script.split(";")):
        db.execute(statement)
