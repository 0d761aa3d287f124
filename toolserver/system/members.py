"""What the processes of a snapshot do: their command lines, their use, the sockets on which they listen.

Blocks, for /proc is read; to be called on a thread. Who is gone by now is shown as the snapshot saw him.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from toolserver.system import ports
from toolserver.system.tree import Proc

_MAX_COMMAND_LINE_BYTES = 4096
"""Enough to tell programs apart; a linker's may have a megabyte."""
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Use:
    """One process, closely. Times are milliseconds, memory bytes."""

    proc: Proc
    command_line: list[str]
    ports: list[int]

    @property
    def cpu_ms(self) -> float:
        """User and system time."""
        return self.proc.cpu_ticks * _TICK_MS

    @property
    def memory_bytes(self) -> int:
        """Resident."""
        return self.proc.resident_pages * _PAGE_BYTES


def uses(procs: Iterable[Proc]) -> list[Use]:
    """Each of them, closely; the tables of sockets are read once for all."""
    sockets = ports.listeners()
    return [Use(proc, command_line(proc.pid), _ports(proc.pid, sockets)) for proc in procs]


def command_line(pid: int) -> list[str]:
    """A process's arguments, cut at 4 KiB; empty when it is gone or may not be asked."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            data = file.read(_MAX_COMMAND_LINE_BYTES)
    except OSError:
        return []
    return [each.decode(errors="replace") for each in data.rstrip(b"\0").split(b"\0")] if data else []


def _ports(pid: int, sockets: Mapping[int, ports.Listener]) -> list[int]:
    # Nobody listens anywhere: then no process's descriptors need be looked through.
    found = ports.sockets_of(pid) if sockets else []
    return sorted({sockets[inode].port for inode in found if inode in sockets})
