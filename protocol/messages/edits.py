"""Edits: exact replacements, in one file or in several, all or nothing."""

from __future__ import annotations

from protocol.messages.base import Answer, Part, Request


class Replacement(Part, frozen=True, kw_only=True):
    """One replacement. ``oldText`` must occur exactly once, unless ``replaceAll``."""

    path: str
    old_text: str
    new_text: str
    replace_all: bool = False
    expected_hash: str | None = None
    """Refuse with ``conflict`` unless the file has this hash before the request's first edit to it."""


class Edit(Request, frozen=True, kw_only=True):
    """Replace text in files: one replacement by its own fields, or several in ``edits``, applied in order."""

    path: str | None = None
    old_text: str | None = None
    new_text: str | None = None
    replace_all: bool = False
    expected_hash: str | None = None
    edits: list[Replacement] = []
    dry_run: bool = False
    """Answer with what would change, and change nothing."""


class EditedFile(Answer, frozen=True, kw_only=True):
    """One file after the request."""

    path: str
    replacements: int
    size: int
    hash: str
    diff: str
    """Unified diff with three lines of context."""


class EditAnswer(Answer, frozen=True, kw_only=True):
    """Every file that the request touched."""

    files: list[EditedFile]
    replacements: int
    diff: str
    """All files' diffs, one after the other."""
    hash: str | None
    """The new hash, when one file was edited."""
