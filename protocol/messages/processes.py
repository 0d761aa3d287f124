"""Processes: which there are, what they use, and how they are ended."""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Request


class Stop(Request, frozen=True, kw_only=True):
    """End a command and everything it started: TERM, a grace, KILL."""

    process_id: str
    grace_ms: int | None = None


class StopAnswer(Answer, frozen=True, kw_only=True):
    """What was signalled, and what is still there."""

    process_id: str
    killed: list[int]
    survivors: list[int]


class Processes(Request, frozen=True, kw_only=True):
    """List the commands that run, and those whose record is kept."""


class ProcessState(enum.Enum):
    """Of a command's own process; what it left behind is not counted."""

    RUNNING = "running"
    EXITED = "exited"


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


class ProcessesAnswer(Answer, frozen=True, kw_only=True):
    """In the order they were started."""

    processes: list[ProcessRecord]
