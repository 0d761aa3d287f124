"""How ends are learned: of our programs by a pidfd and ``wait4``, of adopted orphans by SIGCHLD.

A status is taken by pid and never by "any child", so that nobody takes somebody else's: not as PID 1, not
for ten thousand orphans. What is reaped here for nobody was re-parented to us and has no record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

from toolserver.system import tree

_REAP_DELAY_SECONDS = 0.05
"""Orphans end in bursts; one sweep takes them all."""

OnEnd = Callable[[int, resource.struct_rusage], None]
"""Gets the wait status and what the program used."""


class Reaper:
    """Whom we wait for. Belongs to the event loop's thread, and its signal handler to the main thread."""

    def __init__(self) -> None:
        self._awaited: dict[int, int] = {}
        """Pid to pidfd, of programs whose end somebody wants to know."""
        self._starting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._old_handler: Any = signal.SIG_DFL

    def open(self) -> None:
        """Reap orphans from here on. To be called on the main thread."""
        loop = asyncio.get_running_loop()
        # Not loop.add_signal_handler: uvloop keeps SIGCHLD for its own subprocesses, which are not used here.
        self._old_handler = signal.signal(
            signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(self._sweep_soon)
        )

    def close(self) -> None:
        """Leave signals as they were found, and let go of every pidfd."""
        signal.signal(signal.SIGCHLD, self._old_handler)
        if self._timer is not None:
            self._timer.cancel()
        for pid in list(self._awaited):
            self._let_go(pid)

    def watch(self, pid: int, on_end: OnEnd) -> None:
        """Call ``on_end`` once, when our child ``pid`` has ended and is reaped."""
        pidfd = os.pidfd_open(pid)
        self._awaited[pid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, pid, on_end)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """In here a child may be there that is not watched yet, and whose status is not to be taken."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def sweep(self) -> None:
        """Take the status of adopted orphans; a status of our own programs is left to its pidfd."""
        self._timer = None
        if self._starting:
            self._sweep_soon()
            return
        for pid in tree.children_of_this_process():
            if pid not in self._awaited:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _ended(self, pid: int, on_end: OnEnd) -> None:
        reaped, status, usage = os.wait4(pid, os.WNOHANG)
        if reaped:
            self._let_go(pid)
            on_end(status, usage)

    def _let_go(self, pid: int) -> None:
        pidfd = self._awaited.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _sweep_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_REAP_DELAY_SECONDS, self.sweep)
