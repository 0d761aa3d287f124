"""Files: read, write, list, stat. Paths are relative to the workspace root."""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Encoding, Request


class Kind(enum.Enum):
    """What a directory entry is; a link is shown as itself."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class Read(Request, frozen=True, kw_only=True):
    """Read one file, whole or a range of lines."""

    path: str
    start_line: int | None = None
    """First line, from 1; negative counts from the end."""
    end_line: int | None = None
    """Last line, included; negative counts from the end."""


class ReadAnswer(Answer, frozen=True, kw_only=True):
    """A file's content. ``hash`` is that of the whole file, for ``expectedHash`` in an edit."""

    path: str
    content: str
    encoding: Encoding
    """``base64`` when the bytes are not UTF-8 text."""
    size: int
    """Bytes of the whole file."""
    total_lines: int | None
    """Lines of the whole file; null when it is not text."""
    start_line: int | None = None
    end_line: int | None = None
    hash: str
    """``sha256:`` and 64 hexadecimal digits, of the whole file."""


class Write(Request, frozen=True, kw_only=True):
    """Create a file or replace its whole content, by rename: a reader sees the old or the new, never half."""

    path: str
    content: str
    encoding: Encoding = Encoding.UTF8
    expected_hash: str | None = None
    """Refuse with ``conflict`` unless the file has this hash now; ``""`` means that it must not exist."""
    create_parents: bool = True
    mode: int | None = None
    """Permission bits; kept from the file replaced, else 0o644."""


class WriteAnswer(Answer, frozen=True, kw_only=True):
    """What is there now."""

    path: str
    size: int
    hash: str
    created: bool


class List(Request, frozen=True, kw_only=True):
    """List a directory, sorted by path."""

    path: str = "."
    depth: int = 1
    """Levels to go down; 1 is the directory's own entries."""
    ignored: bool = False
    """Also go into directories that saves leave out, node_modules and .git among them."""


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
