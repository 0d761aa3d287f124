"""Files: read, write, list, stat. Paths are relative to the workspace root."""

from __future__ import annotations

import enum

from protocol.errors import ErrorBody
from protocol.messages.base import Answer, Encoding, Request
from protocol.messages.diagnostics import DevFeedbackAnswer


class Kind(enum.Enum):
    """What a directory entry is; a link is shown as itself."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class LeadsTo(enum.Enum):
    """Where a link leads in the end."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    """Or in a circle: nothing here goes there."""
    NOTHING = "nothing"
    """It is broken."""


class Charset(enum.Enum):
    """How a text file's characters stand in its bytes."""

    UTF8 = "utf-8"
    UTF16_LE = "utf-16-le"
    UTF16_BE = "utf-16-be"
    LATIN1 = "iso-8859-1"
    """Taken for it, because it is not UTF-8 and reads like text."""


class Read(Request, frozen=True, kw_only=True):
    """Read one file: whole, a range of lines, or a range of bytes."""

    path: str
    start_line: int | None = None
    """First line, from 1; negative counts from the end."""
    end_line: int | None = None
    """Last line, included; negative counts from the end."""
    offset: int | None = None
    """First byte of a range of bytes; negative counts from the end."""
    length: int | None = None
    """Bytes of that range; to the end of the file without."""
    max_bytes: int | None = None
    """Content at most, in bytes of the file; ``cutBy`` tells when it cut."""
    max_lines: int | None = None
    max_line_bytes: int | None = None
    """Of each line; the rest of a longer one is left out, and ``cutLines`` names it."""
    if_hash: str | None = None
    """Send no content when the file still has this hash."""
    encoding: Encoding | None = None
    """``base64`` asks for the bytes as they are, text or not."""


class ImageSize(Answer, frozen=True, kw_only=True):
    """Pixels."""

    width: int
    height: int


class ReadAnswer(Answer, frozen=True, kw_only=True):
    """A file's content. ``hash`` is that of the whole file, for ``expectedHash`` in an edit."""

    path: str
    content: str
    encoding: Encoding
    """``base64`` when the bytes are no text."""
    charset: Charset | None
    """What the file's own bytes are; null for what is no text. A byte order mark is part of the content."""
    media_type: str
    """By the file's name, else ``text/plain`` or ``application/octet-stream``."""
    image: ImageSize | None = None
    size: int
    """Bytes of the whole file."""
    total_lines: int | None
    """Lines of the whole file; null when it is no text, or too large to be counted for a range of it."""
    start_line: int | None = None
    end_line: int | None = None
    offset: int | None = None
    """Of a range of bytes: where ``content`` begins."""
    length: int | None = None
    """Of a range of bytes: how many there are in ``content``."""
    hash: str | None
    """``sha256:`` and 64 hexadecimal digits, of the whole file; null past ``maxReadBytes``, unless asked by
    ``ifHash``."""
    unchanged: bool = False
    """The file has the hash of ``ifHash``; ``content`` is empty."""
    truncated: bool = False
    """A limit cut the content."""
    cut_by: list[str] = []
    """Which: ``maxBytes``, ``maxLines``, ``maxLineBytes``."""
    cut_lines: list[int] = []
    """Lines cut by ``maxLineBytes``, the first 20."""


class ReadMany(Request, frozen=True, kw_only=True):
    """Read several files at once; what is wrong with one is told beside the others."""

    files: list[Read]


class ReadOne(Answer, frozen=True, kw_only=True):
    """One of several: ``file``, or ``error``."""

    path: str
    file: ReadAnswer | None = None
    error: ErrorBody | None = None


class ReadManyAnswer(Answer, frozen=True, kw_only=True):
    """In the order of the request. Once their content is as much as ``maxReadBytes``, the rest is refused."""

    files: list[ReadOne]


class Write(Request, frozen=True, kw_only=True):
    """Create a file or replace its whole content, by rename: a reader sees the old or the new, never half."""

    path: str
    content: str
    encoding: Encoding = Encoding.UTF8
    charset: Charset = Charset.UTF8
    """Of text: how the file's bytes are to be."""
    expected_hash: str | None = None
    """Refuse with ``conflict`` unless the file has this hash now; ``""`` means that it must not exist."""
    create_parents: bool = True
    mode: int | None = None
    """Permission bits; kept from the file replaced, else 0o644."""
    wait_for_dev: bool = False
    """Answer also with what the dev server says of it, as ``dev_feedback``; within 5 s."""


class WriteAnswer(Answer, frozen=True, kw_only=True):
    """What is there now."""

    path: str
    size: int
    hash: str
    created: bool
    dev: DevFeedbackAnswer | None = None
    """With ``waitForDev``."""


class List(Request, frozen=True, kw_only=True):
    """List a directory, sorted by path."""

    path: str = "."
    depth: int = 1
    """Levels to go down; 1 is the directory's own entries."""
    ignored: bool = False
    """Also go into directories that saves leave out, node_modules and .git among them."""
    gitignore: bool = False
    """Leave out what .gitignore files do, and .ignore and .rgignore as in ``search``."""


class Entry(Answer, frozen=True, kw_only=True):
    """One name in a directory."""

    path: str
    kind: Kind
    size: int
    """Bytes; of a link, the length of its target."""
    mode: int
    """Permission bits."""
    modified: str
    """Last change of content, ISO 8601 UTC."""
    target: str | None = None
    """Where a link points, as written."""
    leads_to: LeadsTo | None = None
    """Of a link."""


class ListAnswer(Answer, frozen=True, kw_only=True):
    """The entries; ``truncated`` when there were more than the limit."""

    path: str
    entries: list[Entry]
    truncated: bool


class Stat(Request, frozen=True, kw_only=True):
    """Tell what is at a path, without following a link at its end."""

    path: str


class StatAnswer(Entry, frozen=True, kw_only=True):
    """What is there; ``hash`` for files up to the read limit."""

    hash: str | None = None
