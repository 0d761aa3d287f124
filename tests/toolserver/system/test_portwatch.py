"""Who follows the ports is told of them, also after a look that failed."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import pytest

from toolserver.system.ports import Listener
from toolserver.system.portwatch import Open, PortWatch, Present

OPEN = Open(Listener(4321, "127.0.0.1", 7), "p1", 1, "node")


async def test_a_look_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    async def found(watch: PortWatch, known: Present) -> Present:
        if failures:
            raise failures.pop()
        return {7: OPEN}

    monkeypatch.setattr(PortWatch, "_found", found)
    watch = PortWatch(cast(Any, SimpleNamespace(starts=0)))
    async with asyncio.timeout(60), aclosing(cast(Any, watch.changes())) as changes:
        assert await anext(changes) == ([], [OPEN])
    assert failures == []
    await watch.close()
