"""How ends are learned: of our programs by a pidfd and ``wait4``, of adopted orphans by looking for them.

A status is taken by pid and never by "any child", so that nobody takes somebody else's: not as PID 1, not
for ten thousand orphans. What is reaped here for nobody was re-parented to us and has no record.

The pidfds are in one epoll, which alone is in the loop: to put a descriptor into the loop and to take it out
again costs it eight system calls, and this costs two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
from collections.abc import Callable
from typing import Any

from toolserver.system import tree

_SOON_SECONDS, _LATER_SECONDS = 0.05, 1.0
"""After one of our programs has ended, which is when orphans come and go; and as long as we have children.
SIGCHLD would tell at once, and wake the loop for every program that its pidfd tells of anyway."""

_ENDS_PER_TURN = 64
"""Then the others' turn: some milliseconds."""

OnEnd = Callable[[int, resource.struct_rusage], None]
"""Gets the wait status and what the program used."""


class OnItsWay:
    """A start that is under way once it is entered, until it is over or left, whichever comes first."""

    __slots__ = ("_entered", "_reaper")

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._entered = False

    def __enter__(self) -> None:
        self._entered = True
        self._reaper.starts_under_way += 1

    def __exit__(self, *_: object) -> None:
        self.over()

    def over(self) -> None:
        """It is there, and watched."""
        if self._entered:
            self._entered = False
            self._reaper.starts_under_way -= 1


class Reaper:
    """Whom we wait for. Belongs to the event loop's thread, and its signal handler to the main thread."""

    def __init__(self) -> None:
        self._awaited: dict[int, int] = {}
        """Pid to pidfd, of programs whose end somebody wants to know."""
        self._on_end: dict[int, tuple[int, OnEnd]] = {}
        """By pidfd: pid, and who is told."""
        self._over: list[int] = []
        """Pidfds of those that have ended, to be let go of."""
        self._pidfds: select.epoll | None = None
        self.starts_under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._old_handler: Any = signal.SIG_DFL

    def open(self) -> None:
        """Reap orphans from here on. To be called on the main thread."""
        # Whoever started us may have it ignored; then the kernel would throw every status away.
        self._old_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._sweep_in(_SOON_SECONDS)

    def close(self) -> None:
        """Leave signals as they were found, and let go of every pidfd."""
        signal.signal(signal.SIGCHLD, self._old_handler)
        if self._timer is not None:
            self._timer.cancel()
        for pid in list(self._awaited):
            self._let_go(self._forget(pid))
        while self._over:
            self._let_go(self._over.pop())
        if self._pidfds is not None:
            asyncio.get_running_loop().remove_reader(self._pidfds.fileno())
            self._pidfds.close()
            self._pidfds = None

    def watch(self, pid: int, on_end: OnEnd) -> None:
        """Call ``on_end`` once, when our child ``pid`` has ended and is reaped.

        Raises OSError where there is no descriptor for it; then it is reaped as an orphan is.
        """
        self._sweep_in(_LATER_SECONDS)
        pidfd = os.pidfd_open(pid)
        try:
            self._all().register(pidfd, select.EPOLLIN)
        except BaseException:
            os.close(pidfd)
            raise
        self._awaited[pid] = pidfd
        self._on_end[pidfd] = pid, on_end

    def starting(self) -> OnItsWay:
        """In it a child may be there that is not watched yet, and whose status is not to be taken."""
        return OnItsWay(self)

    def sweep(self) -> None:
        """Take the status of adopted orphans; a status of our own programs is left to its pidfd."""
        if self._timer is not None:
            self._timer.cancel()  # it may have been asked for earlier than that
            self._timer = None
        if self.starts_under_way:
            self._sweep_in(_SOON_SECONDS)
            return
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        self._sweep_in(_LATER_SECONDS)
        if ended is None:
            return
        for pid in tree.children_of_this_process():
            if pid not in self._awaited:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _all(self) -> select.epoll:
        if self._pidfds is None:
            self._pidfds = select.epoll()
            asyncio.get_running_loop().add_reader(self._pidfds.fileno(), self._some_ended, self._pidfds)
        return self._pidfds

    def _some_ended(self, pidfds: select.epoll) -> None:
        for pidfd, _ in pidfds.poll(0, _ENDS_PER_TURN):
            # One that was told of before it in this turn may have let go of it.
            if pidfd in self._on_end:
                self._ended(*self._on_end[pidfd])

    def _ended(self, pid: int, on_end: OnEnd) -> None:
        reaped, status, usage = os.wait4(pid, os.WNOHANG)
        if reaped:
            self._over.append(self._forget(pid))
            try:
                on_end(status, usage)
            finally:
                # Whoever waits for the end goes first.
                asyncio.get_running_loop().call_soon(self._tidy)

    def _tidy(self) -> None:
        if self._over and self._pidfds is not None:
            while self._over:
                self._let_go(self._over.pop())
            self._sweep_in(_SOON_SECONDS)

    def _forget(self, pid: int) -> int:
        pidfd = self._awaited.pop(pid)
        del self._on_end[pidfd]
        return pidfd

    def _let_go(self, pidfd: int) -> None:
        self._all().unregister(pidfd)
        os.close(pidfd)

    def _sweep_in(self, seconds: float) -> None:
        """At the latest; a look that is due earlier stays."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self.sweep)
