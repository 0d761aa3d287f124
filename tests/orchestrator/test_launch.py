"""The way from a source to a page, broken off; on a backend that is a dictionary."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import foreground
from orchestrator.cli.common import Options
from orchestrator.cli.foreground import Foreground
from orchestrator.cli.signals import StopSignals
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


@pytest.fixture
def without_tool_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent into a sandbox, and nothing started there."""

    async def done(*_: object) -> None:
        """At once."""

    module = importlib.import_module("orchestrator.launch")
    for name in ("inject", "start"):
        monkeypatch.setattr(module, name, done)
    monkeypatch.setattr(Sessions, "client", lambda *_: contextlib.nullcontext())


@pytest.mark.usefixtures("without_tool_server")
async def test_one_that_is_cancelled_once_it_is_known_as_ready_keeps_its_files(
    site: Source, tmp_path: Path
) -> None:
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


@pytest.mark.usefixtures("without_tool_server")
@pytest.mark.parametrize("remove", [False, True], ids=["kept", "removed"])
async def test_an_up_that_is_interrupted_once_it_is_known_as_ready_says_what_became_of_its_files(
    remove: bool,
    site: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend, records, stop = DictionaryBackend(), Held(tmp_path / "r"), StopSignals()
    monkeypatch.setattr(foreground, "StopSignals", lambda: contextlib.nullcontext(stop))
    sessions = Sessions(PathManager(tmp_path / "data"), records, {backend.name: backend})
    up = Foreground(sessions, Options(None, "ann", False), backend.name, detach=False, remove=remove)
    running = asyncio.create_task(up.run(ANN, site, WISHES))
    assert await asyncio.to_thread(records.is_ready.wait, 60)
    session = (await sessions.list(ANN))[0].record.session_id
    directory = sessions.paths.workspace_dir(ANN, session)
    directory.mkdir(parents=True)
    stop._take(signal.SIGINT)
    records.let.set()
    assert await running == 130
    assert backend.running == {}
    said = capsys.readouterr().err
    assert (f"files kept in {directory}\n" in said, "nothing is kept" in said) == (not remove, False)
    left = [seen.state for seen in await sessions.list(ANN, stopped=True)]
    assert left == ([] if remove else ["stopped"])


@pytest.mark.usefixtures("without_tool_server")
async def test_an_up_that_is_interrupted_before_it_is_ready_says_that_nothing_is_kept(
    site: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend, stop, under_way = DictionaryBackend(), StopSignals(), asyncio.Event()

    async def start(*_: object) -> None:
        under_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(importlib.import_module("orchestrator.launch"), "start", start)
    monkeypatch.setattr(foreground, "StopSignals", lambda: contextlib.nullcontext(stop))
    sessions = Sessions(PathManager(tmp_path / "data"), Records(tmp_path / "r"), {backend.name: backend})
    up = Foreground(sessions, Options(None, "ann", False), backend.name, detach=False, remove=False)
    running = asyncio.create_task(up.run(ANN, site, WISHES))
    await asyncio.wait_for(under_way.wait(), 60)
    stop._take(signal.SIGINT)
    assert await running == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("nothing is kept: it was not ready")
    assert (backend.running, await sessions.list(ANN, stopped=True)) == ({}, [])
