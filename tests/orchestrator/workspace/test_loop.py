"""The loop of the blocking API, and a call that meets its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from orchestrator.workspace.loop import LoopThread


async def nothing() -> str:
    return "done"


def test_a_call_that_meets_the_end_of_its_loop_is_answered_or_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread, schedule = LoopThread(), asyncio.run_coroutine_threadsafe
    closing = threading.Thread(target=thread.close)
    assert thread.run(nothing()) == "done"

    def closed_first(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
        if closing.ident is None:
            closing.start()
            closing.join(0.2)  # it has to wait for us
        return schedule(work, loop)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", closed_first)
    with contextlib.suppress(concurrent.futures.CancelledError):
        assert thread.run(nothing()) == "done"
    closing.join(60)
    assert not closing.is_alive()
