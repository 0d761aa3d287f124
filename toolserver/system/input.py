"""What is fed to one program: a bounded queue in front of a descriptor that never blocks us.

Bytes are numbered by offset, as output is: a sender whose answer was lost sends them again, and what was
taken is not taken twice. Who sends waits for room and for whoever sent before; the program waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable

from protocol.errors import Busy, Conflict
from protocol.limits import Limits
from toolserver.system.terminal import resize

_END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes for the end of its input at the beginning of a line: Ctrl-D."""


class Input:
    """One program's standard input. Belongs to the event loop's thread."""

    def __init__(
        self, fd: int, limits: Limits, *, terminal: bool, on_closed: Callable[[Input], object]
    ) -> None:
        """``fd`` is ours to close from here on; ``on_closed`` is called once it is."""
        os.set_blocking(fd, False)
        self.taken = 0
        """Bytes taken so far; the next one's offset."""
        self.queued = 0
        """Bytes taken and not yet written."""
        self._fd: int | None = fd
        self._terminal = terminal
        self._limits = limits
        self._on_closed = on_closed
        self._queue: deque[memoryview] = deque()
        self._watched = False
        self._ending = ""
        """Why no more is taken."""
        self._moved = asyncio.Event()
        self._turn = asyncio.Lock()
        self._waiting = 0

    @property
    def open(self) -> bool:
        """Whether more is taken."""
        return self._fd is not None and not self._ending

    def put(self, data: bytes) -> None:
        """Take ``data`` whole: what came with the program's start, and so is in memory already."""
        if data and self.open:
            self.taken += len(data)
            self._push(memoryview(data))

    async def feed(
        self, data: bytes, offset: int | None = None, eof: bool = False, seconds: float = 0
    ) -> int:
        """Take ``data`` as there is room, for ``seconds``; how many of its bytes are taken by now.

        ``offset`` is that of ``data`` in all that was ever taken: what lies before the end of that counts as
        taken. ``eof`` ends the input once all is taken. Raises Conflict for a gap or when nothing is taken
        any more, Busy when too much waits already.
        """
        self._refuse_when_full(len(data))
        count = 0
        self._waiting += len(data)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds), self._turn:
                    count = self._known(offset, len(data))
                    self._refuse_when_closed(len(data) - count)
                    while count < len(data) and self.open:
                        count += await self._take(memoryview(data)[count:])
                    if eof and count == len(data):
                        self.end()
        finally:
            self._waiting -= len(data)
        return count

    def end(self, why: str = "its end was sent") -> None:
        """No more after what is queued. On a terminal this is typed, and more may follow."""
        if self._terminal and self._fd is not None:
            self._push(memoryview(_END_OF_TRANSMISSION))
        elif self.open:
            self._ending = why
            self._moved.set()
            self._flush()

    def resize(self, cols: int, rows: int) -> bool:
        """Give the terminal another size; False when this is none, or is gone with its program."""
        if not self._terminal or self._fd is None:
            return False
        resize(self._fd, cols, rows)
        return True

    def program_ended(self) -> None:
        """A terminal is gone with its program; from a pipe a child that it left may still read the rest."""
        if self._terminal:
            self.close()
        else:
            self.end("the program has ended")

    def close(self, why: str = "the program has ended") -> None:
        """Let go of the descriptor, and of what is queued."""
        if self._fd is None:
            return
        self._unwatch()
        os.close(self._fd)
        self._fd = None
        self._ending = self._ending or why
        self._queue.clear()
        self.queued = 0
        self._moved.set()
        self._on_closed(self)

    async def _take(self, data: memoryview) -> int:
        """As many as there is room for, waiting for the first."""
        while self.open and self.queued >= self._limits.max_queued_input_bytes:
            self._moved.clear()
            await self._moved.wait()
        if not self.open:
            return 0
        part = data[: self._limits.max_queued_input_bytes - self.queued]
        self.taken += len(part)
        self._push(part)
        return len(part)

    def _push(self, data: memoryview) -> None:
        self._queue.append(data)
        self.queued += len(data)
        self._flush()

    def _flush(self) -> None:
        """Write what the program has room for; the loop calls again when there is more."""
        assert self._fd is not None
        try:
            while self._queue:
                written = os.write(self._fd, self._queue[0])
                self._wrote(written)
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            # It has closed its end, or the terminal is gone: one that ends early simply takes less.
            self.close("the program closed it")
            return
        self._unwatch()
        if self._ending:
            self.close()

    def _wrote(self, count: int) -> None:
        self.queued -= count
        self._queue[0] = self._queue[0][count:]
        if not self._queue[0]:
            self._queue.popleft()
        self._moved.set()

    def _watch(self) -> None:
        if not self._watched and self._fd is not None:
            asyncio.get_running_loop().add_writer(self._fd, self._flush)
            self._watched = True

    def _unwatch(self) -> None:
        if self._watched and self._fd is not None:
            asyncio.get_running_loop().remove_writer(self._fd)
            self._watched = False

    def _known(self, offset: int | None, size: int) -> int:
        """How many of ``size`` bytes from ``offset`` on were taken before."""
        if offset is None:
            return 0
        if offset > self.taken:
            raise Conflict(
                f"offset {offset} leaves a gap: {self.taken} bytes were taken so far; go on from there",
                next_offset=self.taken,
            )
        return min(self.taken - offset, size)

    def _refuse_when_closed(self, size: int) -> None:
        if size and not self.open:
            raise Conflict(
                f"standard input takes no more: {self._ending} ({self.taken} bytes were taken)",
                next_offset=self.taken,
            )

    def _refuse_when_full(self, size: int) -> None:
        limit = self._limits.max_waiting_input_bytes
        if self._waiting and self._waiting + size > limit:
            raise Busy(
                f"{self._waiting} bytes wait for this command already, the limit is {limit}; "
                "send one piece after the other's answer",
                limit="maxWaitingInputBytes",
                value=limit,
            )
