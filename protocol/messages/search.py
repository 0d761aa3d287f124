"""Search in contents (ripgrep) or in names."""

from __future__ import annotations

import enum

import msgspec

from protocol.messages.base import Answer, Event, Request


class PatternKind(enum.Enum):
    """How a pattern is read."""

    REGEX = "regex"
    LITERAL = "literal"


class Where(enum.Enum):
    """What a pattern is matched with."""

    CONTENT = "content"
    NAMES = "names"


class Search(Request, frozen=True, kw_only=True):
    """Find text in files, or files by name. Honours .gitignore, skips hidden files, unless told otherwise."""

    pattern: str
    """A regular expression in ripgrep's syntax, or plain text; names are matched by their relative path."""
    kind: PatternKind = PatternKind.REGEX
    in_: Where = msgspec.field(default=Where.CONTENT, name="in")
    path: str = "."
    """Only below this directory, or in this file."""
    glob: list[str] | str = []
    """Only paths that fit, ``!`` in front leaves out: ``*.ts``, ``!**/test/**``."""
    case_sensitive: bool = True
    word: bool = False
    """Only whole words."""
    hidden: bool = False
    ignored: bool = False
    """Also what .gitignore leaves out."""
    max_matches: int | None = None


class Match(Answer, frozen=True, kw_only=True):
    """One matching line, or one matching name (line and column 0, text empty)."""

    path: str
    line: int
    """From 1."""
    column: int
    """Of the first match on the line, from 1, in characters."""
    text: str
    """The line without its end."""
    text_truncated: bool = False


class Matches(Event, frozen=True, kw_only=True, tag="matches"):
    """Matches as they are found."""

    matches: list[Match]


class SearchAnswer(Answer, frozen=True, kw_only=True):
    """All matches in path order. When they were streamed, ``matches`` is empty and ``matchCount`` counts."""

    matches: list[Match]
    match_count: int
    file_count: int
    """Files with a match."""
    truncated: bool
    """There may be more: ``maxMatches`` was reached."""
