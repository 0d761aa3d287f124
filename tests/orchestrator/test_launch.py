"""The way from a source to a page, broken off; on a backend that is a dictionary."""

from __future__ import annotations

import asyncio
import importlib
import threading
from pathlib import Path

import pytest

from orchestrator.launch import Stage, launch
from orchestrator.paths import PathManager
from orchestrator.records import Records
from orchestrator.sessions import Sessions
from orchestrator.templates import find_source
from orchestrator.workspace.host import Quiet
from tests.orchestrator.test_sessions import ANN, WISHES, DictionaryBackend


class Listening(Quiet):
    """Hears when there is a sandbox."""

    def __init__(self) -> None:
        self.has_sandbox = asyncio.Event()

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        if stage is Stage.SANDBOX:
            self.has_sandbox.set()


async def test_one_that_is_cancelled_between_its_sandbox_and_its_content_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").touch()
    backend, observer, loaded = DictionaryBackend(), Listening(), threading.Event()
    sessions = Sessions(PathManager(tmp_path / "data"), Records(tmp_path / "r"), {backend.name: backend})
    monkeypatch.setattr(importlib.import_module("orchestrator.launch"), "load_http", lambda: loaded.wait(60))
    source = find_source(str(site), [], tmp_path)
    launching = asyncio.create_task(launch(sessions, ANN, source, WISHES, observer, backend.name))
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
