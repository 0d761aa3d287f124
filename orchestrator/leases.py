"""Who is at work on a session, and until when that is believed.

An orchestrator that starts or ends a session holds its lease, and renews it while it works. One that was
killed is seen at once, by its process id and start time; one that hangs, or runs where processes cannot be
compared (another container on the same data directory), when its lease runs out. Time is the kernel's time
since boot, which no change of the wall clock touches and which goes on while a machine sleeps; after another
boot every lease is over.

Pure, but for ``Clock.of_this_machine`` and ``Holder.of_this_process``.
"""

from __future__ import annotations

import enum
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import processes
from orchestrator.session_states import State
from protocol.errors import Busy

LEASE_SECONDS = 30.0
"""Far above the pauses of a busy machine, and what a person waits for one that hangs. A gut feeling."""
RENEW_SECONDS = LEASE_SECONDS / 3
"""Two renewals may be missed."""


class Purpose(enum.Enum):
    """What a lease is held for; the values are read by people."""

    START = "started"
    STOP = "stopped"


@dataclass(frozen=True)
class Clock:
    """Seconds since boot, the machine's sleep counted."""

    seconds: Callable[[], float]

    @classmethod
    def of_this_machine(cls) -> Clock:
        """The kernel's; where it has none that counts sleep, the one that does not."""
        number = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return cls(lambda: time.clock_gettime(number))


@dataclass(frozen=True)
class Holder:
    """One orchestrator. ``tag`` tells several in one process apart."""

    boot: str
    namespace: str
    """Of process ids; a number means the same only within it."""
    pid: int
    started: int
    tag: str

    @classmethod
    def of_this_process(cls) -> Holder:
        """This very one."""
        seen = processes.look_up(os.getpid())
        return cls(
            boot=processes.boot(),
            namespace=_link("/proc/self/ns/pid"),
            pid=os.getpid(),
            started=seen.started if seen else 0,
            tag=secrets.token_hex(4),
        )

    def __str__(self) -> str:
        return f"{self.boot} {self.namespace} {self.pid} {self.started} {self.tag}"

    @classmethod
    def parse(cls, text: str) -> Holder:
        """As it was written down.

        >>> str(Holder.parse("b n 7 3 t"))
        'b n 7 3 t'
        """
        boot, namespace, pid, started, tag = text.split(" ")
        return cls(boot, namespace, int(pid), int(started), tag)


@dataclass(frozen=True)
class Lease:
    """One row: who, what for, until when (seconds since the holder's boot)."""

    holder: Holder
    purpose: Purpose
    expires: float


def is_over(lease: Lease, here: Holder, now: float, runs: Callable[[int, int], bool]) -> bool:
    """Whether nobody is at work under ``lease`` any more, as seen from ``here``.

    >>> here, there = Holder.parse("b n 1 1 t"), Holder.parse("b n 7 3 t")
    >>> lease = Lease(there, Purpose.START, 100.0)
    >>> is_over(lease, here, 99.0, lambda pid, started: True), is_over(lease, here, 100.0, lambda *_: True)
    (False, True)
    >>> is_over(lease, here, 1.0, lambda pid, started: False)  # killed: nobody waits for the clock
    True
    >>> is_over(lease, Holder.parse("b other 1 1 t"), 1.0, lambda *_: False)  # numbers mean nothing there
    False
    >>> is_over(lease, Holder.parse("reboot n 1 1 t"), 1.0, lambda *_: True)
    True
    """
    if lease.holder.boot != here.boot or now >= lease.expires:
        return True
    return lease.holder.namespace == here.namespace and not runs(lease.holder.pid, lease.holder.started)


def may_take(lease: Lease, wanted: Purpose, state: State) -> bool:
    """Whether a lease that is not over may be taken from its holder all the same.

    A start may be ended by somebody else, once there is a sandbox to end: its packages may take minutes.

    >>> held = Lease(Holder.parse("b n 7 3 t"), Purpose.START, 1.0)
    >>> [may_take(held, wanted, State.INITIALIZING) for wanted in Purpose]
    [False, True]
    >>> may_take(held, Purpose.STOP, State.CREATING)
    False
    """
    return (lease.purpose, wanted, state) == (Purpose.START, Purpose.STOP, State.INITIALIZING)


def refusal(session_id: str, purpose: Purpose, pid: int) -> Busy:
    """What is said to whoever comes while process ``pid`` is at work on a session.

    >>> refusal("s1", Purpose.STOP, 7)
    Busy('s1 is being stopped by process 7; wait until that is done, and run it again')
    """
    return Busy(
        f"{session_id} is being {purpose.value} by process {pid}; wait until that is done, and run it again",
        sessionId=session_id,
        pid=pid,
    )


def _link(path: str) -> str:
    try:
        return Path(path).readlink().name
    except OSError:
        return "-"
