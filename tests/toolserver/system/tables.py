"""A table of programs in this process, opened and ended as a tool server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from protocol.limits import Limits
from toolserver.system.processes import ProcessTable

_KILL_WAIT_MS = 30_000
"""Who is killed has to get a processor once more, to go: on a busy machine that takes its time."""


@asynccontextmanager
async def opened(directory: Path, limits: Limits = Limits()) -> AsyncIterator[ProcessTable]:
    """It keeps output in ``directory``; at the end nobody that it started may be left."""
    table = ProcessTable(msgspec.structs.replace(limits, kill_wait_ms=_KILL_WAIT_MS), directory)
    table.open()
    try:
        yield table
    finally:
        assert await table.close() == []
