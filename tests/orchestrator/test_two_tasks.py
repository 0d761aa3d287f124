"""Two tasks of one orchestrator at one session: to the registry, which knows orchestrators, they are one."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.backends import Destroyed
from orchestrator.session_states import State
from protocol.errors import Busy
from tests.orchestrator.live import WAIT_SECONDS
from tests.orchestrator.test_session_life import Backend, begun, opened
from tests.orchestrator.test_sessions import ANN

SAID = rf"is being stopped by process {os.getpid()}; wait until that is done, and run it again"


class Step:
    """A step of the first task that is done once it is let; later ones need not wait."""

    def __init__(self) -> None:
        self.came, self.let = asyncio.Event(), asyncio.Event()

    async def done(self) -> None:
        if not self.came.is_set():
            self.came.set()
            await self.let.wait()

    @asynccontextmanager
    async def under_way(self, task: asyncio.Task[object]) -> AsyncIterator[None]:
        """While the first task is at it; afterwards it has ended."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.came.wait()
            try:
                yield
            finally:
                self.let.set()
                await asyncio.wait([task])


class Slow(Backend):
    """Whose first sandbox goes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step()

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        await self.step.done()
        return await super().destroy(guest_id, keep_files=keep_files)


async def test_of_two_who_end_a_session_one_does_and_nobody_else_is_let_in_meanwhile(tmp_path: Path) -> None:
    backend = Slow()
    sessions, other = opened(tmp_path, backend), opened(tmp_path, backend, "other")
    record = await begun(sessions)
    ending = asyncio.create_task(sessions.end(record))
    async with backend.step.under_way(ending):
        with pytest.raises(Busy, match=SAID):
            await sessions.destroy(ANN, record.session_id)
        with pytest.raises(Busy, match=SAID):
            await other.end(record)
        assert await other.reconcile() == []
    assert ending.result().kept == "/kept"
    assert (await sessions.get(ANN, record.session_id)).state is State.STOPPED
    await sessions.destroy(ANN, record.session_id)  # and once it is done, it may be run again


async def test_of_two_who_start_a_session_that_failed_one_keeps_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, step = Backend(), Step()
    sessions, other = opened(tmp_path, backend), opened(tmp_path, backend, "other")
    record = await begun(sessions)
    backend.survivors = (7,)
    await sessions.end(record)
    backend.survivors = ()
    failed = await sessions.get(ANN, record.session_id)
    assert failed.state is State.ERROR

    async def rescued(*_: object) -> None:
        await step.done()

    monkeypatch.setattr(importlib.import_module("orchestrator.session_starting"), "rescued", rescued)
    starting = asyncio.create_task(sessions.restart(failed))
    async with step.under_way(starting):
        with pytest.raises(Busy, match=SAID):
            await sessions.restart(failed)
        with pytest.raises(Busy, match=SAID):
            await other.end(failed)
    assert (await sessions.ready(starting.result())).state is State.RUNNING
