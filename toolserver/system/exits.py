"""How a program ended, as ``wait4`` tells it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import dataclass
from resource import RUSAGE_SELF, getrusage, struct_rusage

_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)


class _Ours:
    """Our own peak, which only grows: asked for again only where that may decide.

    Not what ``getrusage`` tells of us, for that counts what we were before our own start: whoever started us.
    """

    _peak = 0

    @classmethod
    def is_below(cls, peak: int) -> bool:
        """Whether it is below ``peak``; both in KiB."""
        if peak > cls._peak:
            cls._peak = _own_peak()
        return peak > cls._peak


def _own_peak() -> int:
    with contextlib.suppress(OSError), open("/proc/self/status", "rb") as file:
        if found := _PEAK.search(file.read()):
            return int(found[1])
    return getrusage(RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True)
class Exit:
    """How a program ended. Times are seconds, memory bytes."""

    code: int
    """Its own code, or 128 + n when signal n ended it."""
    signal: str | None
    user_seconds: float
    """Of the program and of those of its children that it waited for; so for all three."""
    system_seconds: float
    peak_memory_bytes: int | None
    """Null when it is not above our own: the system counts ours into that of whatever we start."""

    @property
    def cpu_seconds(self) -> float:
        """User and system together."""
        return self.user_seconds + self.system_seconds

    @classmethod
    def of(cls, status: int, usage: struct_rusage) -> Exit:
        """What ``wait4`` told."""
        code = os.waitstatus_to_exitcode(status)
        name = signal_name(-code) if code < 0 else None
        peak = usage.ru_maxrss * 1024 if _Ours.is_below(usage.ru_maxrss) else None
        return cls(128 - code if code < 0 else code, name, usage.ru_utime, usage.ru_stime, peak)


def signal_name(number: int) -> str:
    """A signal as callers read it; most real-time signals have numbers only.

    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'SIG40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
