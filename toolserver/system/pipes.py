"""Bytes between programs and us, on the event loop: what they write is recorded, what they read is fed.

Nothing here waits for anybody: a pipe is read when it has something, written when it has room. One stream
gets a bounded turn, then the others; at a program's end its pipes are emptied, however much is in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Collection

from protocol.limits import Limits
from toolserver.system.input import Input
from toolserver.system.output import OutputLog

_READ_BYTES = 128 * 1024
"""In one call, and told in one event: what comes whole need not be put together again for who reads it."""
_PIPE_BYTES = 512 * 1024
"""Of a pipe that was found full: its program writes on while others have their turn. The system gives a user
without rights 64 MiB in all, and refuses more; then it stays as it is."""
_FULL_BYTES = 64 * 1024
"""What a pipe holds until it is asked to hold more."""
_READ_BYTES_PER_TURN = 256 * 1024
"""Of one stream's output, then the others' turn: half a millisecond, and no more than is kept in memory."""
_DRAIN_BYTES = 4 * 1024 * 1024
"""Read from a pipe when its program ends: more than a pipe can hold, so all that the program wrote is in."""

_FIRST_LOOK_SECONDS = 0.002
"""After a start. A pipe's end comes before its program's: one that is over by then would wake us three times
while it still ends, and take a tenth longer; its output is read when it has ended."""

log = logging.getLogger("toolserver.processes")


class Pipes:
    """Our ends of all programs' pipes and terminals. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._readers: dict[int, OutputLog] = {}
        self._fds: dict[OutputLog, int] = {}
        self._new: dict[int, OutputLog] = {}
        """Not listened to yet."""
        self._listening: set[int] = set()
        """In the loop. To put one in and take it out costs eight system calls: where readers catch up and
        fall behind in turns, what comes next is read without."""
        self._large: set[int] = set()
        self._over: list[int] = []
        """At their end, and still to be closed."""
        self._timer: asyncio.TimerHandle | None = None
        self._inputs: set[Input] = set()
        self.read_bytes = 0
        """Of all programs so far."""

    def listen(self, fd: int, into: OutputLog) -> None:
        """Record what comes out of ``fd``, which is ours to close from here on, until nobody writes to it."""
        os.set_blocking(fd, False)
        self._readers[fd] = into
        self._fds[into] = fd
        self._new[fd] = into
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FIRST_LOOK_SECONDS, self._begin)

    def input(self, fd: int, limits: Limits, *, terminal: bool = False) -> Input:
        """Feed a program through ``fd``, which is ours to close from here on."""
        made = Input(fd, limits, terminal=terminal, on_closed=self._inputs.discard)
        self._inputs.add(made)
        return made

    def drain(self, logs: Collection[OutputLog]) -> None:
        """Their program has ended, so all its output lies in the pipes: take it, and mark where it ends."""
        for each in logs:
            fd = self._fds.get(each)
            if fd is not None:
                self._read(fd, each, _DRAIN_BYTES)
        for each in logs:
            if each.settled is None:
                each.settle()

    def close(self) -> None:
        """Let go of every end."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        for fd in self._readers:
            if fd in self._listening:
                loop.remove_reader(fd)
            os.close(fd)
        self._readers.clear()
        self._fds.clear()
        self._let_go()
        for each in list(self._inputs):
            each.close()

    def _begin(self) -> None:
        self._timer = None
        new, self._new = self._new, {}
        for fd, into in new.items():
            self._go_on(fd, into)

    def _on_output(self, fd: int, into: OutputLog) -> None:
        at_most = _READ_BYTES_PER_TURN
        while at_most > 0 and not into.full and self._readers.get(fd) is into:
            at_most -= self._read(fd, into, _READ_BYTES) or at_most
        if self._readers.get(fd) is not into:
            return
        if into.full:
            self._listen_no_more(fd)
            into.when_room(lambda: self._read_on(fd, into))
        else:
            self._go_on(fd, into)

    def _go_on(self, fd: int, into: OutputLog) -> None:
        """Be woken by what it writes."""
        if self._readers.get(fd) is into and fd not in self._listening:
            self._listening.add(fd)
            asyncio.get_running_loop().add_reader(fd, self._on_output, fd, into)

    def _read_on(self, fd: int, into: OutputLog) -> None:
        """Those whom it waited for have caught up, or left."""
        asyncio.get_running_loop().call_soon(self._on_output, fd, into)

    def _listen_no_more(self, fd: int) -> None:
        if fd in self._listening:
            self._listening.discard(fd)
            asyncio.get_running_loop().remove_reader(fd)

    def _read(self, fd: int, into: OutputLog, at_most: int) -> int:
        """Record up to ``at_most`` bytes, and close at the end; how many came."""
        rest = at_most
        while rest > 0:
            data = _read(fd)
            if data is None:
                break
            if not data:
                self._new.pop(fd, None)
                if fd in self._listening:
                    self._listen_no_more(fd)
                del self._readers[fd], self._fds[into]
                self._large.discard(fd)
                self._let_go_soon(fd)
                into.close()
                break
            into.append(data)
            self.read_bytes += len(data)
            rest -= len(data)
            if len(data) >= _FULL_BYTES and fd not in self._large:
                self._enlarge(fd)
        return at_most - rest

    def _let_go_soon(self, fd: int) -> None:
        """In the next turn: whoever waits for the end goes first."""
        if not self._over:
            asyncio.get_running_loop().call_soon(self._let_go)
        self._over.append(fd)

    def _let_go(self) -> None:
        while self._over:
            os.close(self._over.pop())

    def _enlarge(self, fd: int) -> None:
        self._large.add(fd)
        # A terminal is no pipe, and the system may have given as much as it gives.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _read(fd: int) -> bytes | None:
    """What is there; empty at the end, None when there is nothing yet."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        # A terminal whose last program is gone answers EIO.
        if error.errno != errno.EIO:
            log.warning("output ended with an error", extra={"data": {"reason": str(error)}})
        return b""
