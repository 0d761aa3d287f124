"""The registry's file, from every earlier version to today's."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator import migrations
from orchestrator.paths import UserId
from orchestrator.records import Records, State
from orchestrator.registry import VERSION
from protocol.errors import ToolError

VERSION_1 = """
    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, backend TEXT NOT NULL, state TEXT NOT NULL,
        template TEXT NOT NULL, token TEXT NOT NULL, tool_port INTEGER NOT NULL, dev_port INTEGER NOT NULL,
        created TEXT NOT NULL, guest BLOB
    ) STRICT;
    CREATE INDEX sessions_by_user ON sessions (user_id, created);
    INSERT INTO sessions VALUES
        ('s1', 'ann', 'local', 'stopped', 'static-html', 't', 9000, 8000,
         '2026-11-20T09:00:00.000+00:00', NULL),
        ('s2', 'ann', 'local', 'initializing', 'node-api', 't', 9001, 8001,
         '2026-11-20T10:00:00.000+00:00', NULL);
    PRAGMA user_version = 1;
"""
ANN = UserId("ann")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A registry as the first version left it."""
    path = tmp_path / "sessions.sqlite3"
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    db.close()
    return path


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    db.close()
    return found


def test_each_version_has_its_step() -> None:
    assert len(migrations.registry._migrations) == VERSION


def test_what_an_earlier_version_knew_is_kept(old: Path) -> None:
    one, two = Records(old).list(ANN, stopped=True)
    assert (one.session_id, one.template, one.state, one.dev_port) == (
        "s1",
        "static-html",
        State.STOPPED,
        8000,
    )
    assert (two.session_id, two.template, two.state, two.dev_port) == (
        "s2",
        "node-api",
        State.INITIALIZING,
        8001,
    )
    assert (one.has_work, two.has_work) == (True, False)
    assert version(old) == VERSION


def test_a_session_of_an_earlier_version_is_a_workspace_whose_saves_stay_where_they_are(old: Path) -> None:
    assert [record.workspace_id for record in Records(old).list(ANN, stopped=True)] == ["s1", "s2"]
    assert [(each.workspace_id, each.template) for each in Records(old).workspaces(ANN)] == [
        ("s1", "static-html"),
        ("s2", "node-api"),
    ]


def test_many_who_open_an_old_file_at_once_all_find_it_whole(old: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: len(Records(old).list(ANN, stopped=True)), range(8)))
    assert found == [2] * 8


def test_a_step_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(migrations.registry, "_record_applied", full)
        with pytest.raises(ToolError, match="cannot be used"):
            Records(old).list(ANN)
    assert version(old) == 1
    assert len(Records(old).list(ANN, stopped=True)) == 2


def test_a_file_that_is_not_behind_costs_no_import(old: Path) -> None:
    Records(old).list(ANN)
    code = (
        "import sys; from pathlib import Path; from orchestrator.records import Records; "
        f"Records(Path({str(old)!r})).list('ann'); print([m for m in sys.modules if 'sqlite_utils' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"\[\]\s*", done.stdout), done
