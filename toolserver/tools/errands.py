"""A program that the daemon runs for its own ends, and of which nothing is kept."""

from __future__ import annotations

from toolserver.system.processes import Process, ProcessTable
from toolserver.system.threads import finished


async def finish(table: ProcessTable, process: Process) -> None:
    """End it where it runs, and drop its record.

    However often who asks is cancelled: it is over by then. One that will not end keeps its record, by which
    it can be found; without one it would be nobody's.
    """
    try:
        if process.running:
            await finished(table.stop(process, grace_ms=0))
    finally:
        if not process.running:
            table.forget(process)
