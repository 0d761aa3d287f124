"""A directory as an archive, packed piece by piece as somebody takes it.

The walk goes by directory descriptors and follows no link, so nothing outside can get in. Whatever an archive
of ours could not be restored with (sockets, links that lead out, names too deep) is left out and told; a file
that changes under the hand is read again, and told when it will not hold still.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import zstandard
from isal import isal_zlib

from protocol.archives import member_path, permissions, refuse_leaving_symlink
from protocol.errors import ToolError
from protocol.exclusions import Exclusions
from protocol.messages.archives import ArchiveFormat
from protocol.tar import Kind, Member, pack, shown
from toolserver.system.directories import DIRECTORY

_WHOLE_BYTES = 1024 * 1024
"""Files up to this are read in one go, so that size and content always agree; larger ones are streamed."""
_READ_BYTES = 256 * 1024
_TRIES = 3
_GZIP_LEVEL = 1
"""isal's levels go to 3: the second costs a third more time for 2 % of size on a tree of sources."""
_ZSTD_LEVEL = 1
_GZIP_WINDOW = 31
"""zlib's way to say: gzip's header and trailer, the whole window."""


@dataclass
class Packed:
    """What an archive holds; complete once ``Packing`` is used up."""

    files: int = 0
    content_bytes: int = 0
    digest: str = ""
    """``sha256:`` and hexadecimal, over the plain tar stream."""
    left_out: list[str] = field(default_factory=list)
    """Paths that no archive of ours holds, with the reason."""
    changed: list[str] = field(default_factory=list)
    """Files that were written to while they were read, so that their copy may mix two states."""


class Packing:
    """``next`` gives the archive's next packed bytes, ``result`` tells what went in. Blocks; any thread.

    Raises Conflict when a large file gets shorter while it is read, ToolError or OSError when the tree cannot
    be read. ``root`` is a directory's descriptor, which stays the caller's.
    """

    def __init__(self, root: int, exclusions: Exclusions, format: ArchiveFormat) -> None:
        self.result = Packed()
        self._exclusions = exclusions
        self._chunks = self._compressed(pack(self._entries(root, "")), _compressor(format))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def _compressed(self, plain: Iterator[bytes], compressor: _Compressor) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in plain:
            digest.update(chunk)
            if packed := compressor.compress(chunk):
                yield packed
        self.result.digest = f"sha256:{digest.hexdigest()}"
        if packed := compressor.flush():
            yield packed

    def _entries(self, directory: int, below: str) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for name in sorted(os.listdir(directory)):
            path = f"{below}/{name}" if below else name
            try:
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if self._exclusions.excludes_entry(path, stat.S_ISDIR(info.st_mode)):
                    continue
                _refuse_unrestorable(path)
                yield from self._entry(directory, name, path, info)
            except FileNotFoundError:
                continue  # gone since it was listed: then it is not part of the tree
            except _Unrestorable as reason:
                self.result.left_out.append(str(reason))

    def _entry(
        self, directory: int, name: str, path: str, info: os.stat_result
    ) -> Iterator[tuple[Member, Iterator[bytes]]]:
        if stat.S_ISREG(info.st_mode):
            yield self._file(directory, name, path)
        elif stat.S_ISDIR(info.st_mode):
            yield _member(path, Kind.DIRECTORY, info), iter(())
            yield from self._below(directory, name, path)
        elif stat.S_ISLNK(info.st_mode):
            yield _link(path, os.readlink(name, dir_fd=directory), info), iter(())
        else:
            raise _Unrestorable(f"{shown(path)}: a socket, a FIFO or a device")

    def _below(self, directory: int, name: str, path: str) -> Iterator[tuple[Member, Iterator[bytes]]]:
        fd = os.open(name, DIRECTORY, dir_fd=directory)
        try:
            yield from self._entries(fd, path)
        finally:
            os.close(fd)

    def _file(self, directory: int, name: str, path: str) -> tuple[Member, Iterator[bytes]]:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        info = os.fstat(fd)
        self.result.files += 1
        if info.st_size > _WHOLE_BYTES:
            self.result.content_bytes += info.st_size
            return _member(path, Kind.FILE, info, info.st_size), self._streamed(fd, path, info)
        try:
            data, info = self._whole(fd, path)
        finally:
            os.close(fd)
        self.result.content_bytes += len(data)
        return _member(path, Kind.FILE, info, len(data)), iter((data,))

    def _whole(self, fd: int, path: str) -> tuple[bytes, os.stat_result]:
        tries = 0
        while True:
            before = os.fstat(fd)
            data = os.pread(fd, before.st_size + 1, 0)
            after = os.fstat(fd)
            tries += 1
            if _same(before, after) and len(data) == after.st_size:
                return data, after
            if tries == _TRIES:
                self.result.changed.append(shown(path))
                return data, after

    def _streamed(self, fd: int, path: str, before: os.stat_result) -> Iterator[bytes]:
        """Exactly as many bytes as were announced; ``pack`` raises Conflict when there are fewer."""
        left = before.st_size
        try:
            while left and (chunk := os.read(fd, min(_READ_BYTES, left))):
                left -= len(chunk)
                yield chunk
            if not _same(before, os.fstat(fd)):
                self.result.changed.append(shown(path))
        finally:
            os.close(fd)


class _Unrestorable(Exception):
    """This cannot be in an archive that is to be restored; the sentence says what and why."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes:
        """Packed bytes, as many as are ready."""

    def flush(self) -> bytes:
        """The rest."""


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(format: ArchiveFormat) -> _Compressor:
    if format is ArchiveFormat.GZIP:
        made: _Compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        return made
    if format is ArchiveFormat.ZSTD:
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    return _Plain()


def _member(path: str, kind: Kind, info: os.stat_result, size: int = 0, link: str = "") -> Member:
    mode = permissions(info.st_mode)
    return Member(name=f"./{path}", kind=kind, size=size, mode=mode, mtime_ns=info.st_mtime_ns, link=link)


def _refuse_unrestorable(path: str) -> None:
    """What unpacking would refuse is not packed in the first place."""
    try:
        member_path(path)
    except ToolError as error:
        raise _Unrestorable(error.message) from None


def _link(path: str, target: str, info: os.stat_result) -> Member:
    try:
        refuse_leaving_symlink(path, target)
    except ToolError as error:
        raise _Unrestorable(error.message) from None
    return _member(path, Kind.SYMLINK, info, link=target)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
