"""An archive on disk, read to its last byte: what it holds, or why it cannot be trusted.

The bytes come from the file and from nowhere else, and from the disk itself where the kernel lets go of what
it holds of it. Nothing is unpacked, and memory stays bounded whatever the archive claims.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from protocol.archives import DETECT_BYTES, detect
from protocol.errors import ArchiveInvalid
from protocol.messages.archives import ArchiveFormat
from protocol.tar import Decoder, Kind, Member

_READ_BYTES = 256 * 1024
_ZSTD_SLICE_BYTES = 1024
"""Given to zstd at a time: its blocks unpack to 128 KiB from 4 bytes, so a slice makes at most 32 MiB."""


@dataclass(frozen=True)
class Checked:
    """What a whole archive turned out to be."""

    size: int
    """Bytes of the file."""
    sha256: str
    """Of the file as it is, in hexadecimal."""
    digest: str
    """``sha256:…`` of the uncompressed tar."""
    files: int
    format: ArchiveFormat


def read_through(path: Path) -> Checked:
    """Read the archive to its end. Blocks; raises ArchiveInvalid, or OSError when it cannot be read."""
    with path.open("rb", buffering=0) as file:
        _forget(file)
        raw = _Hashing(file)
        try:
            form = detect(file.read(DETECT_BYTES))
            file.seek(0)
            plain, files = _tar_through(raw, form)
            raw.drain()
        except (EOFError, ValueError, ArchiveInvalid) as error:
            raise _damaged(path, error) from error
        except OSError as error:
            if error.errno is not None:  # the disk's fault, not the archive's
                raise
            raise _damaged(path, error) from error
    return Checked(raw.size, raw.digest.hexdigest(), f"sha256:{plain}", files, form)


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is read; never sought in."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As a file; every other way to read it comes down to this one."""
        count = self._file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:count])
        self.size += count
        return count

    def drain(self) -> None:
        """What a decompressor had no need of belongs to the file all the same."""
        while self.read(_READ_BYTES):
            pass


def _tar_through(raw: _Hashing, form: ArchiveFormat) -> tuple[str, int]:
    """The tar's digest, and how many files are in it."""
    digest, decoder, files = hashlib.sha256(), Decoder(), 0
    for chunk in _PLAIN[form](raw):
        digest.update(chunk)
        events = decoder.feed(chunk)
        files += sum(isinstance(event, Member) and event.kind is Kind.FILE for event in events)
    decoder.finish()
    return digest.hexdigest(), files


def _pieces(file: Any) -> Iterator[bytes]:
    while chunk := file.read(_READ_BYTES):
        yield chunk


def _gunzipped(raw: _Hashing) -> Iterator[bytes]:
    from isal import igzip, igzip_lib

    try:
        with cast(Any, igzip.IGzipFile)(fileobj=raw, mode="rb") as stream:
            yield from _pieces(stream)
    except cast(type[Exception], igzip_lib.IsalError) as error:
        raise ValueError(str(error)) from error


def _unzstd(raw: _Hashing) -> Iterator[bytes]:
    # Not its stream_reader, which takes a frame without its end for a whole one.
    import zstandard

    frame = None
    for chunk in _pieces(raw):
        rest = memoryview(chunk)
        while rest:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            piece, rest = rest[:_ZSTD_SLICE_BYTES], rest[_ZSTD_SLICE_BYTES:]
            try:
                yield frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from error
            if frame.eof:
                rest, frame = memoryview(frame.unused_data + rest), None
    if frame is not None:
        raise EOFError("it is cut short in the middle of a frame")


_PLAIN: dict[ArchiveFormat, Callable[[_Hashing], Iterator[bytes]]] = {
    ArchiveFormat.GZIP: _gunzipped,
    ArchiveFormat.ZSTD: _unzstd,
    ArchiveFormat.TAR: _pieces,
}


def _forget(file: io.FileIO) -> None:
    """Let the kernel drop its copy, so that the disk has to answer. Only a hint."""
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _damaged(path: Path, error: Exception) -> ArchiveInvalid:
    return ArchiveInvalid(f"the archive {path} is damaged: {error}", path=str(path))
