"""Old output on its way to the disk, and in it: one stream's file, used as a ring and written on a thread.

What is handed over can be read at once, from memory until the thread has written it. A disk that is slow has
the program wait that writes so much; one that takes nothing at all for a while, or is full, loses what the
ring holds, which its reader is told. The event loop waits for neither.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import functools
import itertools
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

IN_FLIGHT_BYTES = 2 * 1024 * 1024
"""Of one stream, then its program waits: a millisecond of a disk in memory. A gut feeling."""
IN_FLIGHT_IN_ALL_BYTES = 16 * 1024 * 1024
"""Of all streams; then each may have one piece on its way."""
PATIENCE_SECONDS = 10.0
"""For one write. As long as a program waits for a reader that takes nothing."""

_WRITE_BYTES = 1024 * 1024
"""In one call: the thread needs the interpreter less often."""
_MAX_PIECES = 64
"""In one call; the system takes 1024."""
_IDLE_SECONDS = 1.0
"""Then the thread ends; the next piece starts another."""


class Lost(Exception):
    """The ring does not have these bytes, though it was given them."""


class Writer:
    """One thread that writes for all rings, there while it has something to do."""

    def __init__(self) -> None:
        self.in_flight_bytes = 0
        self._queue: SimpleQueue[Ring] = SimpleQueue()
        self._lock = threading.Lock()
        self._there = False
        self._begun: float | None = None

    @property
    def stuck(self) -> bool:
        """Whether the disk has kept one write for longer than anybody is to wait."""
        begun = self._begun
        return begun is not None and time.monotonic() - begun > PATIENCE_SECONDS

    def due(self, ring: Ring) -> None:
        """Have ``ring`` take its next step; raises RuntimeError where the system has no thread for it."""
        with self._lock:
            if not self._there:
                _thread.start_new_thread(self._run, ())
                self._there = True
            self._queue.put(ring)

    def account(self, count: int) -> None:
        """So many bytes more, or fewer, are on their way."""
        with self._lock:
            self.in_flight_bytes += count

    def _run(self) -> None:
        while (ring := self._next()) is not None:
            self._begun = time.monotonic()
            try:
                ring.step()
            finally:
                self._begun = None

    def _next(self) -> Ring | None:
        try:
            return self._queue.get(timeout=_IDLE_SECONDS)
        except Empty:
            with self._lock:
                self._there = not self._queue.empty()
            return self._next() if self._there else None


@functools.cache
def the_writer() -> Writer:
    """The one of this process: its streams share a disk."""
    return Writer()


class Ring:
    """The newest ``size`` bytes of what it was given, which begin at offset ``start`` of a stream.

    Used by the event loop's thread, but for ``step``.
    """

    def __init__(self, directory: Path, size: int, start: int) -> None:
        self.start = start
        """Nothing before it was ever in here."""
        self.failed = False
        """The disk did not take something: what is in here is not to be relied on, and is told as lost."""
        self._directory = directory
        self._size = size
        self._writer = the_writer()
        self._lock = threading.Lock()
        self._flight: deque[bytes | bytearray] = deque()
        self._flight_start = start
        """What is before it is in the file."""
        self._flight_bytes = 0
        self._due = self._closed = False
        self._file: int | None = None
        self._on_room: Callable[[], object] | None = None
        self._looking = False

    @property
    def behind(self) -> bool:
        """Whether the disk is so slow that no more should be given."""
        if self._flight_bytes >= IN_FLIGHT_BYTES:
            return True
        return self._flight_bytes > 0 and self._writer.in_flight_bytes >= IN_FLIGHT_IN_ALL_BYTES

    def put(self, pieces: Sequence[bytes | bytearray]) -> None:
        """Take what follows; it is not to be changed any more. Never blocks, never refuses."""
        count = sum(map(len, pieces))
        with self._lock:
            if self.failed:
                return
            self._flight.extend(pieces)
            self._flight_bytes += count
            self._writer.account(count)
        self._step_due()

    def read(self, begin: int, count: int) -> bytes:
        """One to ``count`` bytes from ``begin`` on, of the newest ``size``; raises Lost."""
        with self._lock:
            if self.failed:
                raise Lost
            if begin >= self._flight_start:
                return self._from_flight(begin - self._flight_start, count)
            count, file = min(count, self._flight_start - begin), self._file
        # Not while it is locked. Nobody closes it meanwhile: only this thread's ``close`` has it closed.
        return self._from_file(file, begin, count)

    def when_room(self, call: Callable[[], None]) -> None:
        """Call on the running loop once it is not behind, at the latest when patience with the disk ends."""
        loop = asyncio.get_running_loop()
        with self._lock:
            waits = self.behind
            if waits:
                self._on_room = functools.partial(loop.call_soon_threadsafe, call)
        if not waits:
            call()
        elif not self._looking:
            self._looking = True
            loop.call_later(PATIENCE_SECONDS, self._look)

    def close(self) -> None:
        """Let go of everything, of the file as soon as the disk lets us."""
        with self._lock:
            self._closed = True
        self._fail()
        self._step_due()

    def step(self) -> None:
        """Write some of what is due, or close the file. On the writer's thread; waits for the disk."""
        with self._lock:
            pieces, offset, closed = self._some(), self._flight_start, self._closed
        try:
            if closed:
                self._close_file()
            elif pieces:
                self._write(pieces, offset)
        except (OSError, MemoryError):
            # A full disk must not stop the program that writes; and what is of no use any more makes room.
            self._fail()
            with contextlib.suppress(OSError):
                if self._file is not None:
                    os.ftruncate(self._file, 0)
        else:
            self._written(0 if closed else len(pieces))
        with self._lock:
            self._due = False
            more = bool(self._flight) or (self._closed and self._file is not None)
        if more:
            self._step_due()

    def _step_due(self) -> None:
        with self._lock:
            due, self._due = self._due, True
        try:
            if not due:
                self._writer.due(self)
        except RuntimeError:
            self._due = False
            self._fail()
            if self._closed:
                self._close_file()

    def _some(self) -> list[bytes | bytearray]:
        sizes = itertools.accumulate(map(len, self._flight))
        fitting = sum(1 for _ in itertools.takewhile(lambda size: size <= _WRITE_BYTES, sizes))
        return list(itertools.islice(self._flight, min(max(1, fitting), _MAX_PIECES)))

    def _write(self, pieces: Sequence[bytes | bytearray], offset: int) -> None:
        if self._file is None:
            self._file = _unlinked_file(self._directory)
        views = [memoryview(each) for each in pieces]
        while views:
            place = offset % self._size
            written = os.pwritev(self._file, _cut(views, 0, self._size - place), place)
            offset += written
            views = _cut(views, written, None)

    def _written(self, pieces: int) -> None:
        with self._lock:
            # None are left when it was closed meanwhile.
            for _ in range(min(pieces, len(self._flight))):
                count = len(self._flight.popleft())
                self._flight_start += count
                self._flight_bytes -= count
                self._writer.account(-count)
            room, self._on_room = (None, self._on_room) if self.behind else (self._on_room, None)
        _tell(room)

    def _fail(self) -> None:
        with self._lock:
            self.failed = True
            self._writer.account(-self._flight_bytes)
            self._flight.clear()
            self._flight_bytes = 0
            room, self._on_room = self._on_room, None
        _tell(room)

    def _look(self) -> None:
        """Somebody may have waited for long: where the disk goes on, he does."""
        self._looking = self._on_room is not None and not self._writer.stuck
        if self._looking:
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look)
        elif self._on_room is not None:
            self._fail()

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _from_flight(self, skipped: int, count: int) -> bytes:
        views = _cut([memoryview(each) for each in self._flight], skipped, skipped + count)
        return b"".join(views)

    def _from_file(self, file: int | None, begin: int, count: int) -> bytes:
        place = begin % self._size
        try:
            data = b"" if file is None else os.pread(file, min(count, self._size - place), place)
        except OSError:
            data = b""
        if not data:
            # Somebody has cut the file off, or its disk is broken.
            self._fail()
            raise Lost
        return data


def _cut(views: Sequence[memoryview], begin: int, end: int | None) -> list[memoryview]:
    """Their bytes from ``begin`` to ``end``, without copying any.

    >>> [bytes(each) for each in _cut([memoryview(b"abc"), memoryview(b"def")], 2, 5)]
    [b'c', b'de']
    """
    found, position = [], 0
    for each in views:
        part = each[max(0, begin - position) : None if end is None else max(0, end - position)]
        position += len(each)
        if part:
            found.append(part)
    return found


def _tell(call: Callable[[], object] | None) -> None:
    # A loop that is closed has nobody left who could wait.
    with contextlib.suppress(RuntimeError):
        if call is not None:
            call()


def _unlinked_file(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fd, name = tempfile.mkstemp(dir=directory)
    os.unlink(name)
    return fd
