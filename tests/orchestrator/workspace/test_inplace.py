"""A tool server in place whose start is broken off."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from orchestrator.processes import members
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
    assert not members(f"WORKSPACE_ROOT={root}")
