"""Which processes there are, who started whom, how to signal one, and what the daemon does to its own.

Everything is read from /proc. A pid alone names nobody for long: with the moment of its start it does, and
a signal goes only to the process that was looked at.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MARKER = "WORKSPACE_PROCESS_ID"
"""Set for every command; what it starts inherits it."""

_OOM_HANDICAP = 500
"""Counts as half of all memory there is: far above the daemon, and not the host's first victim."""

_STAT_BYTES = 4096
"""More than its 52 numbers and a name can be."""

_PR_SET_CHILD_SUBREAPER, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 36, 3, 4


@dataclass(frozen=True)
class Proc:
    """One line of /proc. ``started`` is in clock ticks since boot, so that pid and it name one process."""

    pid: int
    parent: int
    session: int
    state: str = "S"
    started: int = 0
    name: str = ""
    """Up to 15 bytes of its program's name."""
    cpu_ticks: int = 0
    """User and system time of it alone, in clock ticks."""
    resident_pages: int = 0

    @property
    def alive(self) -> bool:
        """Whether it still runs: a zombie only waits to be reaped."""
        return self.state not in ("Z", "X")

    @property
    def stopped(self) -> bool:
        """Whether it stands still by a signal, and takes no other until it is told to go on."""
        return self.state == "T"


def become_subreaper() -> None:
    """Orphans of our descendants are re-parented to us, not to init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory_and_environ() -> None:
    """Close /proc/PID/{environ,mem,fd} to other processes of the same user."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def is_hidden() -> bool:
    """Whether they are closed."""
    return int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)) != 1


class Handicap:
    """When memory runs out, the kernel shall end the programs that we start before us.

    By size alone it would choose us, once many small programs use up a container's memory together. A program
    inherits the value that we have while it starts, so we have it for that moment. The file is opened early:
    after ``hide_memory_and_environ`` it is root's.
    """

    def __init__(self) -> None:
        self._fd = -1
        own = 0
        with contextlib.suppress(OSError):
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            own = int(os.read(self._fd, 16))
        self._own, self._theirs = b"%d" % own, b"%d" % min(own + _OOM_HANDICAP, 1000)

    def __enter__(self) -> None:
        """Programs started from here on are ended first, until it is left."""
        self._set(self._theirs)

    def __exit__(self, *_: object) -> None:
        self._set(self._own)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _set(self, value: bytes) -> None:
        if self._fd >= 0:
            try:
                os.write(self._fd, value)
            except OSError:
                return  # a sandbox may refuse what the kernel allows; then there is no handicap


def erase_variable(name: str) -> None:
    """Overwrite a variable's value where /proc/PID/environ shows it, which not even ``unsetenv`` does.

    Root may read any process's environment, also that of a process that hides it.
    """
    libc = ctypes.CDLL(None)
    environ = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
    at = 0
    while address := environ[at]:
        entry = ctypes.string_at(address)
        if entry.startswith(name.encode() + b"="):
            ctypes.memset(address + len(name) + 1, ord("*"), len(entry) - len(name) - 1)
        at += 1
    libc.unsetenv(name.encode())


def processes() -> dict[int, Proc]:
    """Every process that can be seen, by pid."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return {proc.pid: proc for proc in found if proc is not None}


def below(pid: int, table: Mapping[int, Proc]) -> list[Proc]:
    """Everything below ``pid``, itself left out, parents before their children.

    >>> table = {n: Proc(n, parent, 0) for n, parent in [(2, 1), (3, 4), (4, 2), (5, 9)]}
    >>> [proc.pid for proc in below(1, table)]
    [2, 4, 3]
    """
    children: dict[int, list[Proc]] = {}
    for proc in table.values():
        children.setdefault(proc.parent, []).append(proc)
    found = [proc for proc in children.get(pid, []) if proc.pid != pid]
    for proc in found:  # it grows on the way
        found += children.get(proc.pid, [])
    return found


def descendants(pid: int, table: Mapping[int, Proc]) -> set[int]:
    """Pids of everything below ``pid``, itself left out."""
    return {proc.pid for proc in below(pid, table)}


def send(pids: Iterable[int], number: int) -> list[int]:
    """Signal each by its pid alone; those that are gone, or not ours to signal, are left out."""
    reached = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            reached.append(pid)
    return reached


def send_session(leader: int, number: int) -> None:
    """Signal who leads a session of its own, and who is still in its first process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def tell(procs: Iterable[Proc], number: int) -> list[Proc]:
    """Signal each, and nobody who has its pid by now; those that are gone are left out of the answer."""
    return [proc for proc in procs if _tell(proc, number)]


def _tell(proc: Proc, number: int) -> bool:
    try:
        pidfd = os.pidfd_open(proc.pid)
    except OSError:
        return False
    try:
        # The pidfd holds whoever has the pid now; if he is not the one that was meant, leave him alone.
        now = process(proc.pid)
        if now is None or now.started != proc.started:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)
    return True


def children_of_this_process() -> Iterator[int]:
    """Pids of direct children, adopted ones included, zombies too."""
    yield from _children("self")


def lineage(pid: int) -> list[int]:
    """A process and everything below it, without a look at any other: who was adopted meanwhile is missing.

    So are all where the kernel does not tell a process's children.
    """
    found = [pid]
    for each in found:  # it grows on the way
        found += _children(str(each))
    return found


def _children(pid: str) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                yield from map(int, file.read().split())


def process(pid: int) -> Proc | None:
    """One as it is now; None when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        # Not by a file object, which takes three times the calls: a walk makes them for every process,
        # and the event loop waits for the interpreter at each.
        try:
            head, _, rest = os.read(fd, _STAT_BYTES).rpartition(b")")
        finally:
            os.close(fd)
    except OSError:
        return None
    fields = rest.split()
    return Proc(
        pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        state=fields[0].decode(),
        started=int(fields[19]),
        name=head.partition(b"(")[2].decode(errors="replace"),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        resident_pages=int(fields[21]),
    )


def is_starved(pid: int, number: int) -> bool:
    """Whether signal ``number`` waits for a process that could run, and is not let: the machine is busy."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            said = dict(line.split(b":\t", 1) for line in file.read().splitlines() if b":\t" in line)
        pending = int(said[b"SigPnd"], 16) | int(said[b"ShdPnd"], 16)
        waits = pending & ~int(said[b"SigBlk"], 16)
    except (OSError, KeyError, ValueError):
        return False
    return said[b"State"].startswith(b"R") and bool(waits >> (number - 1) & 1)


def marker_of(pid: int) -> str | None:
    """The command that a process was started by; None when it does not say, or may not be asked."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    name = f"{MARKER}=".encode()
    return next((each.removeprefix(name).decode() for each in variables if each.startswith(name)), None)
