"""One header block: 512 bytes that tell of one member.

    name 100 | mode 8 | uid 8 | gid 8 | size 12 | mtime 12 | checksum 8 | kind 1 | link 100 | magic 8 |
    user 32 | group 32 | major 8 | minor 8 | prefix 155 | empty 12

Numbers are octal text, or base 256 when the first bit is set (GNU). Owners are neither read nor told: every
member is written as belonging to 0:0 without names, so that the same tree gives the same bytes.
"""

from __future__ import annotations

import enum
import struct
import zlib

import msgspec

from protocol.errors import ArchiveInvalid

BLOCK_BYTES = 512
EMPTY_BLOCK = bytes(BLOCK_BYTES)
SECOND_NS = 1_000_000_000

MAX_OCTAL_SIZE = 8**11 - 1
"""What 11 octal digits hold: 8 GiB less one byte, and the year 2242 as a time."""

_MAX_NUMBER = 2**62
"""Past this no file system holds a size or a time, and some of the kernel's types overflow."""

_READ = struct.Struct("100s8s16x12s12s8sc100s8s80x155s12x")
_CHECKSUM = slice(148, 156)
_POSIX_MAGIC = b"ustar\x0000"
NAME_BYTES = 100
PREFIX_BYTES = 155
_BETWEEN = _POSIX_MAGIC + bytes(64) + b"0000000\0" * 2
"""From the magic to the prefix: neither user nor group has a name."""


class Kind(enum.Enum):
    """What a member is; the value is its letter in the header."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    CHARACTER_DEVICE = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member. Names are text; bytes that are not UTF-8 become surrogates, as by ``os.fsdecode``."""

    name: str
    """As the archive spells it, unchecked; a directory's without its trailing slash."""

    kind: Kind = Kind.FILE
    size: int = 0
    """Bytes of content that follow; 0 for all but files."""

    mode: int = 0o644
    """Permission bits, with set-uid and its like if the archive has them."""

    mtime_ns: int = 0
    """Nanoseconds since 1970; GNU and ustar headers hold whole seconds."""

    link: str = ""
    """What a link points at; for a hard link another member's name."""


class Header(msgspec.Struct, frozen=True):
    """A header block as it stands, before longer names and PAX records that came ahead of it are applied."""

    name: bytes
    letter: bytes
    size: int
    mode: int
    mtime: int
    link: bytes


def read_header(block: bytes, at: int) -> Header:
    """What the block at byte ``at`` of the archive says; ArchiveInvalid when it is not a header.

    >>> block = write_block(Member(name="a.txt", size=5, mtime_ns=7 * SECOND_NS), b"a.txt", b"")
    >>> read_header(block, 0)
    Header(name=b'a.txt', letter=b'0', size=5, mode=420, mtime=7, link=b'')
    >>> read_header(block[:-1] + b"!", 1024)
    Traceback (most recent call last):
    protocol.errors.ArchiveInvalid: byte 1024 should begin a tar header, but its checksum is wrong
    """
    if not is_header(block):
        raise invalid(f"byte {at} should begin a tar header, but its checksum is wrong", at)
    name, mode, size, mtime, _, letter, link, magic, prefix = _READ.unpack(block)
    name, link = _text(name), _text(link)
    if magic == _POSIX_MAGIC and prefix[0]:
        name = _text(prefix) + b"/" + name
    return Header(name, letter, _size(size, at), _number(mode, at), _number(mtime, at), link)


def is_header(block: bytes) -> bool:
    """Whether a block's checksum is right.

    >>> is_header(b"no header".ljust(512))
    False
    """
    try:
        return len(block) == BLOCK_BYTES and _number(block[_CHECKSUM], 0) == _checksum(block)
    except ArchiveInvalid:
        return False


def _checksum(block: bytes) -> int:
    """The sum of all bytes, those of the checksum itself counted as spaces."""
    return _sum(block[:256]) + _sum(block[256:]) - sum(block[_CHECKSUM]) + 8 * 0x20


def _sum(piece: bytes) -> int:
    """The sum of at most 256 bytes."""
    # adler32 adds bytes at the speed of C, and its low half, which begins at 1, is exact below 65521.
    return (zlib.adler32(piece) & 0xFFFF) - 1


_SUM_OF_THE_REST = 8 * 0x20 + _sum(_BETWEEN)
"""Of what is the same in every header that is written."""


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _size(field: bytes, at: int) -> int:
    size = _number(field, at)
    if size < 0:
        raise invalid(f"the header at byte {at} tells of a negative size", at)
    return size


def _number(field: bytes, at: int) -> int:
    """Octal or base 256.

    >>> _number(b"0000644\\0", 0), _number(b"        ", 0), _number(b"\\x80" + bytes(6) + b"\\x09", 0)
    (420, 0, 9)
    >>> _number(b"\\xff" * 8, 0)
    -1
    """
    digits = field.strip(b"\0 ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else _base256(field)
    except ValueError:
        raise invalid(f"the header at byte {at} holds {digits!r} as a number", at) from None


def _base256(field: bytes) -> int:
    """The same for GNU's form; ValueError when it is not, or is past what file systems hold."""
    if field[0] == 0xFF:
        value = int.from_bytes(field, "big", signed=True)
    elif field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        raise ValueError(field)
    if abs(value) > _MAX_NUMBER:
        raise ValueError(field)
    return value


def write_block(member: Member, name: bytes, link: bytes, prefix: bytes = b"", letter: bytes = b"") -> bytes:
    """The member's header block; numbers that ustar cannot hold are written as 0, to be told by PAX.

    ``letter`` stands in for the kind's own: the block then heads something that is not a member.
    """
    size = member.size if member.size <= MAX_OCTAL_SIZE else 0
    seconds = member.mtime_ns // SECOND_NS
    told = b"%07o\x000000000\x000000000\x00%011o\0%011o\0" % (
        member.mode & 0o7777,
        size,
        seconds if 0 <= seconds <= MAX_OCTAL_SIZE else 0,
    )
    name = name[:NAME_BYTES]
    front = b"%b%b" % (letter or member.kind.value, link[:NAME_BYTES])
    back = prefix[:PREFIX_BYTES]
    checksum = _sum(name) + _sum(told) + _sum(front) + _sum(back) + _SUM_OF_THE_REST
    return b"%b%b%06o\0 %b%b%b" % (
        name.ljust(NAME_BYTES, b"\0"),
        told,
        checksum,
        front.ljust(NAME_BYTES + 1, b"\0"),
        _BETWEEN,
        back.ljust(PREFIX_BYTES + 12, b"\0"),
    )


def shown(name: str, limit: int = 200) -> str:
    """A name as it may stand in a message: bounded, and valid Unicode whatever bytes it was made of.

    >>> shown("a" * 5, limit=3), shown("caf\\udce9")
    ('aaa…', 'caf\ufffd')
    """
    text = name[:limit].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text + "…" if len(name) > limit else text


def invalid(message: str, at: int) -> ArchiveInvalid:
    """The refusal of a damaged archive; ``at`` is the byte of the tar stream, unpacked, where it was seen."""
    return ArchiveInvalid(message, byte=at)
