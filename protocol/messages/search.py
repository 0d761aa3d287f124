"""Search in contents (ripgrep) or in names."""

from __future__ import annotations

import enum

import msgspec

from protocol.messages.base import Answer, Event, Request


class PatternKind(enum.Enum):
    """How a pattern is read."""

    REGEX = "regex"
    LITERAL = "literal"
    FUZZY = "fuzzy"
    """Of names: the characters in this order, with others between them; the best come first. Small letters
    stand for both."""
    GLOB = "glob"
    """Of names: as .gitignore writes patterns, ``src/**/*.ts``."""


class Where(enum.Enum):
    """What a pattern is matched with."""

    CONTENT = "content"
    NAMES = "names"


class Search(Request, frozen=True, kw_only=True):
    """Find text in files, or files by name. Honours .gitignore, skips hidden files, unless told otherwise."""

    pattern: str
    """A regular expression in ripgrep's syntax, or plain text. Names, which are relative paths, have
    ``fuzzy`` and ``glob``, too."""
    kind: PatternKind = PatternKind.REGEX
    in_: Where = msgspec.field(default=Where.CONTENT, name="in")
    path: str = "."
    """Only below this directory, or in this file."""
    glob: list[str] | str = []
    """Only paths that fit, ``!`` in front leaves out: ``*.ts``, ``!**/test/**``."""
    case_sensitive: bool = True
    word: bool = False
    """Only whole words."""
    multiline: bool = False
    """A match may go over line ends; ``.`` takes a line end only with ``(?s)``."""
    types: list[str] = []
    """Only files of these kinds, by ripgrep's names: ``ts``, ``py``."""
    before: int = 0
    """Lines told before each match, and ``after`` it; at most 100."""
    after: int = 0
    hidden: bool = False
    ignored: bool = False
    """Also what .gitignore leaves out."""
    max_matches: int | None = None
    max_per_file: int | None = None
    """Matching lines of one file."""


class Match(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """One matching line, or one matching name (line and column 0, text empty). Defaults are left out."""

    path: str
    line: int
    """From 1."""
    column: int
    """Of the first match on the line, from 1, in characters."""
    text: str
    """The line without its end; of a match over several lines, all of them."""
    text_truncated: bool = False
    end_line: int | None = None
    """Last line of a match over several."""
    before: list[str] = []
    """The lines before it, as many as were asked for and are there."""
    after: list[str] = []
    score: int | None = None
    """Of a name found by ``fuzzy``: how well it fits; only good for comparing."""


class Matches(Event, frozen=True, kw_only=True, tag="matches"):
    """Matches as they are found."""

    matches: list[Match]


class SearchAnswer(Answer, frozen=True, kw_only=True):
    """All matches in path order, fuzzy ones by score. When they were streamed, ``matches`` is empty and
    ``matchCount`` counts."""

    matches: list[Match]
    match_count: int
    file_count: int
    """Files with a match."""
    truncated: bool
    """There may be more: ``maxMatches`` was reached."""
    unconfirmed: int = 0
    """Lines left out, because the file no longer held them when they were to be told."""
