"""Processes: which there are, what they use, how they are ended, and the ports on which they listen."""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Event, Request
from protocol.messages.commands import Usage


class Stop(Request, frozen=True, kw_only=True):
    """End a command and everything it started: TERM, a grace, KILL."""

    process_id: str
    grace_ms: int | None = None
    """Between TERM and KILL; 3 seconds when absent, 0 for a KILL at once."""


class Killed(Answer, frozen=True, kw_only=True):
    """A process that was signalled, and is gone."""

    pid: int
    name: str
    """Of its program, up to 15 bytes."""
    signal: str
    """The last that it got: ``SIGKILL`` when it outlasted the grace."""


class StopAnswer(Answer, frozen=True, kw_only=True):
    """Who was ended, and who is still there."""

    process_id: str
    killed: list[Killed]
    survivors: list[int]
    """Process ids that outlived even KILL: stuck in the kernel, or not the daemon's to signal."""


class Signal(Request, frozen=True, kw_only=True):
    """Send a signal to a command's own process, or to everything that it started as well."""

    process_id: str
    signal: str | int
    """``TERM``, ``SIGTERM`` or 15."""
    tree: bool = False
    """Also to everything it started, wherever that has gone."""


class SignalAnswer(Answer, frozen=True, kw_only=True):
    """Who got it."""

    process_id: str
    signal: str
    pids: list[int]


class Wait(Request, frozen=True, kw_only=True):
    """Wait for a command to end, without its output."""

    process_id: str
    timeout_ms: int | None = None
    """Answer after this long even while it runs, and leave it running; no limit when absent."""


class WaitAnswer(Answer, frozen=True, kw_only=True):
    """How it ended, or that it runs: then ``exitCode`` is null."""

    process_id: str
    running: bool
    exit_code: int | None
    """The program's own code; 128 + n when signal n ended it."""
    signal: str | None
    timed_out: bool
    """The command's own clock ended it; not that this wait was too short."""
    duration_ms: float
    usage: Usage | None
    limits_met: list[str] = []
    """As in the answer of ``command``."""


class Processes(Request, frozen=True, kw_only=True):
    """List the commands that run and those whose record is kept, each with the processes it started."""


class ProcessState(enum.Enum):
    """Of a command's own process; what it left behind is listed, and does not count here."""

    RUNNING = "running"
    EXITED = "exited"


class Member(Answer, frozen=True, kw_only=True):
    """One live process."""

    pid: int
    parent: int
    """Its parent's process id; the tool server's for one whose parent has ended."""
    name: str
    command_line: list[str]
    """Cut at 4 KiB; empty when it may not be read."""
    state: str
    """As /proc has it: R runs, S sleeps, D waits for a device, T is stopped, I is idle."""
    cpu_ms: float
    """User and system time of it alone."""
    memory_bytes: int
    """Resident. Pages that processes share count in each."""
    ports: list[int] = []
    """TCP ports on which it listens."""


class ProcessRecord(Answer, frozen=True, kw_only=True):
    """One command."""

    process_id: str
    pid: int
    state: ProcessState
    argv: list[str]
    cwd: str
    started: str
    """ISO 8601 UTC."""
    exit_code: int | None
    stdout_bytes: int
    stderr_bytes: int
    signal: str | None = None
    """The signal that ended it."""
    duration_ms: float = 0
    usage: Usage | None = None
    """Once it has ended."""
    limits_met: list[str] = []
    """As in the answer of ``command``."""
    members: list[Member] = []
    """Everything of it that lives, parents before children; also what it left behind."""
    omitted_members: int = 0
    """Processes past the limit on one answer; the totals count them."""
    cpu_ms: float = 0
    """Of all members together."""
    memory_bytes: int = 0
    ports: list[int] = []


class ProcessesAnswer(Answer, frozen=True, kw_only=True):
    """In the order they were started."""

    processes: list[ProcessRecord]
    strays: list[Member] = []
    """Started by commands whose record is gone, or by nobody can tell which; ended with the tool server."""


class Ports(Request, frozen=True, kw_only=True):
    """List the TCP ports on which the workspace's processes listen, and tell when that changes."""

    follow: bool = True
    """Where events are wanted: go on telling, until cancelled. Else the list is the answer."""


class Port(Answer, frozen=True, kw_only=True):
    """A listening socket and its owner."""

    port: int
    address: str
    """Where it is bound: ``127.0.0.1``, or ``0.0.0.0`` and ``::`` for every address."""
    process_id: str | None
    """The command that it belongs to; null for one without a record."""
    pid: int
    command: str
    """The owner's program, by name."""


class PortOpened(Event, frozen=True, kw_only=True, tag="opened"):
    """Something listens there now; told first of everything that did already."""

    port: int
    address: str
    process_id: str | None
    pid: int
    command: str


class PortClosed(Event, frozen=True, kw_only=True, tag="closed"):
    """Nobody listens there any more, or somebody else does, which the next event tells."""

    port: int
    address: str
    process_id: str | None
    pid: int
    command: str


PortEvent = PortOpened | PortClosed


class PortsAnswer(Answer, frozen=True, kw_only=True):
    """Those that are open now, by number."""

    ports: list[Port]
