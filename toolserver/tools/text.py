"""Bytes as text: pure rules that the file tools share."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from protocol.errors import InvalidRequest
from protocol.messages.base import Encoding
from protocol.messages.files import Charset

_MARKS = ((b"\xff\xfe", Charset.UTF16_LE), (b"\xfe\xff", Charset.UTF16_BE))
_NO_TEXT = bytes({*range(0x20), *range(0x7F, 0xA0)} - {*b"\t\n\r\f\x1b"})
"""Control characters that no text holds, of ASCII and of ISO 8859-1."""
_LATIN_SHARE = 0.3
"""Letters beyond ASCII in a text of ISO 8859-1 at most; French has 4 in a hundred. A gut feeling."""


def content_hash(data: bytes) -> str:
    """
    >>> content_hash(b"")[:20]
    'sha256:e3b0c44298fc1'
    """
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encoded(data: bytes) -> tuple[str, Encoding]:
    """Content for an answer: as text if it is UTF-8 without NUL, else as base64.

    >>> encoded(b"a"), encoded(b"\\xff")
    (('a', <Encoding.UTF8: 'utf-8'>), ('/w==', <Encoding.BASE64: 'base64'>))
    """
    text = as_text(data)
    if text is None:
        return base64.b64encode(data).decode(), Encoding.BASE64
    return text, Encoding.UTF8


def charset_of(data: bytes) -> Charset | None:
    r"""What a whole file's bytes are; None for what is no text. UTF-16 is known by its byte order mark.

    >>> [charset_of(data).value for data in ("é".encode(), b"d\xe9j\xe0 vu, dit-il", b"\xff\xfea\0")]
    ['utf-8', 'iso-8859-1', 'utf-16-le']
    >>> charset_of(b"\x89PNG\xff"), charset_of(b"a\0")
    (None, None)
    """
    if is_ascii(data):
        return Charset.UTF8  # most files, and quick to see
    for mark, charset in _MARKS:
        if data.startswith(mark):
            return charset if _decodes(data, charset) else None
    if b"\0" in data:
        return None
    if _decodes(data, Charset.UTF8):
        return Charset.UTF8
    beyond = len(data) - len(data.translate(None, bytes(range(0xA0, 0x100))))
    is_text = len(data.translate(None, _NO_TEXT)) == len(data) and beyond <= _LATIN_SHARE * len(data)
    return Charset.LATIN1 if is_text else None


def is_ascii(data: bytes) -> bool:
    r"""Whether it is text, and in ASCII alone.

    >>> is_ascii(b"a\n"), is_ascii("é".encode()), is_ascii(b"a\0")
    (True, False, False)
    """
    return data.isascii() and b"\0" not in data


def _decodes(data: bytes, charset: Charset) -> bool:
    try:
        data.decode(charset.value)
    except UnicodeDecodeError:
        return False
    return True


def as_text(data: bytes) -> str | None:
    """The text, or None when it is binary."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def decoded(content: str, encoding: Encoding, field: str = "content") -> bytes:
    """A request's content as bytes; raises InvalidRequest."""
    try:
        return base64.b64decode(content, validate=True) if encoding is Encoding.BASE64 else content.encode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field!r} is not valid {encoding.value}: {error}", field=field) from None


def bytes_of(content: str, encoding: Encoding, charset: Charset) -> bytes:
    """A request's content as the bytes of a file; raises InvalidRequest.

    >>> bytes_of("é", Encoding.UTF8, Charset.LATIN1)
    b'\\xe9'
    """
    if encoding is Encoding.BASE64:
        return decoded(content, encoding)
    try:
        return content.encode(charset.value)
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{content[error.start]!r} is no character of {charset.value}; choose another charset",
            field="charset",
        ) from None


def lines_of(text: str) -> list[str]:
    """Lines with their ends; only line feeds end one, so that numbers agree with ripgrep and editors.

    >>> lines_of("a\\r\\nb\\x0cc\\n")
    ['a\\r\\n', 'b\\x0cc\\n']
    """
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def line_range(total: int, start: int | None, end: int | None) -> tuple[int, int]:
    """First and last line, both from 1 and included; a range that begins past the end is refused.

    >>> line_range(10, -3, None), line_range(10, 2, 99)
    ((8, 10), (2, 10))
    """
    first = _from_end(1 if start is None else start, total)
    last = min(_from_end(total if end is None else end, total), total)
    if start is not None and not 1 <= first <= max(total, 1):
        raise _no_line(start, total)
    if end is not None and (end == 0 or last < min(total, 1)):
        raise _no_line(end, total)
    if last < first and total:
        raise InvalidRequest(
            f"the range ends (line {last}) before it begins (line {first})", total_lines=total
        )
    return first, last


def _no_line(line: int, total: int) -> InvalidRequest:
    has = "is empty" if not total else "has 1 line" if total == 1 else f"has {total} lines"
    why = f"the file {has}" if line else "lines count from 1, or from -1 for the last"
    return InvalidRequest(f"line {line} does not exist; {why}", total_lines=total)


def _from_end(line: int, total: int) -> int:
    return total + 1 + line if line < 0 else line


def printable(name: str) -> str:
    """A name for an answer; bytes in it that are not UTF-8 become U+FFFD.

    >>> printable("caf\\udce9") == "caf\\ufffd"
    True
    """
    return name if name.isascii() else os.fsencode(name).decode(errors="replace")
