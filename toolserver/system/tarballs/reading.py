"""A file's content for an archive, while somebody may be writing to it.

A member's size stands before its content, so a file that changes in between needs care:

    small    read whole, and read again when it changed meanwhile; size and content always agree
    large    streamed. Grown: the size first told is kept to. Shrunk: what is missing is filled with zeros,
             and the file follows once more under the same name, which replaces the first when unpacked

A content is torn when it changed at the last attempt too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import closing

from protocol.limits import MIB
from toolserver.system.tarballs.relay import Relay

_WHOLE_BYTES = 4 * MIB
"""Up to here a file is held in memory, which makes its copy whole. A gut feeling: sources are far smaller."""

_PIECE_BYTES = MIB
"""As large as the blocks that are packed: two pieces for one of them would be copied together."""
_ATTEMPTS = 3


class Content:
    """One attempt at an open file's content; iterate it once."""

    def __init__(self, fd: int, info: os.stat_result) -> None:
        self._fd = fd
        self.info = info
        self.begun_ns = time.time_ns()
        """Before the first byte was read."""
        self.size = info.st_size
        self.is_torn = False
        """Whether the file changed while it was read."""
        self.is_short = False
        """Whether zeros stand in for what was not there any more."""
        self._sha256: bytes | None = None

    def __iter__(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        # On a thread of its own: hashing 500 MB takes as long as reading and packing half of it.
        with closing(Relay(digest.update)) as hashing:
            for piece in self._pieces():
                hashing.give(piece)
                yield piece
            hashing.wait()
        self._sha256 = digest.digest()
        self.is_torn = _changed(self.info, os.fstat(self._fd))

    @property
    def sha256(self) -> bytes:
        """Of what was given, once all of it was; before that the file is read for it."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for piece in self._pieces():
                digest.update(piece)
            return digest.digest()
        return self._sha256

    def _pieces(self) -> Iterator[bytes]:
        left = self.size
        while left:
            piece = os.pread(self._fd, min(left, _PIECE_BYTES), self.size - left)
            if not piece:
                self.is_short = True
                yield from _zeros(left)
                return
            left -= len(piece)
            yield piece


class Whole:
    """The same for a small file: read when it is made, so that its size is that of what was read."""

    __slots__ = ("begun_ns", "data", "info", "is_torn", "size")
    is_short = False

    def __init__(self, fd: int, info: os.stat_result) -> None:
        self.info = info
        self.begun_ns = time.time_ns()
        self.data = os.pread(fd, info.st_size, 0)
        self.size = len(self.data)
        self.is_torn = _changed(info, os.fstat(fd))

    def __iter__(self) -> Iterator[bytes]:
        yield self.data

    @property
    def sha256(self) -> bytes:
        """Of what was read."""
        return hashlib.sha256(self.data).digest()


def at_once(fd: int, info: os.stat_result) -> Whole | None:
    """The content of a small file that nobody writes to; None for any other. ``info`` is of just now."""
    if info.st_size > _WHOLE_BYTES:
        return None
    content = Whole(fd, info)
    return None if content.is_torn else content


def content_of(fd: int, info: os.stat_result) -> Iterator[Content | Whole]:
    """The contents to pack for one file, in order; the last counts. ``info`` is what fstat said just now."""
    for attempt in range(1, _ATTEMPTS + 1):
        if info.st_size > _WHOLE_BYTES:
            content = Content(fd, info)
            yield content
            if not content.is_short:
                return
        else:
            small = Whole(fd, info)
            if not small.is_torn or attempt == _ATTEMPTS:
                yield small
                return
        info = os.fstat(fd)


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        piece = bytes(min(count, _PIECE_BYTES))
        count -= len(piece)
        yield piece


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (
        before.st_ctime_ns != after.st_ctime_ns
        or before.st_mtime_ns != after.st_mtime_ns
        or before.st_size != after.st_size
    )
