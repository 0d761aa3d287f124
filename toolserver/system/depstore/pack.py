"""The form of a pack: contents one after the other, then the index, then where the index is.

    content, segment by segment | index, MessagePack | its offset and length, its SHA-256, the magic number

A segment is some files one after the other with one digest, so that several threads can read and check at
once; a file of its size or more is a segment of its own. Those begin on a page, so that a file system which
shares blocks can share theirs. Names are judged when an index is read: whoever wrote it, none leads out.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator

import msgspec

SEGMENT_BYTES = 4 * 1024 * 1024
"""Some three hundred files of a usual package tree: two threads share ten such trees evenly."""
PAGE = 4096
_TRAILER = struct.Struct("<QQ32s8s")
_MAGIC = b"DEPPACK1"
_MAX_INDEX_BYTES = 256 * 1024 * 1024
"""100 bytes a file, so of millions of files; a number in a damaged trailer is not to be allocated."""


class CorruptPack(Exception):
    """A pack is not what its index says. The message is a clause."""


class File(msgspec.Struct, frozen=True, array_like=True):
    """One regular file."""

    path: str
    offset: int
    size: int
    executable: bool


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Bytes ``offset`` to ``offset + size``, and the files in them."""

    offset: int
    size: int
    sha256: bytes
    files: list[File]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a pack. Paths are relative, a directory stands before what is in it."""

    root: str
    """The workspace root it was installed in: dev-server caches are good for that one only."""
    bound: bool
    """Some file holds that path, so all of it is good for that one only."""
    directories: list[str]
    links: list[tuple[str, str]]
    segments: list[Segment]

    @property
    def files(self) -> int:
        """How many."""
        return sum(len(segment.files) for segment in self.segments)

    @property
    def content_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for segment in self.segments for file in segment.files)


def trailer_of(index: Index, offset: int) -> bytes:
    """What ends a pack whose contents end at ``offset``."""
    data = msgspec.msgpack.encode(index)
    return data + _TRAILER.pack(offset, len(data), hashlib.sha256(data).digest(), _MAGIC)


def read_index(fd: int) -> Index:
    """The index of an open pack; raises CorruptPack."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TRAILER.size, max(0, size - _TRAILER.size))
    if len(tail) != _TRAILER.size:
        raise CorruptPack("it is cut short")
    offset, length, digest, magic = _TRAILER.unpack(tail)
    if magic != _MAGIC or offset + length + _TRAILER.size != size or length > _MAX_INDEX_BYTES:
        raise CorruptPack("its end is not that of a pack")
    data = os.pread(fd, length, offset)
    if hashlib.sha256(data).digest() != digest:
        raise CorruptPack("its index does not have the digest that it names")
    try:
        index = msgspec.msgpack.decode(data, type=Index)
    except msgspec.DecodeError as error:
        raise CorruptPack(f"its index cannot be read: {error}") from None
    _judge(index, offset)
    return index


def _judge(index: Index, end: int) -> None:
    known = {""}
    for path in index.directories:
        _refuse_bad(path, known)
        known.add(path)
    for path in _leaves(index):
        _refuse_bad(path, known)
    if any(leads_out(path, target) for path, target in index.links):
        raise CorruptPack("a link in it leads out of it")
    for segment in index.segments:
        inside = range(segment.offset, segment.offset + segment.size + 1)
        if segment.size < 0 or segment.offset < 0 or inside[-1] > end:
            raise CorruptPack("a segment of it lies outside of it")
        if any(
            f.size < 0 or f.offset not in inside or f.offset + f.size not in inside for f in segment.files
        ):
            raise CorruptPack("a file of it lies outside its segment")


def _leaves(index: Index) -> Iterator[str]:
    for segment in index.segments:
        yield from (file.path for file in segment.files)
    yield from (path for path, _ in index.links)


def _refuse_bad(path: str, known: set[str]) -> None:
    above, _, name = path.rpartition("/")
    if above not in known or name in {"", ".", ".."} or "\0" in path:
        raise CorruptPack(f"it names {path!r}, which is no place in it")


def leads_out(path: str, target: str) -> bool:
    """Whether a link at ``path`` leads out of the tree that it is in.

    >>> leads_out(".bin/vite", "../vite/bin/vite.js"), leads_out("a", "../b"), leads_out("a", "/etc")
    (False, True, True)
    """
    if target.startswith("/"):
        return True
    depth = path.count("/")
    for name in target.split("/"):
        depth += -1 if name == ".." else 0 if name in {"", "."} else 1
        if depth < 0:
            return True
    return False
