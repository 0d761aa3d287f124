"""Which processes there are, who started whom, and how to end a whole family.

A process group is not enough: a child may leave its session, or be re-parented when its parent ends. So a
family is found three ways: by descent, by session, and by an inherited variable in the environment. The
daemon is a subreaper, so whatever is orphaned stays below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MARKER = "WORKSPACE_PROCESS_ID"
"""Set for every command; what it starts inherits it."""

_OOM_HANDICAP = 500
"""Counts as half of all memory there is: far above the daemon, and not the host's first victim."""

_PR_SET_CHILD_SUBREAPER, _PR_SET_DUMPABLE = 36, 4


@dataclass(frozen=True)
class Proc:
    """One line of /proc. ``started`` is in clock ticks since boot, so that pid and it name one process."""

    pid: int
    parent: int
    session: int
    state: str
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs: a zombie only waits to be reaped."""
        return self.state not in ("Z", "X")


def become_subreaper() -> None:
    """Orphans of our descendants are re-parented to us, not to init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory_and_environ() -> None:
    """Close /proc/PID/{environ,mem,fd} to other processes of the same user."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class Handicap:
    """When memory runs out, the kernel shall end the programs that we start before us.

    By size alone it would choose us, once many small programs use up a container's memory together. A program
    inherits the value that we have while it starts, so we have it for that moment. The file is opened early:
    after ``hide_memory_and_environ`` it is root's.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._own = 0
        with contextlib.suppress(OSError):
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._own = int(os.read(self._fd, 16))

    @contextlib.contextmanager
    def handed_down(self) -> Iterator[None]:
        """Programs started in here are ended first."""
        self._set(min(self._own + _OOM_HANDICAP, 1000))
        try:
            yield
        finally:
            self._set(self._own)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _set(self, value: int) -> None:
        if self._fd >= 0:
            # A sandbox may refuse what the kernel allows; then there is no handicap.
            with contextlib.suppress(OSError):
                os.write(self._fd, b"%d" % value)


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
    found = (_proc(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return {proc.pid: proc for proc in found if proc is not None}


def family(leader: int, marker: str, leader_runs: bool) -> set[int]:
    """Live pids that belong to the command led by ``leader`` and marked ``marker``.

    Only what is below this process is looked at. Once the leader is reaped its pid may be another's, so it
    counts by itself only while ``leader_runs``; a session of that number, only without another's mark.
    """
    table = processes()
    below = descendants(os.getpid(), table)

    def belongs(pid: int) -> bool:
        mark = marker_of(pid)
        return (table[pid].session == leader) if mark is None else mark == marker

    members = {pid for pid in below if (pid == leader and leader_runs) or belongs(pid)}
    for member in list(members):
        members |= descendants(member, table)
    return {pid for pid in members if table[pid].alive}


def descendants(pid: int, table: dict[int, Proc]) -> set[int]:
    """Everything below ``pid``, itself left out.

    >>> table = {n: Proc(n, parent, 0, "S", 0) for n, parent in [(2, 1), (3, 2), (4, 9)]}
    >>> sorted(descendants(1, table))
    [2, 3]
    """
    children: dict[int, list[int]] = {}
    for proc in table.values():
        children.setdefault(proc.parent, []).append(proc.pid)
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def send(pids: Iterable[int], number: signal.Signals) -> list[int]:
    """Signal each; those that are gone, or not ours to signal, are left out of the answer."""
    reached = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            reached.append(pid)
    return reached


def children_of_this_process() -> Iterator[int]:
    """Pids of direct children, adopted ones included, zombies too."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", "rb") as file:
            yield from map(int, file.read().split())


def _proc(pid: int) -> Proc | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Proc(pid, int(fields[1]), int(fields[3]), fields[0].decode(), int(fields[19]))


def marker_of(pid: int) -> str | None:
    """The command that a process was started by; None when it does not say, or may not be asked."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    name = f"{MARKER}=".encode()
    return next((each.removeprefix(name).decode() for each in variables if each.startswith(name)), None)
