"""The way from a source to a page, broken off; on a backend that is a dictionary."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.launch import Stage, launch
from orchestrator.paths import PathManager
from orchestrator.records import Records, SessionRecord
from orchestrator.session_states import Event
from orchestrator.sessions import Sessions
from orchestrator.templates import Source, find_source
from orchestrator.workspace.host import Quiet
from tests.orchestrator.test_sessions import ANN, WISHES, DictionaryBackend


@pytest.fixture
def site(tmp_path: Path) -> Source:
    directory = tmp_path / "site"
    directory.mkdir()
    (directory / "index.html").touch()
    return find_source(str(directory), [], tmp_path)


class Listening(Quiet):
    """Hears when there is a sandbox."""

    def __init__(self) -> None:
        self.has_sandbox = asyncio.Event()

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        if stage is Stage.SANDBOX:
            self.has_sandbox.set()


async def test_one_that_is_cancelled_between_its_sandbox_and_its_content_leaves_nothing(
    site: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, observer, loaded = DictionaryBackend(), Listening(), threading.Event()
    sessions = Sessions(PathManager(tmp_path / "data"), Records(tmp_path / "r"), {backend.name: backend})
    monkeypatch.setattr(importlib.import_module("orchestrator.launch"), "load_http", lambda: loaded.wait(60))
    launching = asyncio.create_task(launch(sessions, ANN, site, WISHES, observer, backend.name))
    try:
        await asyncio.wait_for(observer.has_sandbox.wait(), 60)
        assert len(backend.running) == 1
        launching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await launching
    finally:
        loaded.set()
    assert backend.running == {}
    assert await sessions.list(ANN, stopped=True) == []


class Held(Records):
    """A registry that answers late once it has written down that a session is ready."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_ready, self.let = threading.Event(), threading.Event()

    def move(self, session_id: str, event: Event, *values: Any, **changes: Any) -> SessionRecord:
        record = super().move(session_id, event, *values, **changes)
        if event is Event.READY:
            self.is_ready.set()
            assert self.let.wait(60)
        return record


async def test_one_that_is_cancelled_once_it_is_known_as_ready_keeps_its_files(
    site: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def done(*_: object) -> None:
        """Without a tool server."""

    module = importlib.import_module("orchestrator.launch")
    for name in ("inject", "start"):
        monkeypatch.setattr(module, name, done)
    monkeypatch.setattr(Sessions, "client", lambda *_: contextlib.nullcontext())
    backend, records = DictionaryBackend(), Held(tmp_path / "r")
    sessions = Sessions(PathManager(tmp_path / "data"), records, {backend.name: backend})
    launching = asyncio.create_task(launch(sessions, ANN, site, WISHES, Quiet(), backend.name))
    assert await asyncio.to_thread(records.is_ready.wait, 60)
    launching.cancel()
    records.let.set()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert backend.running == {}
    assert [seen.state for seen in await sessions.list(ANN, stopped=True)] == ["stopped"]
