"""Those that no walk over /proc sees, because they live for less than one takes: each forks and ends.

Such a chain is one program, whose pid is another one a thousand times a second. Whoever is its present link
has lost its parent, so it is the newest child of this process. It is made to stand still before anybody asks
who it is: a signal that waits for it keeps it from forking, and who stands still can be looked at.

    newest children -> new since the walk? -> STOP -> whose? -> caught, or CONT
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable

from toolserver.system import tree
from toolserver.system.tree import Proc

_TRIES = 300
"""Each takes some 50 microseconds, and catches a chain of Python's at once, one of C's within a few."""
_TAIL_BYTES = 512
"""Of the list of children, whose end has the newest: dead links stay on it until they are reaped."""


def caught(known: set[int], meant: Callable[[Proc], bool]) -> list[Proc]:
    """Children that are not among ``known`` pids, ``meant``, and alive; they stand still. Blocks.

    ``known`` has to be read before: who has been there for so long is seen by any walk. It grows.
    """
    found = []
    for _ in range(_TRIES):
        fresh = [pid for pid in _newest() if pid not in known]
        if not fresh:
            break
        known.update(fresh)
        found += [proc for pid in fresh if (proc := _halted(pid, meant)) is not None]
    return found


def _newest() -> list[int]:
    """Pids of the last children that were adopted, the newest first; none where the kernel does not tell."""
    # Orphans are given to the first thread; what other threads started is known by its start.
    try:
        fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    tail = b" "  # so that what is cut off in front is no pid
    try:
        while piece := os.read(fd, 65536):
            tail = (tail + piece)[-_TAIL_BYTES:]
    except OSError:
        return []
    finally:
        os.close(fd)
    return [int(pid) for pid in reversed(tail.partition(b" ")[2].split())]


def _halted(pid: int, meant: Callable[[Proc], bool]) -> Proc | None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        proc = tree.process(pid)
        if proc is None or not proc.alive:
            return None
        if proc.parent == os.getpid() and meant(proc):
            return dataclasses.replace(proc, state="T")
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    except OSError:
        return None
    finally:
        os.close(pidfd)
    return None
