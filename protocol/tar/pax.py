"""PAX records: ``"19 path=src/a.txt\\n"``, where 19 is the length of the whole record in bytes.

What a header block has no room for stands in such records in front of it: long names, names beyond ASCII,
sizes of 8 GiB and more, fractions of a second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from protocol.tar.header import MAX_OCTAL_SIZE, SECOND_NS, invalid

_LENGTH_DIGITS = 7
"""Enough for the longest extended header that is read (1 MiB)."""

_SIZE = re.compile(rb"\d{1,18}")
_TIME = re.compile(rb"(-?)(\d{1,18})(?:\.(\d*))?")


def read_records(payload: bytes, at: int) -> dict[str, bytes]:
    """Keys and raw values, the last of each key; ``at`` is where the payload begins.

    >>> read_records(b"11 a=b c=d\\n6 e=f\\n", 0)
    {'a': b'b c=d', 'e': b'f'}
    """
    records: dict[str, bytes] = {}
    position = 0
    while position < len(payload):
        if not payload[position]:  # some writers fill up with zeros
            break
        key, value, length = _record(payload, position, at)
        records[key] = value
        position += length
    return records


def _record(payload: bytes, position: int, at: int) -> tuple[str, bytes, int]:
    space = payload.find(b" ", position, position + _LENGTH_DIGITS + 1)
    digits = payload[position : max(space, position)]
    end = position + int(digits) if digits.isdigit() else len(payload) + 1
    key, equals, value = payload[space + 1 : end - 1].partition(b"=")
    if end > len(payload) or end <= space or not equals or payload[end - 1 : end] != b"\n":
        raise invalid(f"byte {at + position} should begin a PAX record, but does not", at + position)
    return key.decode("utf-8", "replace"), value, end - position


def write_records(records: Mapping[str, bytes]) -> bytes:
    """The payload that says ``records``, in their order.

    >>> write_records({"path": b"src/a.txt"})
    b'18 path=src/a.txt\\n'
    """
    return b"".join(_written(key.encode(), value) for key, value in records.items())


def _written(key: bytes, value: bytes) -> bytes:
    # The length counts its own digits, so it is looked for: one digit more may carry into the next.
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def size_of(value: bytes, at: int) -> int:
    """A ``size`` record's value in bytes."""
    if not _SIZE.fullmatch(value):
        raise invalid(f"the PAX header before byte {at} holds {value[:40]!r} as a size", at)
    return int(value)


def time_of(value: bytes, at: int) -> int:
    """An ``mtime`` record's value in nanoseconds.

    >>> time_of(b"1.5", 0), time_of(b"-2", 0)
    (1500000000, -2000000000)
    """
    match = _TIME.fullmatch(value)
    if match is None:
        raise invalid(f"the PAX header before byte {at} holds {value[:40]!r} as a time", at)
    sign, seconds, fraction = match.groups(b"")
    nanoseconds = int(seconds) * SECOND_NS + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def time_record(mtime_ns: int) -> bytes | None:
    """The ``mtime`` record for a time that octal seconds cannot say, or None.

    >>> time_record(5 * SECOND_NS), time_record(1_500_000_000), time_record(-1)
    (None, b'1.5', b'-0.000000001')
    """
    if mtime_ns >= 0 and not mtime_ns % SECOND_NS and mtime_ns <= MAX_OCTAL_SIZE * SECOND_NS:
        return None
    seconds, nanoseconds = divmod(abs(mtime_ns), SECOND_NS)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{'-' if mtime_ns < 0 else ''}{seconds}{fraction}".encode()
