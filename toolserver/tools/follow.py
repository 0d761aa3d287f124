"""A process's output as events: text cut at whole characters, gaps told, both streams side by side."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from protocol.messages.base import Encoding, Event, Gap, GapReason
from protocol.messages.commands import Stderr, StderrBytes, Stdout, StdoutBytes, WhenSlow
from toolserver.system.output import OutputLog
from toolserver.tools.call import Call

PIECE_BYTES = 128 * 1024
"""At most this much in one event: half the frames of 64 KiB pieces, for readers to whom each costs as much as
its bytes do; less than a stream keeps in memory, and a frame limit is far."""

_BYTES_PER_TURN = 256 * 1024
"""Told to one caller, then the others' turn; as much as is read of a pipe in a turn, so that a caller with
room keeps up with any program."""

_POURED_BYTES = 16 * 1024
"""From here on bytes go to the door as they are, where they can: to put them in a message costs three copies.
Below it that is nothing."""

_RAW: dict[type[Stdout] | type[Stderr], type[StdoutBytes] | type[StderrBytes]] = {
    Stdout: StdoutBytes,
    Stderr: StderrBytes,
}

CONTINUATIONS = bytes(range(0x80, 0xC0))
"""Bytes that go on with a character of UTF-8 and begin none."""


def whole_characters(data: bytes) -> int:
    """How many bytes of ``data`` end on a character's boundary, a cut UTF-8 sequence left for the next piece.

    >>> whole_characters(b"a\\xc3"), whole_characters(b"a\\xff"), whole_characters("é".encode())
    (1, 2, 2)
    """
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return len(data) - back if length > back else len(data)
    return len(data)


def text_of(data: bytes, encoding: Encoding) -> str:
    """Bytes for a string field; as UTF-8, what is not UTF-8 becomes U+FFFD."""
    return base64.b64encode(data).decode() if encoding is Encoding.BASE64 else data.decode(errors="replace")


@dataclass(frozen=True)
class Pace:
    """What becomes of a caller that does not keep up, and the bounds of that."""

    when_slow: WhenSlow = WhenSlow.SPILL
    max_lag_bytes: int = 0
    patience_seconds: float = 0.0


class Followed(Protocol):
    """What has output, and an end."""

    @property
    def stdout(self) -> OutputLog:
        """Numbered by byte."""

    @property
    def stderr(self) -> OutputLog:
        """Numbered by byte."""

    async def wait(self) -> object:
        """Until it has ended."""


async def follow(
    process: Followed, call: Call, offsets: tuple[int, int], encoding: Encoding | None, pace: Pace = Pace()
) -> None:
    """Emit what the process writes, from the (stdout, stderr) offsets on, until it has ended.

    Without an ``encoding`` its events hold the bytes as they are.
    A child that keeps the pipe open does not hold this up. Only who asks for ``wait`` is waited for.
    """
    async with asyncio.TaskGroup() as group:
        streams = (Stdout, process.stdout, offsets[0]), (Stderr, process.stderr, offsets[1])
        for kind, log, start in streams:
            group.create_task(_Follower(kind, log, start, call, encoding, pace).follow())
    await process.wait()


class _Follower:
    """One caller's place in one stream."""

    def __init__(
        self,
        kind: type[Stdout] | type[Stderr],
        log: OutputLog,
        position: int,
        call: Call,
        encoding: Encoding | None,
        pace: Pace,
    ) -> None:
        self._kind = kind
        self._log = log
        self._position = position
        self._emit = call.emit
        self._pour = call.pour
        self._encoding = encoding
        self._pace = pace
        self._awaited = pace.when_slow is WhenSlow.WAIT
        self._limit: int | None = None
        self._told = 0

    async def follow(self) -> None:
        """Tell all there is, until the program has ended."""
        with self._log.being_read():
            try:
                while not self._done():
                    await self._log.wait_past(self._position)
                    await (self._skip() if self._too_late() else self._tell())
            finally:
                self._log.let_go(self)

    def _done(self) -> bool:
        if self._limit is None and self._log.settled is not None:
            # All there is once the program has ended; what its children add later is for the next to attach.
            self._limit = self._log.end
        return self._limit is not None and self._position >= self._limit

    def _too_late(self) -> bool:
        behind = self._log.end - self._position
        return self._pace.when_slow is WhenSlow.DROP and behind > self._pace.max_lag_bytes

    async def _skip(self) -> None:
        """On to near the newest byte, and to the beginning of a character."""
        near = max(self._position, self._log.end - min(PIECE_BYTES, self._pace.max_lag_bytes))
        begun = self._log.read(near, 3).data
        near += len(begun) - len(begun.lstrip(CONTINUATIONS))
        await self._tell_gap(near - self._position, GapReason.SKIPPED)
        self._position = near

    async def _tell(self) -> None:
        """The next piece, cut at whole characters while more is to come."""
        piece = self._log.read(self._position, PIECE_BYTES)
        if piece.missing:
            await self._tell_gap(piece.missing, GapReason.LOST)
        self._position = piece.offset
        data = piece.data if self._limit is None else piece.data[: max(0, self._limit - piece.offset)]
        is_last = self._limit is not None and piece.offset + len(data) >= self._limit
        if self._encoding is Encoding.UTF8 and not is_last:
            data = data[: whole_characters(data)]
        if data:
            await self._tell_data(data)
        elif not is_last:
            await self._log.wait_past(self._position + len(piece.data))

    async def _tell_data(self, data: bytes) -> None:
        after = self._position + len(data)
        with self._being_waited_for():
            await self._send(data, after)
        self._position = after
        if self._awaited:
            self._log.wait_for(self, after)
        self._told += len(data)
        if self._told >= _BYTES_PER_TURN:
            # Where the caller has room nothing above waits, and everybody else is to have a turn too.
            self._told = 0
            await asyncio.sleep(0)

    async def _send(self, data: bytes, after: int) -> None:
        if self._pour is not None and len(data) >= _POURED_BYTES and self._goes_as_it_is(data):
            await self._pour(self._event(b"", after), data)
        else:
            await self._emit(self._event(data, after))

    def _goes_as_it_is(self, data: bytes) -> bool:
        """Whether its text has the same bytes, if it is to be text: only where that is quickly seen."""
        return self._encoding is None or (self._encoding is Encoding.UTF8 and data.isascii())

    def _event(self, data: bytes, after: int) -> Event:
        if self._encoding is None:
            return _RAW[self._kind](offset=self._position, next_offset=after, data=data)
        text = text_of(data, self._encoding)
        return self._kind(offset=self._position, next_offset=after, data=text)

    async def _tell_gap(self, size: int, reason: GapReason) -> None:
        name = "stdout" if self._kind is Stdout else "stderr"
        await self._emit(Gap(stream=name, offset=self._position, missing_bytes=size, reason=reason))

    @contextlib.contextmanager
    def _being_waited_for(self) -> Iterator[None]:
        """The program waits in here for a caller that asked for it, as long as there is patience."""
        if not self._awaited:
            yield
            return
        self._log.wait_for(self, self._position)
        timer = asyncio.get_running_loop().call_later(self._pace.patience_seconds, self._give_up)
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._awaited = False
        self._log.let_go(self)
