"""Processes of this host: is it still that one, who belongs to it, end them all.

A process is named by its id and its start time, for ids are used again. A sandbox's processes are found by
descent, by session, and by a marker in their environment: a daemon detaches from the first two, not from the
third.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.005, 0.04
"""Between two looks, each longer by half: fifty who wait for what takes a second shall not be the reason."""
_BETWEEN_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)
"""Before each further look at a process that shows nothing of itself. Becoming another program takes a
fraction of the first; a busy machine may hold it up there for many turns of others. A gut feeling."""


@dataclass(frozen=True)
class Process:
    """One line of /proc. ``started`` is in clock ticks since boot."""

    pid: int
    parent: int
    session: int
    state: str
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs: a zombie only waits to be reaped."""
        return self.state not in ("Z", "X")


def boot() -> str:
    """Which start of this host it is: the same for all processes until the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def look_up(pid: int) -> Process | None:
    """The process, or None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), fields[0].decode(), int(fields[19]))


def is_running(pid: int, started: int) -> bool:
    """Whether that very process runs."""
    process = look_up(pid)
    return process is not None and process.alive and process.started == started


def members(marker: str, leader: int | None = None) -> set[int]:
    """Live processes with ``marker`` (``NAME=value``) in the environment, of ``leader``'s session, or below.

    Without a leader that is known to live, sessions say nothing: their numbers are used again, and 0 is
    everything from outside a container.
    """
    table = {each.pid: each for each in _all() if each.alive}
    found = {pid for pid, each in table.items() if has_marker(pid, marker)}
    if leader is not None:
        found |= {pid for pid, each in table.items() if leader in (pid, each.session)}
    return _with_descendants(found, table.values()) - {os.getpid()}


def family(marker: str, leader: int) -> set[tuple[int, int]]:
    """``members`` with their start times, to be told from others of the same id later."""
    seen = (look_up(pid) for pid in members(marker, leader))
    return {(each.pid, each.started) for each in seen if each is not None}


def still_running(family: Iterable[tuple[int, int]]) -> set[int]:
    """Those of a family that live."""
    return {pid for pid, started in family if is_running(pid, started)}


def has_marker(pid: int, marker: str) -> bool:
    """Whether the process was started with ``marker`` in its environment. Others' are not for us to read."""
    try:
        return marker.encode() in _environment(pid).split(b"\0")
    except OSError:
        return False


def _environment(pid: int) -> bytes:
    """What the kernel shows of it, also of one that is becoming another program just now.

    In the midst of ``execve`` it shows no environment, nor where in memory one is. Who was given none has a
    place for it, of no bytes (proc(5), ``stat``); of a thread of the kernel, and of who is ending, no program
    is told.
    """
    shown = Path(f"/proc/{pid}/environ").read_bytes()
    for seconds in _BETWEEN_SECONDS:
        if shown or _was_given_none(pid):
            break
        Path(f"/proc/{pid}/exe").readlink()
        time.sleep(seconds)
        shown = Path(f"/proc/{pid}/environ").read_bytes()
    return shown


def _was_given_none(pid: int) -> bool:
    """Whether ``env_start`` and ``env_end`` are one place. The kernel sets ``start_code`` after them."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    start_code, env_start, env_end = fields[23], fields[47], fields[48]
    return start_code != b"0" and env_start == env_end


def _with_descendants(pids: Iterable[int], table: Collection[Process]) -> set[int]:
    """
    >>> tree = [Process(pid, parent, 0, "S", 0) for pid, parent in [(2, 1), (3, 2), (4, 9)]]
    >>> sorted(_with_descendants([2], tree))
    [2, 3]
    """
    found = set(pids)
    while more := {each.pid for each in table if each.parent in found} - found:
        found |= more
    return found


def _all() -> Iterable[Process]:
    listed = (look_up(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return (each for each in listed if each is not None)


def send(pids: Iterable[int], number: signal.Signals) -> int:
    """Signal each, and tell how many there were to signal."""
    reached = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            reached += 1
    return reached


async def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait, at most ``seconds``, until it holds; whether it did. It is asked in a thread, for it reads files.

    Between two questions no thread is held: fifty sandboxes may start at once.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while not await asyncio.to_thread(holds):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE_SECONDS)
    return True


async def kill_all(find: Callable[[], set[int]], seconds: float) -> tuple[int, set[int]]:
    """KILL what ``find`` finds until it finds nothing, for ``seconds`` at most.

    Answers how many that ended, and who is left. Asked again and again, because what is killed may have
    been starting something.
    """
    hit: set[int] = set()
    left: set[int] = set()

    def gone() -> bool:
        nonlocal left
        left = find()
        hit.update(left)
        send(left, signal.SIGKILL)
        return not left

    await wait_until(gone, seconds)
    return len(hit - left), left
