"""processes, stop, signal, wait, ports: which programs there are, what they use, and how they are ended."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import signal
from typing import Any

from protocol.errors import Conflict, InvalidRequest
from protocol.limits import Limits
from protocol.messages.processes import (
    Killed,
    Member,
    Port,
    PortClosed,
    PortOpened,
    Ports,
    PortsAnswer,
    Processes,
    ProcessesAnswer,
    ProcessRecord,
    ProcessState,
    Signal,
    SignalAnswer,
    Stop,
    StopAnswer,
    Wait,
    WaitAnswer,
)
from toolserver.system.exits import signal_name
from toolserver.system.members import Use, uses
from toolserver.system.portwatch import Open, PortWatch
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.answers import usage_of
from toolserver.tools.call import Call


class ProcessControl:
    """The handlers."""

    def __init__(self, table: ProcessTable, limits: Limits) -> None:
        self._table = table
        self._limits = limits
        self._watch = PortWatch(table)

    async def stop(self, request: Stop, call: Call) -> StopAnswer:
        """End a command with everything it started."""
        if request.grace_ms is not None and request.grace_ms < 0:
            raise InvalidRequest("'graceMs' must be 0 or more", field="graceMs")
        process = self._table.get(request.process_id)
        outcome = await asyncio.shield(self._table.stop(process, request.grace_ms))
        killed = [Killed(pid=each.pid, name=each.name, signal=each.signal) for each in outcome.killed]
        return StopAnswer(process_id=process.id, killed=killed, survivors=outcome.survivors)

    async def signal(self, request: Signal, call: Call) -> SignalAnswer:
        """Send a signal."""
        number = signal_number(request.signal)
        process = self._table.get(request.process_id)
        if not process.running and not request.tree:
            raise Conflict(
                f"process {process.id!r} has ended; 'tree': true reaches what it left behind",
                process_id=process.id,
            )
        pids = await self._table.signal(process, number, tree_too=request.tree)
        return SignalAnswer(process_id=process.id, signal=signal_name(number), pids=pids)

    async def wait(self, request: Wait, call: Call) -> WaitAnswer:
        """Until it ends, or the caller's time is over."""
        if request.timeout_ms is not None and request.timeout_ms < 0:
            raise InvalidRequest("'timeoutMs' must be 0 or more; leave it out to wait", field="timeoutMs")
        process = self._table.get(request.process_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if request.timeout_ms is None else request.timeout_ms / 1000):
                await process.wait()
        end = process.exit
        return WaitAnswer(
            process_id=process.id,
            running=process.running,
            exit_code=end.code if end else None,
            signal=end.signal if end else None,
            timed_out=process.timed_out_ms is not None,
            duration_ms=round(process.duration_ms, 3),
            usage=usage_of(end) if end else None,
            limits_met=process.limits_met,
        )

    async def processes(self, request: Processes, call: Call) -> ProcessesAnswer:
        """What runs, and what is kept; one walk over /proc, on a thread."""
        self._table.forget_old()
        seen = await self._table.look()
        records = self._table.all()
        families = [seen.of(each.id) for each in records]
        flat = [proc for family in (*families, seen.strays) for proc in family]
        found = {use.proc.pid: use for use in await asyncio.to_thread(uses, flat)}
        return ProcessesAnswer(
            processes=[
                self._record(process, [found[proc.pid] for proc in family])
                for process, family in zip(records, families, strict=True)
            ],
            strays=[_member(found[proc.pid]) for proc in seen.strays[: self._limits.max_listed_members]],
        )

    async def ports(self, request: Ports, call: Call) -> PortsAnswer:
        """What listens; with events also what begins and ceases to."""
        if call.streaming and request.follow:
            async for closed, opened in self._watch.changes():
                for each in closed:
                    await call.emit(PortClosed(**_port(each)))
                for each in opened:
                    await call.emit(PortOpened(**_port(each)))
        return PortsAnswer(ports=[Port(**_port(each)) for each in await self._watch.present()])

    async def close(self) -> None:
        """Look at ports no more."""
        await self._watch.close()

    def _record(self, process: Process, family: list[Use]) -> ProcessRecord:
        limit, end = self._limits.max_listed_members, process.exit
        return ProcessRecord(
            process_id=process.id,
            pid=process.pid,
            state=ProcessState.RUNNING if process.running else ProcessState.EXITED,
            argv=process.argv,
            cwd=process.cwd,
            started=process.started.isoformat(),
            exit_code=end.code if end else None,
            signal=end.signal if end else None,
            stdout_bytes=process.stdout.end,
            stderr_bytes=process.stderr.end,
            duration_ms=round(process.duration_ms, 3),
            usage=usage_of(end) if end else None,
            limits_met=process.limits_met,
            members=[_member(each) for each in family[:limit]],
            omitted_members=max(0, len(family) - limit),
            cpu_ms=sum(each.cpu_ms for each in family),
            memory_bytes=sum(each.memory_bytes for each in family),
            ports=sorted({port for each in family for port in each.ports}),
        )


def signal_number(asked: str | int) -> int:
    """The number of a signal given by name or number; raises InvalidRequest.

    >>> signal_number("TERM"), signal_number("sigkill"), signal_number(10)
    (15, 9, 10)
    >>> signal_number("RTMIN+3") == signal.SIGRTMIN + 3, signal_number("SIGIOT") == signal.SIGABRT
    (True, True)
    >>> signal_number("TREM")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: 'TREM' is no signal; did you mean 'TERM'?
    >>> signal_number(0)
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: 0 is no signal; give a number from 1 to 64, or a name like 'TERM'
    """
    if isinstance(asked, int) or asked.isdecimal():
        if not 1 <= int(asked) < signal.NSIG:
            raise InvalidRequest(
                f"{asked} is no signal; give a number from 1 to {signal.NSIG - 1}, or a name like 'TERM'",
                field="signal",
            )
        return int(asked)
    names = _signal_names()
    name = asked.upper().removeprefix("SIG")
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "give a name like 'TERM', or a number"
        raise InvalidRequest(f"{asked[:20]!r} is no signal; {hint}", field="signal")
    return names[name]


@functools.cache
def _signal_names() -> dict[str, int]:
    """Every name without its ``SIG``, second names and ``RTMIN+1`` to ``RTMAX-1`` among them."""
    names = {name.removeprefix("SIG"): each.value for name, each in signal.Signals.__members__.items()}
    first, last = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    for number in range(first + 1, last):
        names[f"RTMIN+{number - first}"] = names[f"RTMAX-{last - number}"] = number
    return names


def _member(use: Use) -> Member:
    proc = use.proc
    return Member(
        pid=proc.pid,
        parent=proc.parent,
        name=proc.name,
        command_line=use.command_line,
        state=proc.state,
        cpu_ms=use.cpu_ms,
        memory_bytes=use.memory_bytes,
        ports=use.ports,
    )


def _port(found: Open) -> dict[str, Any]:
    """The fields that a port has in an answer and in an event."""
    return {
        "port": found.listener.port,
        "address": found.listener.address,
        "process_id": found.process_id,
        "pid": found.pid,
        "command": found.command,
    }
