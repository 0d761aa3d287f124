"""A process's output as events: text cut at whole characters, gaps told, both streams side by side."""

from __future__ import annotations

import asyncio
import base64

from protocol.messages.base import Encoding, Gap, GapReason
from protocol.messages.commands import Stderr, Stdout
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process
from toolserver.tools.call import Call, Emit

PIECE_BYTES = 64 * 1024
"""At most this much in one event: four of them fit any socket buffer, and a frame limit is far."""

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


async def follow(
    process: Process,
    call: Call,
    offsets: tuple[int, int],
    encoding: Encoding,
    max_lag_bytes: int | None = None,
) -> None:
    """Emit what the process writes, from the (stdout, stderr) offsets on, until it has ended.

    A child that keeps the pipe open does not hold this up. A caller that is slower than the process is told
    everything that is still kept when its turn comes; or, with ``max_lag_bytes``, goes on near the newest
    byte once it is further behind than that. Either way it is told of a gap, and the process never waits.
    """
    async with asyncio.TaskGroup() as group:
        for name, log, start in (
            ("stdout", process.stdout, offsets[0]),
            ("stderr", process.stderr, offsets[1]),
        ):
            group.create_task(_follow_stream(name, log, start, call.emit, encoding, max_lag_bytes))
    await process.wait()


async def _follow_stream(
    name: str, log: OutputLog, start: int, emit: Emit, encoding: Encoding, max_lag_bytes: int | None
) -> None:
    with log.being_read():
        await _follow_log(name, log, start, emit, encoding, max_lag_bytes)


async def _follow_log(
    name: str, log: OutputLog, position: int, emit: Emit, encoding: Encoding, max_lag_bytes: int | None
) -> None:
    kind = Stdout if name == "stdout" else Stderr
    limit = None
    while True:
        if limit is None and log.settled is not None:
            # All there is once the program has ended; what its children add later is for the next to attach.
            limit = log.end
        if limit is not None and position >= limit:
            return
        await log.wait_past(position)
        if max_lag_bytes is not None and log.end - position > max_lag_bytes:
            newest = _whole_from(log, max(position, log.end - min(PIECE_BYTES, max_lag_bytes)))
            skipped = newest - position
            await emit(Gap(stream=name, offset=position, missing_bytes=skipped, reason=GapReason.SKIPPED))
            position = newest
            continue
        piece = log.read(position, PIECE_BYTES)
        if piece.missing:
            await emit(Gap(stream=name, offset=position, missing_bytes=piece.missing))
        position = piece.offset
        data = piece.data if limit is None else piece.data[: max(0, limit - position)]
        is_last = limit is not None and position + len(data) >= limit
        if encoding is Encoding.UTF8 and not is_last:
            data = data[: whole_characters(data)]
        if data:
            after = position + len(data)
            await emit(kind(offset=position, next_offset=after, data=text_of(data, encoding)))
            position = after
            # Where the caller has room for it nothing above waits, and everybody else is to have a turn too.
            await asyncio.sleep(0)
        elif not is_last:
            await log.wait_past(position + len(piece.data))


def _whole_from(log: OutputLog, offset: int) -> int:
    """``offset``, or just after it where it would cut a character."""
    begun = log.read(offset, 3).data
    return offset + len(begun) - len(begun.lstrip(CONTINUATIONS))
