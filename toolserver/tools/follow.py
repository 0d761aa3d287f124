"""A process's output as events: text cut at whole characters, gaps told, both streams side by side."""

from __future__ import annotations

import asyncio
import base64

from protocol.messages.base import Encoding, Gap
from protocol.messages.commands import Stderr, Stdout
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process
from toolserver.tools.call import Call, Emit

PIECE_BYTES = 64 * 1024
"""At most this much in one event: four of them fit any socket buffer, and a frame limit is far."""


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


async def follow(process: Process, call: Call, offsets: tuple[int, int], encoding: Encoding) -> None:
    """Emit what the process writes, from the (stdout, stderr) offsets on, until it has ended.

    A child that keeps the pipe open does not hold this up.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_follow_stream("stdout", process.stdout, offsets[0], call.emit, encoding))
        group.create_task(_follow_stream("stderr", process.stderr, offsets[1], call.emit, encoding))
    await process.wait()


async def _follow_stream(name: str, log: OutputLog, start: int, emit: Emit, encoding: Encoding) -> None:
    kind = Stdout if name == "stdout" else Stderr
    position = start
    limit = None
    while True:
        if limit is None and log.settled is not None:
            # All there is once the program has ended; what its children add later is for the next to attach.
            limit = log.end
        if limit is not None and position >= limit:
            return
        await log.wait_past(position)
        piece = log.read(position, PIECE_BYTES)
        if piece.missing:
            await emit(Gap(stream=name, offset=position, missing_bytes=piece.missing))
        position = piece.offset
        data = piece.data if limit is None else piece.data[: max(0, limit - position)]
        is_last = limit is not None and position + len(data) >= limit
        if encoding is Encoding.UTF8 and not is_last:
            data = data[: whole_characters(data)]
        if data:
            await emit(kind(offset=position, data=text_of(data, encoding)))
            position += len(data)
        elif not is_last:
            await log.wait_past(position + len(piece.data))
