"""The manifests of the last saves: which paths, sizes and hashes each held, for a delta since it.

    STATE/manifests/HEX-OF-THE-DIGEST    zstd over blocks, each a length and MessagePack: head, then entries

A file is there whole or not at all, by its rename. One that is gone or damaged costs a whole save instead of
a delta, and no content; so nothing here is synced to the disk. Methods block.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from protocol.errors import InvalidRequest, NotFound
from protocol.limits import MIB, Limits
from protocol.manifests import Entry
from protocol.messages.archives import ManifestHead

_AREA = "manifests"
_PART = ".part"
_BLOCK_ENTRIES = 1000
_MAX_BLOCK_BYTES = 16 * MIB
"""A thousand entries have at most 9 MB, by the longest path and target; more is none of ours."""
_LENGTH = struct.Struct(">I")
_LEVEL = 1
_PREFIX = "sha256:"


class Writing:
    """A manifest that grows while its save is packed. Held in memory packed: some 60 bytes an entry."""

    def __init__(self) -> None:
        # Loaded by the first save: an idle daemon needs it not.
        import zstandard

        self._packer = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._entries: list[Entry] = []
        self._packed: list[bytes] = []

    def add(self, entry: Entry) -> None:
        """The next one."""
        self._entries.append(entry)
        if len(self._entries) >= _BLOCK_ENTRIES:
            self._flush()

    def whole(self, head: ManifestHead) -> list[bytes]:
        """The file's bytes, once all entries have come."""
        self._flush()
        import zstandard

        frame = zstandard.ZstdCompressor(level=_LEVEL).compress(_block(msgspec.msgpack.encode(head)))
        return [frame, *self._packed, self._packer.flush()]

    def _flush(self) -> None:
        if self._entries:
            self._packed.append(self._packer.compress(_block(msgspec.msgpack.encode(self._entries))))
            self._entries = []


class Manifests:
    """Those that are kept, in the daemon's state directory; the oldest make room."""

    def __init__(self, state_dir: Path, limits: Limits) -> None:
        self._area = state_dir / _AREA
        self._limits = limits

    def keep(self, writing: Writing, head: ManifestHead) -> None:
        """Keep one more. Raises OSError."""
        self._area.mkdir(mode=0o700, exist_ok=True)
        target = self._area / _name_of(head.digest)
        part = target.with_name(f"{target.name}.{secrets.token_hex(4)}{_PART}")
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.writelines(writing.whole(head))
            part.rename(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._make_room(target)

    def head(self, digest: str | None = None) -> ManifestHead:
        """Of the save with that digest, or of the newest. Raises NotFound, InvalidRequest."""
        with self._opened(digest) as (head, _):
            return head

    def entries(self, digest: str) -> Iterator[Entry]:
        """All of it, in the walk's order. Raises NotFound, InvalidRequest."""
        with self._opened(digest) as (_, blocks):
            for block in blocks:
                yield from block

    def blocks(self, digest: str) -> Generator[list[Entry], None, None]:
        """The same, up to a thousand at a time."""
        with self._opened(digest) as (_, blocks):
            yield from blocks

    @contextlib.contextmanager
    def _opened(self, digest: str | None) -> Iterator[tuple[ManifestHead, Iterator[list[Entry]]]]:
        try:
            fd = os.open(self._place(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise _unknown(digest, self._limits) from None
        import zstandard

        with (
            os.fdopen(fd, "rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as plain,
        ):
            try:
                head = msgspec.msgpack.decode(_read_block(plain) or b"", type=ManifestHead)
                yield head, _blocks(plain)
            except (msgspec.MsgspecError, zstandard.ZstdError, ValueError):
                raise _unknown(digest, self._limits) from None

    def _place(self, digest: str | None) -> Path:
        if digest is not None:
            return self._area / _name_of(digest)
        newest = next(iter(self._newest_first()), None)
        if newest is None:
            raise _unknown(None, self._limits)
        return newest

    def _newest_first(self) -> list[Path]:
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._area) as entries:
            for each in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((each.stat(follow_symlinks=False).st_mtime_ns, each.name))
        return [self._area / name for _, name in sorted(found, reverse=True) if not name.endswith(_PART)]

    def _make_room(self, newest: Path) -> None:
        used = 0
        others = [path for path in self._newest_first() if path != newest]
        for number, path in enumerate([newest, *others]):
            with contextlib.suppress(FileNotFoundError):
                used += path.stat().st_size
                if number and (
                    number >= self._limits.max_kept_manifests or used > self._limits.max_manifest_bytes
                ):
                    path.unlink()


def sweep(state_dir: Path) -> None:
    """Remove what a kill has left half written; at the start, before anybody writes."""
    for part in (state_dir / _AREA).glob(f"*{_PART}"):
        part.unlink(missing_ok=True)


def _block(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def _blocks(plain: BinaryIO) -> Iterator[list[Entry]]:
    while payload := _read_block(plain):
        yield msgspec.msgpack.decode(payload, type=list[Entry])


def _read_block(plain: BinaryIO) -> bytes | None:
    """The next one, None at the end; ValueError when it is cut short."""
    start = _exactly(plain, _LENGTH.size)
    if not start:
        return None
    size = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else _MAX_BLOCK_BYTES + 1
    payload = _exactly(plain, size) if size <= _MAX_BLOCK_BYTES else b""
    if len(payload) != size:
        raise ValueError(size)
    return payload


def _exactly(plain: BinaryIO, count: int) -> bytes:
    parts = []
    while count and (piece := plain.read(count)):
        parts.append(piece)
        count -= len(piece)
    return b"".join(parts)


def _name_of(digest: str) -> str:
    """The file's name; raises InvalidRequest for what is no digest.

    >>> _name_of("sha256:" + "0a" * 32) == "0a" * 32
    True
    >>> _name_of("sha256:../x")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: 'sha256:../x' is no digest: 'sha256:' and 64 hexadecimal digits
    """
    name = digest.removeprefix(_PREFIX)
    if not digest.startswith(_PREFIX) or len(name) != 64 or set(name) - set("0123456789abcdef"):
        raise InvalidRequest(f"{digest[:100]!r} is no digest: 'sha256:' and 64 hexadecimal digits")
    return name


def _unknown(digest: str | None, limits: Limits) -> NotFound:
    if digest is None:
        return NotFound("no manifest is kept yet: take a save first")
    count = limits.max_kept_manifests
    return NotFound(
        f"no manifest of a save {digest} is kept here, only those of this tool server's last {count} saves; "
        "take a whole save, without 'since'",
        digest=digest,
    )
