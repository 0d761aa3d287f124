"""processes, stop: which programs there are, and how they are ended."""

from __future__ import annotations

import asyncio

from protocol.errors import InvalidRequest
from protocol.limits import Limits
from protocol.messages.processes import (
    Processes,
    ProcessesAnswer,
    ProcessRecord,
    ProcessState,
    Stop,
    StopAnswer,
)
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.call import Call


class ProcessControl:
    """The handlers."""

    def __init__(self, table: ProcessTable, limits: Limits) -> None:
        self._table = table
        self._limits = limits

    async def stop(self, request: Stop, call: Call) -> StopAnswer:
        """End a command with everything it started."""
        if request.grace_ms is not None and request.grace_ms < 0:
            raise InvalidRequest("'graceMs' must be 0 or more", field="graceMs")
        process = self._table.get(request.process_id)
        killed, survivors = await asyncio.shield(self._table.stop(process, request.grace_ms))
        return StopAnswer(process_id=process.id, killed=killed, survivors=survivors)

    async def processes(self, request: Processes, call: Call) -> ProcessesAnswer:
        """What runs, and what is kept."""
        return ProcessesAnswer(processes=[_record(each) for each in self._table.all()])


def _record(process: Process) -> ProcessRecord:
    return ProcessRecord(
        process_id=process.id,
        pid=process.pid,
        state=ProcessState.RUNNING if process.running else ProcessState.EXITED,
        argv=process.argv,
        cwd=process.cwd,
        started=process.started.isoformat(),
        exit_code=process.exit.code if process.exit else None,
        stdout_bytes=process.stdout.end,
        stderr_bytes=process.stderr.end,
    )
