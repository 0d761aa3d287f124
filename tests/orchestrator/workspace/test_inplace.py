"""A tool server in place whose start is broken off, or its end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.workspace import inplace
from orchestrator.workspace.local import AsyncLocalWorkspace
from tests.ports import free_port


async def test_a_start_that_is_cancelled_leaves_no_process_and_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting, let, port = threading.Event(), threading.Event(), free_port()
    above, root = tmp_path / "above", tmp_path / "root"
    above.mkdir()

    def chosen(*_: object) -> int:
        starting.set()
        assert let.wait(60)
        return port

    monkeypatch.setattr("tempfile.tempdir", str(above))
    monkeypatch.setattr(inplace, "choose", chosen)
    connecting = asyncio.create_task(AsyncLocalWorkspace(root).connect())
    assert await asyncio.to_thread(starting.wait, 60)
    connecting.cancel()
    await asyncio.sleep(0)
    let.set()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await asyncio.get_running_loop().shutdown_default_executor()
    assert list(above.iterdir()) == []
    assert not processes.members(f"WORKSPACE_ROOT={root}")


async def test_an_end_that_is_cancelled_is_gone_on_with_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above, ending, kill_all = tmp_path / "above", asyncio.Event(), processes.kill_all
    above.mkdir()

    async def never(*_: object) -> None:
        ending.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("tempfile.tempdir", str(above))
    workspace = AsyncLocalWorkspace(tmp_path / "root")
    await workspace.connect()
    monkeypatch.setattr(processes, "kill_all", never)
    closing = asyncio.create_task(workspace.close())
    await asyncio.wait_for(ending.wait(), 60)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert list(above.iterdir()) != []
    monkeypatch.setattr(processes, "kill_all", kill_all)
    await workspace.close()
    assert list(above.iterdir()) == []
