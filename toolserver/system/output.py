"""What a process wrote on one stream, numbered by byte offset, kept for whoever reads it later.

The newest bytes are in memory; older ones move to a ring in a file (``spill``). What even the
ring has lost is told as a gap with its size: no byte vanishes in silence. Appending never waits, for a reader
or the disk; but whoever appends may ask whether one wants to be waited for.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from toolserver.system.spill import Lost, Ring, the_writer

MEMORY_BYTES = 256 * 1024
"""Kept in memory per stream: 1000 idle commands cost nothing, 64 busy ones 32 MiB, and twice that
with what is tolerated while they write. A gut feeling."""
SPILL_BYTES = 256 * 1024
"""More than that, until the program ends, and then moved to the disk at once: piece by piece, 100 MB to a
reader took 160 ms of processor time, by 512 KiB 135."""
CHUNK_BYTES = 64 * 1024
"""Small appends are joined up to this much, so that a reader does not walk over thousands of lines."""

_LEFT_BYTES = 16 * 1024
"""Of a stream, in memory whatever the others have: no file is made for less."""

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """``data`` from ``offset`` on; ``missing`` bytes before it are gone."""

    offset: int
    data: bytes
    missing: int = 0


class OutputLog:
    """One stream's bytes. Belongs to the event loop's thread."""

    def __init__(self, spill_directory: Path, max_kept_bytes: int, head_bytes: int = 64 * 1024) -> None:
        self.end = 0
        """Bytes written so far; the next one's offset."""
        self.closed = False
        """No more will come."""
        self.settled: int | None = None
        """Set once the program itself has ended: all that it wrote lies before this offset. What comes after
        was written by children that it left behind."""
        self._directory = spill_directory
        self._max_kept = max_kept_bytes
        self._head_bytes = head_bytes
        self._head = b""
        self._memory: deque[bytes | bytearray] = deque()
        self._memory_start = 0
        self._ring: Ring | None = None
        self._changed: asyncio.Event | None = None
        """For those who wait for the next change; made by the first of them."""
        self.readers = 0
        """Who is in ``being_read``."""
        self._awaited: dict[object, int] = {}
        self._on_room: Callable[[], None] | None = None
        self._abandoned = False

    @property
    def followed(self) -> bool:
        """Whether somebody reads it now."""
        return self.readers > 0

    @property
    def full(self) -> bool:
        """Whether a reader that the program waits for is so far behind, or the disk, that no more should be
        appended."""
        if self._ring is not None and self._ring.behind:
            return True
        return self.settled is None and any(
            self.end - offset >= MEMORY_BYTES for offset in self._awaited.values()
        )

    def when_room(self, call: Callable[[], None]) -> None:
        """Call once it is no longer full; on the running loop, where it is the disk that is waited for."""
        self._on_room = call
        self._tell_room()

    def wait_for(self, reader: object, offset: int) -> None:
        """Have the program wait for ``reader``, who has come as far as ``offset``; until ``let_go``."""
        self._awaited[reader] = offset
        self._tell_room()

    def let_go(self, reader: object) -> None:
        """Wait for ``reader`` no more."""
        self._awaited.pop(reader, None)
        self._tell_room()

    @property
    def kept_bytes(self) -> int:
        """In memory and in the file."""
        return self.end - self.start + len(self._head)

    @property
    def memory_bytes(self) -> int:
        """In memory only, as far as it is not on its way to the file."""
        return self.end - self._memory_start + len(self._head)

    def put_away(self) -> None:
        """Once the program has ended: keep it in the file alone. Not where somebody reads it, nor where there
        is no disk that takes it."""
        untrusted = the_writer().stuck or (self._ring is not None and self._ring.failed)
        if self.settled is None or self.followed or untrusted:
            return
        self._move(len(self._memory))
        if self.start == 0:
            # The ring has it.
            self._head = b""

    def being_read(self) -> _BeingRead:
        """Somebody reads it in here: whoever tidies up leaves it alone."""
        return _BeingRead(self)

    @property
    def start(self) -> int:
        """Offset of the oldest byte still kept."""
        if self._ring is None or self._ring.failed:
            return self._memory_start
        return max(self._ring.start, self._memory_start - self._max_kept)

    def append(self, data: bytes) -> None:
        """Take what was read from the process, and wake the readers."""
        if len(self._head) == self.end:
            self._head += data[: self._head_bytes - len(self._head)]
        self._remember(data)
        self.end += len(data)
        if self._abandoned:
            self.release()
        elif self._ring is not None and self._ring.failed:
            self._give_up_ring()
        self._spill(SPILL_BYTES if self.settled is None else 0)
        self._wake()

    def settle(self) -> None:
        """Mark where the program's own output ends."""
        if self.settled is None:
            self.settled = self.end
            # Each only where there is something to do: most programs write little, and nobody follows.
            if self.end:
                self._spill(0)
            if self._changed is not None:
                self._wake()
            if self._on_room is not None:
                self._tell_room()

    def close(self) -> None:
        """Mark the end of the stream."""
        self.closed = True
        if self._changed is not None:
            self._wake()
        if self.settled is None:
            self.settle()

    def release(self) -> None:
        """Let go of everything kept; readers see a gap."""
        self._give_up_ring()
        self._memory.clear()
        self._memory_start = self.end
        self._head = b""

    def abandon(self) -> None:
        """Release, and from here on only count: its record is gone, so nobody can ever read it."""
        self._abandoned = True
        self.release()

    def read(self, offset: int, max_bytes: int) -> Piece:
        """``max_bytes`` from ``offset`` on, fewer only at the end; empty when nothing newer is there yet."""
        offset = min(offset, self.end)
        return self._found(lambda: self._read(offset, max_bytes))

    def ends(self, max_bytes: int, start: int = 0) -> tuple[bytes, bytes, int]:
        """First and last bytes from ``start`` on, ``max_bytes`` together; how many lie between them."""
        start = min(start, self.end)
        if start == self.end:
            return b"", b"", 0
        return self._found(lambda: self._ends(max_bytes, start))

    def _found(self, look: Callable[[], T]) -> T:
        """What ``look`` finds, also where the ring turns out to have lost what it was given."""
        try:
            return look()
        except Lost:
            self._give_up_ring()
            return look()

    def _read(self, offset: int, max_bytes: int) -> Piece:
        begin = max(offset, self.start)
        return Piece(begin, self._between(begin, min(begin + max_bytes, self.end)), begin - offset)

    def _ends(self, max_bytes: int, start: int) -> tuple[bytes, bytes, int]:
        if self.end - start <= max_bytes and self.start <= start:
            return self._between(start, self.end), b"", 0
        half = max_bytes // 2
        head = self._between(start, start + half) if self.start <= start else self._head[start : start + half]
        tail_start = max(self.end - (max_bytes - half), self.start, start + len(head))
        return head, self._between(tail_start, self.end), tail_start - start - len(head)

    async def wait_past(self, offset: int) -> None:
        """Until there is a byte at ``offset``, or the program has ended."""
        while self.end <= offset and self.settled is None:
            await self._change()

    async def wait_closed(self, offset: int) -> None:
        """Until there is a byte at ``offset``, or nobody at all holds the stream any more."""
        while self.end <= offset and not self.closed:
            await self._change()

    async def wait_settled(self) -> None:
        """Until the program has ended and its output is in."""
        while self.settled is None:
            await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _between(self, start: int, end: int) -> bytes:
        """The kept bytes from ``start`` to ``end``, wherever they are."""
        parts = []
        while start < min(end, self._memory_start):
            assert self._ring is not None
            parts.append(self._ring.read(start, min(end, self._memory_start) - start))
            start += len(parts[-1])
        if not parts:
            return self._read_memory(start, end - start)
        return b"".join((*parts, self._read_memory(start, end - start)))

    def _tell_room(self) -> None:
        if self._on_room is None:
            return
        if self._ring is not None and self._ring.behind:
            # Each time anew: other streams' bytes count too, so it may be behind again, or only now.
            self._ring.when_room(self._tell_room)
        elif not self.full:
            call, self._on_room = self._on_room, None
            call()

    def _remember(self, data: bytes) -> None:
        """In memory: a large piece as it is, small ones joined."""
        last = self._memory[-1] if self._memory else b""
        if isinstance(last, bytearray) and len(last) + len(data) <= CHUNK_BYTES:
            last += data
        else:
            self._memory.append(data if 2 * len(data) > CHUNK_BYTES else bytearray(data))

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _read_memory(self, begin: int, max_bytes: int) -> bytes:
        parts, position, wanted = [], self._memory_start, max_bytes
        for chunk in self._memory:
            if position + len(chunk) > begin and wanted > 0:
                first = max(0, begin - position)
                parts.append(chunk[first : first + wanted])
                wanted -= len(parts[-1])
            position += len(chunk)
        # One whole piece is given as it is: joining it would copy it.
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def _spill(self, tolerated: int) -> None:
        """Move what is too much for memory, by more than is ``tolerated``, into the ring; or lose it where
        none can be."""
        surplus = self.end - self._memory_start - MEMORY_BYTES
        if surplus <= tolerated or len(self._memory) < 2:
            return
        count = 0
        for piece in itertools.islice(self._memory, len(self._memory) - 1):
            if surplus <= 0:
                break
            surplus -= len(piece)
            count += 1
        self._move(count)

    def _move(self, count: int) -> None:
        """The oldest ``count`` pieces out of memory, into the ring if there is one to be had."""
        if self._ring is None and count and not the_writer().stuck:
            self._ring = Ring(self._directory, self._max_kept, self._memory_start)
        pieces = [self._memory.popleft() for _ in range(count)]
        self._memory_start += sum(map(len, pieces))
        if self._ring is not None:
            self._ring.put(pieces)

    def _give_up_ring(self) -> None:
        """Readers are told a gap, instead of reading old bytes in place of those that were lost."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
            # Nobody waits for a disk any more.
            self._tell_room()


class _BeingRead:
    # No generator: it is on the way of every command.
    __slots__ = ("_log",)

    def __init__(self, log: OutputLog) -> None:
        self._log = log

    def __enter__(self) -> None:
        self._log.readers += 1

    def __exit__(self, *_: object) -> None:
        self._log.readers -= 1


def put_older_away(newest_first: Iterable[OutputLog], room: int) -> None:
    """Leave ``room`` bytes of all of these in memory, of the newest, and next to none of the others."""
    for log in newest_first:
        size = log.memory_bytes
        if size > max(room, _LEFT_BYTES):
            log.put_away()
        else:
            room = max(0, room - size)
