"""Edits: text replaced and inserted, files created, deleted, moved, patched; many at once, all or nothing."""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Part, Request
from protocol.messages.diagnostics import DevFeedbackAnswer
from protocol.messages.search import PatternKind


class EditKind(enum.Enum):
    """What one edit does; each has its own fields."""

    REPLACE = "replace"
    """``oldText`` by ``newText``."""
    REPLACE_LINES = "replace_lines"
    """Lines ``startLine`` to ``endLine`` by ``newText``."""
    INSERT = "insert"
    """``newText`` as lines after ``afterLine``."""
    CREATE = "create"
    """A file with ``content``."""
    DELETE = "delete"
    MOVE = "move"
    """To ``to``."""
    PATCH = "patch"
    """What ``patch`` says, to as many files as it names."""


class Rung(enum.Enum):
    """How exactly text was found; a later one is tried only when all earlier ones found nothing."""

    EXACT = "exact"
    LINE_ENDINGS = "line_endings"
    """Line ends apart."""
    TRAILING_SPACE = "trailing_space"
    """And spaces at the ends of lines apart."""
    INDENTATION = "indentation"
    """And indentation apart; the new text is indented as the file is."""


class FileAction(enum.Enum):
    """What became of a file."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"
    MOVED = "moved"
    UNCHANGED = "unchanged"


class FileEdit(Part, frozen=True, kw_only=True):
    """One edit. Without ``op`` it is a ``patch`` when it has one, else a ``replace``."""

    op: EditKind | None = None
    path: str | None = None
    old_text: str | None = None
    """Must occur exactly once, unless ``replaceAll`` or ``expectedCount``."""
    new_text: str | None = None
    replace_all: bool = False
    expected_count: int | None = None
    """Replace all, and refuse when ``oldText`` does not occur just so often."""
    start_line: int | None = None
    """First line, from 1; negative counts from the end."""
    end_line: int | None = None
    """Last line, included; the same as ``startLine`` when it is left out."""
    after_line: int | None = None
    """0 inserts at the top, -1 at the end."""
    content: str | None = None
    """Of a file to create, as UTF-8."""
    to: str | None = None
    overwrite: bool = False
    """``create`` and ``move`` may replace a file that is there."""
    patch: str | None = None
    """``*** Begin Patch`` … ``*** End Patch``, or a unified diff."""
    expected_hash: str | None = None
    """Refuse with ``conflict`` unless the file has this hash before the request's first edit to it."""


class Edit(FileEdit, Request, frozen=True, kw_only=True):
    """Change text in files: one edit by its own fields, or several in ``edits``, in order, all or nothing."""

    edits: list[FileEdit] = []
    dry_run: bool = False
    """Answer with what would change, and change nothing."""
    wait_for_dev: bool = False
    """Answer also with what the dev server says of it, as ``dev_feedback``; within 5 s."""


class EditedFile(Answer, frozen=True, kw_only=True):
    """One file after the request."""

    path: str
    replacements: int
    """Places changed in it."""
    size: int
    hash: str | None
    """None for a file that is gone."""
    diff: str
    """Unified diff with three lines of context; empty when it would be too long, or the file is no text."""
    action: FileAction = FileAction.MODIFIED
    moved_from: str | None = None
    added_lines: int = 0
    removed_lines: int = 0
    diff_truncated: bool = False
    """The diff is left out, for the answer's diffs would pass ``maxEditDiffBytes``."""


class AppliedEdit(Answer, frozen=True, kw_only=True):
    """How one edit, or one hunk of a patch, found its place."""

    edit: int
    """Of the request's edits, from 0."""
    path: str
    lines: list[int]
    """Where it was found, in the file as the edits before it had left it; at most 20."""
    rung: Rung = Rung.EXACT
    count: int = 1
    offset: int = 0
    """Lines between where a unified diff said and where it was found."""
    fuzz: int = 0
    """Lines of a unified diff's context, at either end, that were not found."""


class EditAnswer(Answer, frozen=True, kw_only=True):
    """Every file that the request touched."""

    files: list[EditedFile]
    replacements: int
    diff: str
    """All files' diffs, one after the other."""
    hash: str | None
    """The new hash, when one file was edited."""
    edits: list[AppliedEdit] = []
    """In the order in which they were applied; at most 1000."""
    dev: DevFeedbackAnswer | None = None
    """With ``waitForDev``."""


class Replace(Request, frozen=True, kw_only=True):
    """Replace a pattern in all files that hold it, in one step; honours .gitignore, skips hidden files."""

    pattern: str
    """As for ``search``: a regular expression in ripgrep's syntax, or plain text."""
    replacement: str
    """With a regular expression, ``$1`` and ``$name`` stand for its groups, ``$$`` for a dollar sign."""
    kind: PatternKind = PatternKind.REGEX
    glob: list[str] | str = []
    """Only paths that fit, ``!`` in front leaves out: ``*.ts``, ``!**/test/**``."""
    path: str = "."
    """Only below this directory, or in this file."""
    case_sensitive: bool = True
    word: bool = False
    """Only whole words."""
    multiline: bool = False
    """A match may go over line ends; ``.`` takes a line end only with ``(?s)``."""
    max_files: int | None = None
    """Refuse, with nothing changed, when more files match."""
    dry_run: bool = False
    """Answer with what would change, and change nothing."""


class ReplaceAnswer(Answer, frozen=True, kw_only=True):
    """What was replaced, file by file."""

    files: list[EditedFile]
    """By path; each with its count, and its diff while there is room for it."""
    replacements: int
    file_count: int
