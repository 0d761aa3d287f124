"""Tar bytes in, members and their contents out; it never opens, waits or keeps a member's content.

    HEADER -> (extended header: NAME | PAX, and back) | CONTENT -> PADDING -> HEADER ... | LAST -> AFTER

``feed`` any number of bytes at a time, then ``finish``. Either raises ArchiveInvalid, whose message says at
which byte of the tar stream. Kept between calls: less than one block, or one extended header of bounded size.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from protocol.errors import ArchiveInvalid
from protocol.tar.header import (
    BLOCK_BYTES,
    EMPTY_BLOCK,
    SECOND_NS,
    Header,
    Kind,
    Member,
    invalid,
    read_header,
    shown,
)
from protocol.tar.pax import read_records, size_of, time_of

MAX_EXTENDED_BYTES = 1024 * 1024
"""One extended header. A path has at most 4 KiB; the rest is for attributes that other tools add."""


class _Mark(enum.Enum):
    END = "end"


END: Final = _Mark.END
"""The event after a member's last byte of content."""

Event: TypeAlias = Member | memoryview | Literal[_Mark.END]
"""A member; then pieces of its content, as views into what was fed; then ``END``."""

_KINDS = {kind.value: kind for kind in Kind} | {b"\0": Kind.FILE, b"7": Kind.FILE}
_EXTENDED = frozenset((b"x", b"g", b"L", b"K"))
_KEPT = frozenset(("path", "linkpath", "size", "mtime"))
_SPARSE = "GNU.sparse."


class Decoder:
    """One archive, from its first byte to its last."""

    def __init__(self, max_extended_bytes: int = MAX_EXTENDED_BYTES) -> None:
        self.position = 0
        """Bytes of the tar stream that were taken so far."""
        self.members = 0
        self._max_extended = max_extended_bytes
        self._step: Callable[[memoryview, list[Event]], int] = self._header
        self._rest = b""
        self._left = 0
        self._member = Member(name="")
        self._extended = bytearray()
        self._letter = b""
        self._defaults: dict[str, bytes] = {}
        self._records: dict[str, bytes] = {}

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """The events that ``data`` completes. The views among them live as long as ``data`` is unchanged."""
        view = memoryview(b"".join((self._rest, data)) if self._rest else data)
        self._rest = b""
        events: list[Event] = []
        while view:
            taken = self._step(view, events)
            if not taken:
                self._rest = bytes(view)
                break
            self.position += taken
            view = view[taken:]
        return events

    def finish(self) -> None:
        """No more bytes will come; ArchiveInvalid unless the archive is whole and has a member."""
        end = self.position + len(self._rest)
        if not end:
            raise invalid("the archive is empty", 0)
        if self._step != self._after:
            raise invalid(f"the archive is cut short at byte {end}{self._within()}", end)
        if not self.members:
            raise invalid("the archive holds no member", end)

    def _within(self) -> str:
        if self._step == self._content:
            return f": {self._left} bytes of {shown(self._member.name)!r} are missing"
        return ", before its end mark"

    def _header(self, view: memoryview, events: list[Event]) -> int:
        if len(view) < BLOCK_BYTES:
            return 0
        block = bytes(view[:BLOCK_BYTES])
        if block == EMPTY_BLOCK:
            self._expect_no_member()
        else:
            header = read_header(block, self.position)
            if header.letter in _EXTENDED:
                self._begin_extended(header)
            else:
                self._begin_member(header, events)
        return BLOCK_BYTES

    def _expect_no_member(self) -> None:
        if self._records:
            raise self._invalid("the archive ends right after an extended header")
        self._step = self._last

    def _begin_extended(self, header: Header) -> None:
        if header.size > self._max_extended:
            raise self._invalid(
                f"an extended header has {header.size} bytes; at most {self._max_extended} are read"
            )
        self._letter, self._left = header.letter, header.size
        self._extended.clear()
        self._step = self._extend if header.size else self._header

    def _extend(self, view: memoryview, events: list[Event]) -> int:
        piece = view[: self._left]
        self._extended += piece
        self._left -= len(piece)
        if not self._left:
            self._end_extended(bytes(self._extended), self.position + len(piece) - len(self._extended))
            self._pad(len(self._extended))
        return len(piece)

    def _end_extended(self, payload: bytes, at: int) -> None:
        match self._letter:
            case b"L":
                self._records["path"] = payload.partition(b"\0")[0]
            case b"K":
                self._records["linkpath"] = payload.partition(b"\0")[0]
            case b"g":
                self._defaults |= _kept(read_records(payload, at))
            case _:
                self._records |= _kept(read_records(payload, at))

    def _begin_member(self, header: Header, events: list[Event]) -> None:
        self._member = member = self._described(header)
        self._records = {}
        self._left = member.size
        self.members += 1
        events.append(member)
        if member.size:
            self._step = self._content
        else:
            events.append(END)
            self._step = self._header

    def _described(self, header: Header) -> Member:
        records = self._defaults | self._records if self._defaults else self._records
        name = _decoded(records.get("path") or header.name)
        if header.letter == b"S" or _SPARSE in records:
            raise self._invalid(f"member {shown(name)!r} is stored sparse; pack it again without --sparse")
        kind = self._kind(header.letter, name)
        return Member(
            name=name.rstrip("/") or name if kind is Kind.DIRECTORY else name,
            kind=kind,
            size=self._size(header, records) if kind is Kind.FILE else 0,
            mode=header.mode,
            mtime_ns=self._time(header, records),
            link=_decoded(records.get("linkpath") or header.link) if kind in _LINKS else "",
        )

    def _kind(self, letter: bytes, name: str) -> Kind:
        kind = _KINDS.get(letter)
        if kind is Kind.FILE and name.endswith("/"):  # how directories were told before they had a letter
            return Kind.DIRECTORY
        if kind is None:
            told = letter.decode("latin-1")
            raise self._invalid(f"member {shown(name)!r} is of kind {told!r}, which is not read here")
        return kind

    def _invalid(self, what: str) -> ArchiveInvalid:
        return invalid(f"at byte {self.position} {what}", self.position)

    def _size(self, header: Header, records: dict[str, bytes]) -> int:
        value = records.get("size")
        return size_of(value, self.position) if value else header.size

    def _time(self, header: Header, records: dict[str, bytes]) -> int:
        value = records.get("mtime")
        return time_of(value, self.position) if value else header.mtime * SECOND_NS

    def _content(self, view: memoryview, events: list[Event]) -> int:
        piece = view[: self._left]
        self._left -= len(piece)
        events.append(piece)
        if not self._left:
            events.append(END)
            self._pad(self._member.size)
        return len(piece)

    def _pad(self, size: int) -> None:
        self._left = -size % BLOCK_BYTES
        self._step = self._padding if self._left else self._header

    def _padding(self, view: memoryview, events: list[Event]) -> int:
        taken = min(self._left, len(view))
        self._left -= taken
        if not self._left:
            self._step = self._header
        return taken

    def _last(self, view: memoryview, events: list[Event]) -> int:
        if len(view) < BLOCK_BYTES:
            return 0
        if view[:BLOCK_BYTES] != EMPTY_BLOCK:
            raise self._invalid("the archive goes on after half of its end mark")
        self._step = self._after
        return BLOCK_BYTES

    def _after(self, view: memoryview, events: list[Event]) -> int:
        if bytes(view).strip(b"\0"):
            raise self._invalid("the archive goes on after its end mark")
        return len(view)


_LINKS = frozenset((Kind.SYMLINK, Kind.HARD_LINK))


def _kept(records: dict[str, bytes]) -> dict[str, bytes]:
    """What matters here; an archive may hold any number of other keys, and they are not to pile up."""
    kept = {key: value for key, value in records.items() if key in _KEPT}
    if any(key.startswith(_SPARSE) for key in records):
        kept[_SPARSE] = b""
    return kept


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
