"""Packed bytes in, plain bytes out, in pieces of bounded size whatever the archive claims.

    HEAD (until the format is known) -> STREAM -> BETWEEN -> STREAM ... | ZEROS        or, unpacked: PLAIN

An archive may be several gzip members or zstd frames in a row. After the last one zeros may follow, as some
media add them; anything else is refused, because it would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, cast

from protocol.archives import DETECT_BYTES, GZIP_MAGICS, ZSTD_MAGICS, detect
from protocol.errors import ArchiveInvalid
from protocol.messages.archives import ArchiveFormat

PIECE_BYTES = 1024 * 1024
"""Plain bytes in one piece out of gzip. With half of it the threads waited for each other twice as often: one
file of 500 MB came in in 0.83 s instead of 0.58, by turns."""

_ZSTD_SLICE_BYTES = 1024
"""Given to zstd at a time: its blocks unpack to 128 KiB from 4 bytes, so that a slice makes at most 32 MiB.

Slices of 1 MiB were 0.03 s faster on an archive of 87 MB."""

_TOO_WIDE = "too much memory"
"""In what the library says of a window above its bound, 2 ** 27 bytes."""


class _Stream(Protocol):
    """One gzip member or one zstd frame."""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` unpacks to."""

    def rest(self) -> bytes | None:
        """What came after the stream's end; None before it has ended."""


class _Gzip:
    def __init__(self) -> None:
        # Each library is loaded by the first archive of its kind: together they are 0.7 MB of an idle daemon.
        from isal import igzip_lib

        # The library's own stub calls it an instance.
        self._error = cast(type[Exception], igzip_lib.IsalError)
        self._igzip = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        try:
            yield self._igzip.decompress(data, PIECE_BYTES)
            while not (self._igzip.eof or self._igzip.needs_input):
                yield self._igzip.decompress(b"", PIECE_BYTES)
        except self._error as error:
            raise _damaged("gzip", error) from error

    def rest(self) -> bytes | None:
        return self._igzip.unused_data if self._igzip.eof else None


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._zstd = zstandard.ZstdDecompressor().decompressobj()
        self._beyond = b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        try:
            while view and not self._zstd.eof:
                piece, view = view[:_ZSTD_SLICE_BYTES], view[_ZSTD_SLICE_BYTES:]
                plain = self._zstd.decompress(piece)
                if plain:  # most slices only add to a block
                    yield plain
        except self._error as error:
            if _TOO_WIDE in str(error):
                raise ArchiveInvalid(
                    "to unpack this zstd stream takes more memory than the 128 MiB that are given; "
                    "pack it with 'zstd --long=27' at most"
                ) from error
            raise _damaged("zstd", error) from error
        self._beyond = bytes(view)

    def rest(self) -> bytes | None:
        return self._zstd.unused_data + self._beyond if self._zstd.eof else None


_STREAMS: dict[ArchiveFormat, tuple[Callable[[], _Stream], tuple[bytes, ...]]] = {
    ArchiveFormat.GZIP: (_Gzip, GZIP_MAGICS),
    ArchiveFormat.ZSTD: (_Zstd, ZSTD_MAGICS),
}


class Inflater:
    """One archive. Every iterator must be used up before the next call."""

    def __init__(self) -> None:
        self._format: ArchiveFormat | None = None
        self._stream: _Stream | None = None
        self._held = b""
        """Bytes that do not say yet what they begin."""
        self._only_zeros = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes of ``data``; raises ArchiveInvalid."""
        if self._format is not None:
            return self._unpacked(data)
        self._held += data
        return self._begun() if len(self._held) >= DETECT_BYTES else iter(())

    def finish(self) -> Iterator[bytes]:
        """The last plain bytes; raises ArchiveInvalid when the packed stream has not ended."""
        if self._format is None and self._held:
            yield from self._begun()
        if self._stream is not None:
            raise ArchiveInvalid("the archive is cut short: its packed stream ends in the middle")
        if self._held:
            raise _trailing()

    def _begun(self) -> Iterator[bytes]:
        head, self._held = self._held, b""
        self._format = detect(head)
        return self._unpacked(head)

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        if self._format is None or self._format is ArchiveFormat.TAR:
            yield data
            return
        make, magics = _STREAMS[self._format]
        while data:
            if self._stream is None:
                data = self._between(data, make, magics)
            if self._stream is not None:
                yield from self._stream.pieces(data)
                data = self._ended(self._stream)

    def _ended(self, stream: _Stream) -> bytes:
        rest = stream.rest()
        if rest is None:
            return b""
        self._stream = None
        return rest

    def _between(self, data: bytes, make: Callable[[], _Stream], magics: tuple[bytes, ...]) -> bytes:
        """Begin the next stream if one begins; the bytes to go on with."""
        data, self._held = self._held + data, b""
        if not self._only_zeros and data.startswith(magics):
            self._stream = make()
            return data
        if not self._only_zeros and any(magic.startswith(data) for magic in magics):
            self._held = data
        elif data.strip(b"\0"):
            raise _trailing()
        else:
            self._only_zeros = True
        return b""


def _damaged(kind: str, error: Exception) -> ArchiveInvalid:
    return ArchiveInvalid(f"the archive's {kind} stream is damaged: {error}")


def _trailing() -> ArchiveInvalid:
    return ArchiveInvalid("after its packed stream the archive holds bytes that belong to nothing")
