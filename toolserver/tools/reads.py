"""read and read_many: files whole, by lines, or by bytes.

A file up to ``maxReadBytes`` is taken in whole, so that its answer has hash, charset and number of lines.
Of a larger one only blocks are held: the lines or bytes that were asked for come out of any size.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from protocol.errors import InvalidRequest, TooLarge, ToolError
from protocol.limits import Limits
from protocol.messages.base import Encoding
from protocol.messages.files import (
    Charset,
    ImageSize,
    Read,
    ReadAnswer,
    ReadMany,
    ReadManyAnswer,
    ReadOne,
)
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk, refuse_other_than_file, refused
from toolserver.system.gate import Gate
from toolserver.tools.call import Call
from toolserver.tools.files import SMALL_BYTES
from toolserver.tools.media import image_size, media_type
from toolserver.tools.pieces import Bounds, Lines, range_of_bytes
from toolserver.tools.text import as_text, charset_of, content_hash, is_ascii, line_range

_BLOCK_BYTES = 1024 * 1024
_SAMPLE_BYTES = 64 * 1024
"""Of a file too large to be read whole: what it is taken for, it is taken for by its beginning."""
_UTF16 = (Charset.UTF16_LE, Charset.UTF16_BE)


@dataclass(frozen=True)
class Source:
    """An open file."""

    path: WorkspacePath
    fd: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on, fewer only at the end of the file."""
        parts = []
        # Room for what is there, and to see its end: more is taken from the system each time and given back.
        while count > 0:
            room = max(self.size + 1 - offset, _SAMPLE_BYTES)
            data = os.pread(self.fd, min(count, room, _BLOCK_BYTES * 16), offset)
            if not data:
                break
            parts.append(data)
            offset, count = offset + len(data), count - len(data)
        return b"".join(parts)

    def blocks(self) -> Iterator[bytes]:
        """All of it, block by block."""
        offset = 0
        while data := os.pread(self.fd, _BLOCK_BYTES, offset):
            yield data
            offset += len(data)


class Reads:
    """The handlers."""

    def __init__(self, disk: Disk, gate: Gate, limits: Limits) -> None:
        self._disk = disk
        self._gate = gate
        self._limits = limits

    async def read(self, request: Read, call: Call) -> ReadAnswer:
        """One file."""
        path = self._disk.path(request.path)
        refuse_contradictions(request)
        async with self._gate.shared():
            # On a thread, to the last step: on the loop all others would wait while megabytes are decoded.
            return await asyncio.to_thread(self._read, path, request, self._limits.max_read_bytes)

    async def read_many(self, request: ReadMany, call: Call) -> ReadManyAnswer:
        """Several, one after the other, until the answer is full."""
        most = self._limits.max_reads
        if not 0 < len(request.files) <= most:
            raise InvalidRequest(
                f"'files' has 1 to {most} entries", field="files", limit="maxReads", value=most
            )
        async with self._gate.shared():
            return await asyncio.to_thread(self._read_many, request.files)

    def read_at_once(self, request: Read) -> ReadAnswer | None:
        """A small file that the kernel has at hand: a thread would cost more than the reading."""
        if request.if_hash is not None or request.offset is not None or request.length is not None:
            return None
        if not self._gate.free:
            return None
        path = self._disk.path(request.path)
        is_plain = request == Read(path=request.path)
        if not is_plain:
            refuse_contradictions(request)
        found = self._disk.read_now(path, SMALL_BYTES)
        if found is None:
            return None
        data, info = found
        if is_plain and len(data) <= self._limits.max_read_bytes and is_ascii(data):
            return _of_ascii(path, data)
        return of_whole(
            Source(path, -1, info.st_size), data, request, _bounds(request, self._limits.max_read_bytes)
        )

    def _read_many(self, requests: list[Read]) -> ReadManyAnswer:
        room = self._limits.max_read_bytes
        answers: list[ReadOne] = []
        for each in requests:
            try:
                refuse_contradictions(each)
                answer = self._read(self._disk.path(each.path), each, room)
            except ToolError as error:
                answers.append(ReadOne(path=each.path[:4096], error=error.body()))
            else:
                answers.append(ReadOne(path=answer.path, file=answer))
                room -= len(answer.content)
        return ReadManyAnswer(files=answers)

    def _read(self, path: WorkspacePath, request: Read, room: int) -> ReadAnswer:
        # O_NONBLOCK: a fifo of that name must not hang the thread; regular files ignore it.
        with self._disk.opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
            info = os.fstat(fd)
            refuse_other_than_file(info, path)
            try:
                return self._answer(Source(path, fd, info.st_size), request, room)
            except OSError as error:
                raise refused(error, path) from None

    def _answer(self, source: Source, request: Read, room: int) -> ReadAnswer:
        bounds = _bounds(request, room)
        if request.if_hash is not None and (digest := _hash_of(source)) == request.if_hash:
            return replace(_described(source, None, digest), unchanged=True)
        if source.size > self._limits.max_read_bytes:
            return _of_large(source, request, bounds, self._limits.max_read_bytes)
        return of_whole(source, source.read(0, self._limits.max_read_bytes + 1), request, bounds)


def _bounds(request: Read, room: int) -> Bounds:
    most = room if request.max_bytes is None else min(room, request.max_bytes)
    return Bounds(most, request.max_lines, request.max_line_bytes)


def refuse_contradictions(request: Read) -> None:
    """Raise InvalidRequest for what no file could answer.

    >>> refuse_contradictions(Read(path="a", start_line=1, offset=0))
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: ask for a range of lines or for a range of bytes, not both
    """
    by_lines = request.start_line is not None or request.end_line is not None
    if by_lines and (request.offset is not None or request.length is not None):
        raise InvalidRequest("ask for a range of lines or for a range of bytes, not both", field="offset")
    for name, value in (
        ("maxBytes", request.max_bytes),
        ("maxLines", request.max_lines),
        ("maxLineBytes", request.max_line_bytes),
    ):
        if value is not None and value <= 0:
            raise InvalidRequest(f"{name!r} is 1 or more; leave it out for no limit of your own", field=name)


def of_whole(source: Source, data: bytes, request: Read, bounds: Bounds) -> ReadAnswer:
    """The answer out of a file's whole content."""
    charset, digest = charset_of(data), content_hash(data)
    if request.offset is not None or request.length is not None:
        return _bytes_of(source, charset, digest, request, bounds)
    if request.encoding is Encoding.BASE64 or charset is None:
        _refuse_lines(source.path, request, charset)
        return _exact(source, charset, digest, data, bounds, image_size(data))
    # Lines are counted in UTF-8, whatever the file is in.
    text = data if charset is Charset.UTF8 else data.decode(charset.value).encode()
    total = _line_count(text)
    if _is_all(request) and len(text) <= bounds.max_bytes:
        return _described(source, charset, digest, text.decode(), total)
    first, last = line_range(total, request.start_line, request.end_line)
    lines = Lines(first, last, bounds)
    lines.feed(text)
    by_lines = request.start_line is not None or request.end_line is not None
    return _of_lines(source, charset, digest, lines, total, by_lines)


def _of_ascii(path: WorkspacePath, data: bytes) -> ReadAnswer:
    """What ``of_whole`` makes of nearly every small file that is asked for whole, in a third of the steps."""
    return ReadAnswer(
        path=path,
        content=data.decode("ascii"),
        encoding=Encoding.UTF8,
        charset=Charset.UTF8,
        media_type=media_type(path, True),
        size=len(data),
        total_lines=_line_count(data),
        hash=content_hash(data),
    )


def _line_count(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def _of_large(source: Source, request: Read, bounds: Bounds, limit: int) -> ReadAnswer:
    charset = _large_charset(source.read(0, _SAMPLE_BYTES))
    if request.offset is not None or request.length is not None:
        return _bytes_of(source, charset, None, request, bounds)
    if request.start_line is None and request.end_line is None and not _is_bounded(request):
        raise TooLarge(
            f"{source.path!r} has {source.size} bytes, and the limit here is {limit}; read a range of its "
            "lines or bytes, or use /v1/files",
            path=source.path,
            size=source.size,
            limit="maxReadBytes",
            value=limit,
        )
    if charset is None or charset in _UTF16 or request.encoding is Encoding.BASE64:
        _refuse_lines(source.path, request, None)
        return _exact(source, charset, None, source.read(0, bounds.max_bytes + 1), bounds, None)
    first, last, total = _large_range(source, request)
    lines = Lines(first, last, bounds)
    for block in source.blocks():
        lines.feed(block)
        if lines.is_done:
            break
    return _of_lines(source, charset, None, lines, total, True)


def _is_all(request: Read) -> bool:
    """Whether no part of the file is left out, if there is room for all of it."""
    is_range = request.start_line is not None or request.end_line is not None
    return not is_range and request.max_lines is None and request.max_line_bytes is None


def _is_bounded(request: Read) -> bool:
    return request.max_bytes is not None or request.max_lines is not None


def _large_charset(sample: bytes) -> Charset | None:
    """By a file's beginning, which may end within a character.

    >>> _large_charset(b"a" * 10 + b"\\xc3"), _large_charset(b"\\0")
    (<Charset.UTF8: 'utf-8'>, None)
    """
    whole = (sample[:cut] for cut in range(len(sample), max(0, len(sample) - 4), -1))
    found = [charset_of(part) for part in whole]
    return Charset.UTF8 if Charset.UTF8 in found else found[0] if found else Charset.UTF8


def _large_range(source: Source, request: Read) -> tuple[int, int | None, int | None]:
    """First and last line, and how many there are if that had to be counted."""
    start, end = request.start_line, request.end_line
    if (start is None or start > 0) and (end is None or end > 0):
        if start is not None and end is not None and end < start:
            raise InvalidRequest(
                f"the range ends (line {end}) before it begins (line {start})", field="endLine"
            )
        return start or 1, end, None
    total = sum(block.count(b"\n") for block in source.blocks())
    total += source.read(source.size - 1, 1) != b"\n"
    return (*line_range(total, start, end), total)


def _of_lines(
    source: Source, charset: Charset, digest: str | None, lines: Lines, total: int | None, by_lines: bool
) -> ReadAnswer:
    is_cut = bool(lines.cut_by)
    shown = by_lines or is_cut
    # A file not read whole was judged by its beginning: what comes later may still be no UTF-8.
    is_latin = charset is Charset.LATIN1 and digest is None
    return replace(
        _described(source, charset, digest),
        content=lines.content.decode("latin-1" if is_latin else "utf-8", errors="replace"),
        total_lines=total,
        start_line=lines.first if shown else None,
        end_line=lines.last_kept if shown else None,
        truncated=is_cut,
        cut_by=lines.cut_by,
        cut_lines=lines.cut_lines,
    )


def _bytes_of(
    source: Source, charset: Charset | None, digest: str | None, request: Read, bounds: Bounds
) -> ReadAnswer:
    first, count = range_of_bytes(source.size, request.offset, request.length)
    data = source.read(first, min(count, bounds.max_bytes))
    text = None if request.encoding is Encoding.BASE64 else as_text(data)
    return replace(
        _described(source, charset, digest),
        content=base64.b64encode(data).decode() if text is None else text,
        encoding=Encoding.BASE64 if text is None else Encoding.UTF8,
        offset=first,
        length=len(data),
        truncated=len(data) < count,
        cut_by=["maxBytes"] if len(data) < count else [],
    )


def _exact(
    source: Source,
    charset: Charset | None,
    digest: str | None,
    data: bytes,
    bounds: Bounds,
    image: ImageSize | None,
) -> ReadAnswer:
    is_cut = len(data) > bounds.max_bytes
    return replace(
        _described(source, charset, digest),
        content=base64.b64encode(data[: bounds.max_bytes]).decode(),
        encoding=Encoding.BASE64,
        image=image,
        truncated=is_cut,
        cut_by=["maxBytes"] if is_cut else [],
    )


def _described(
    source: Source, charset: Charset | None, digest: str | None, content: str = "", lines: int | None = None
) -> ReadAnswer:
    """The answer about a file, whose content may still be put in."""
    return ReadAnswer(
        path=source.path,
        content=content,
        encoding=Encoding.UTF8,
        charset=charset,
        media_type=media_type(source.path, charset is not None),
        size=source.size,
        total_lines=lines,
        hash=digest,
    )


def _hash_of(source: Source) -> str:
    digest = hashlib.sha256()
    for block in source.blocks():
        digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _refuse_lines(path: str, request: Read, charset: Charset | None) -> None:
    if request.start_line is None and request.end_line is None:
        return
    why = "base64 is of bytes" if charset else "it is not text that is known here"
    raise InvalidRequest(f"{path!r} has no lines to count, for {why}; read it whole or by bytes", path=path)
