"""Names that are attacks, given to every call of the host side that takes one: refused in a sentence, nothing
made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.paths import PathManager, UserId, WorkspaceId
from orchestrator.records import Records
from orchestrator.restoring import find_workspace
from orchestrator.resume import resume
from orchestrator.save_rules import LATEST
from orchestrator.save_store import SaveStore
from orchestrator.sessions import Sessions
from orchestrator.workspace.host import Quiet, WorkspaceHost
from protocol.errors import InvalidRequest, NotFound
from tests.orchestrator.live import Host
from tests.orchestrator.test_sessions import ANN, WISHES, DictionaryBackend

ATTACKS = (
    "",
    ".",
    "..",
    "../ann",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\..\\b",
    ".hidden",
    "a\0b",
    "a\nb",
    "a b",
    "a\x1b[2Jb",
    "é",
    "\uff41nn",
    "a\u202eb",
    "\ud800",
    "%2e%2e",
    "*",
    "' OR 1=1 --",
    "x" * 129,
    "x" * 100_000,
)
"""Empty, climbing, absolute, hidden, cut by NUL or a line, look-alikes, half characters, patterns, long."""

Ask = Callable[[Any], Awaitable[object]]


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    """With a session of Ann's, which no attack is to reach or to harm."""
    paths = PathManager(tmp_path)
    return Sessions(paths, Records(paths.db_path("sessions")), {"dictionary": DictionaryBackend()})


def as_a_session(sessions: Sessions) -> list[Ask]:
    """Every call that takes a session's id."""
    calls: list[Ask] = [
        lambda id: sessions.get(ANN, id),
        lambda id: sessions.find(ANN, id),
        lambda id: sessions.ensure_running(ANN, id),
        lambda id: sessions.destroy(ANN, id),
        lambda id: resume(sessions, ANN, id, Quiet()),
        lambda id: find_workspace(sessions, ANN, id),
    ]
    return calls


def as_a_workspace(sessions: Sessions) -> list[Ask]:
    """Every call that takes a workspace's id."""
    store = SaveStore(sessions.paths)

    async def asked(method: Callable[..., object], id: WorkspaceId, *more: object) -> None:
        await asyncio.to_thread(method, ANN, id, *more)

    return [
        lambda id: sessions.create(ANN, "site", "dictionary", workspace=id),
        lambda id: sessions.begin(ANN, "site", WISHES, "dictionary", workspace=id),
        lambda id: find_workspace(sessions, ANN, id),
        lambda id: asked(store.saves, id),
        lambda id: asked(store.content, id, LATEST),
        lambda id: asked(store.remove, id),
    ]


def as_a_user(sessions: Sessions) -> list[Ask]:
    """Every call that makes something for a user."""
    return [
        lambda id: sessions.create(UserId(id), "site", "dictionary"),
        lambda id: sessions.begin(UserId(id), "site", WISHES, "dictionary"),
        lambda id: asyncio.to_thread(SaveStore(sessions.paths).saves, UserId(id), WorkspaceId("w")),
    ]


async def everything(sessions: Sessions) -> tuple[set[str], list[str]]:
    """The names below the data directory, and whose sessions there are."""
    base = sessions.paths.base_dir
    names = {str(path.relative_to(base)) for path in base.rglob("*") if "sqlite3" not in path.name}
    users = [ANN, *map(UserId, ATTACKS[:-2])]
    known = [
        str(seen.record.session_id) for user in users for seen in await sessions.list(user, stopped=True)
    ]
    return names, known


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
@pytest.mark.parametrize("kind", [as_a_session, as_a_workspace, as_a_user])
async def test_no_call_takes_it(
    kind: Callable[[Sessions], list[Ask]], attack: str, sessions: Sessions
) -> None:
    await sessions.create(ANN, "site", "dictionary")
    before = await everything(sessions)
    for ask in kind(sessions):
        with pytest.raises((InvalidRequest, NotFound)) as refused:
            await ask(attack)
        sentence = refused.value.message
        assert sentence.encode(), "half a character would break whoever prints it"
        assert len(sentence) < 1000
        assert not set(sentence) & set("\0\n\x1b\u202e"), sentence
    assert await everything(sessions) == before


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
async def test_the_python_api_takes_it_neither_as_a_session_nor_as_a_user(
    attack: str, tmp_path: Path
) -> None:
    host = WorkspaceHost(tmp_path / "data")
    for ask in (host.open, host.stop):
        with pytest.raises((InvalidRequest, NotFound)):
            await ask(attack)
    for asked in (host.create("static-html", user=attack), host.list(user=attack)):
        with pytest.raises(InvalidRequest, match="is refused"):
            await asked
    assert not (tmp_path / "data" / "workspaces").exists()


COMMANDS = (
    ("down",),
    ("resume",),
    ("save",),
    ("saves", "list"),
    ("saves", "verify"),
    ("saves", "restore"),
    ("saves", "remove"),
    ("up", "--workspace"),
    ("call", "list", "--session"),
    ("ls", "--user"),
    ("up", "static-html", "--user"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_command_line_refuses_it_in_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    host = Host(tmp_path)
    for attack in ATTACKS[1:-1]:
        done = host.inside(*command, attack)
        assert done.returncode in (1, 2), (attack, done)
        assert b"Traceback" not in done.stderr, done.stderr
        assert b"No such" not in done.stderr, done.stderr
    assert list(host.data.glob("workspaces/*")) == []
