"""Bytes replaced where a search has found them, if they are still there.

ripgrep counts without a byte order mark, and in UTF-8 for what is UTF-16; so the same is done here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.errors import Conflict, InvalidRequest
from toolserver.tools.editing.documents import Document, document_of

_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Splice:
    """One file's pieces, from the top."""

    path: str
    pieces: tuple[tuple[int, bytes, bytes], ...]
    """Where each begins, as ripgrep counts; old; new."""
    is_ascii: bool
    """Whether what the caller wants to see in their place is ASCII, which stands in any charset."""


def spliced(splice: Splice, data: bytes) -> bytes:
    r"""The file's bytes after it; raises Conflict when they are no longer what was searched.

    >>> spliced(Splice("a", ((1, b"b", b"xx"),), True), b"\xef\xbb\xbfabc")
    b'\xef\xbb\xbfaxxc'
    >>> spliced(Splice("a", ((0, b"b", "é".encode()),), False), b"\xff\xfeb\0") == b"\xff\xfe\xe9\0"
    True
    """
    if data.startswith(_UTF16_MARKS):
        document = document_of(splice.path, data)
        text = _joined(splice, document.text.encode())
        return document.with_text(text.decode()).encoded(splice.path)
    mark = _UTF8_MARK if data.startswith(_UTF8_MARK) else b""
    rest = data[len(mark) :]
    return mark + _joined(splice if splice.is_ascii else _in_charset(splice, rest), rest)


def _in_charset(splice: Splice, data: bytes) -> Splice:
    """The caller's characters as they stand in this file."""
    if not _is_no_utf8(data):
        return splice
    if any(_is_no_utf8(new) for _, _, new in splice.pieces):
        raise InvalidRequest(
            f"the replacement would mix two charsets in {splice.path!r}; leave that file out with 'glob'",
            field="replacement",
            path=splice.path,
        )
    charset = document_of(splice.path, data).charset
    pieces = (
        (at, old, Document(new.decode(), charset).encoded(splice.path)) for at, old, new in splice.pieces
    )
    return replace(splice, pieces=tuple(pieces))


def _joined(splice: Splice, data: bytes) -> bytes:
    parts: list[bytes] = []
    cursor = 0
    for at, old, new in splice.pieces:
        if data[at : at + len(old)] != old or at < cursor:
            raise Conflict(f"{splice.path!r} has changed while it was searched; ask again", path=splice.path)
        parts += [data[cursor:at], new]
        cursor = at + len(old)
    return b"".join([*parts, data[cursor:]])


def _is_no_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False
