"""Places: make a directory, move, copy, remove, change permission bits. A link is taken as itself.

Each of these happens whole or not at all. The workspace root itself is never moved, replaced or removed.
"""

from __future__ import annotations

from protocol.messages.base import Answer, Request


class Mkdir(Request, frozen=True, kw_only=True):
    """Make a directory, and those above it; one that is there already is no error."""

    path: str
    parents: bool = True
    mode: int | None = None
    """Permission bits of the new directory; 0o755 without."""


class MkdirAnswer(Answer, frozen=True, kw_only=True):
    """What is there now."""

    path: str
    created: bool
    """False when it was there already."""


class Move(Request, frozen=True, kw_only=True):
    """Move or rename a file, a link or a directory, within the workspace."""

    path: str
    to: str
    """The new path itself, not the directory to put it in."""
    overwrite: bool = False
    """Replace what is there, a directory with all that is in it too."""
    create_parents: bool = True


class MoveAnswer(Answer, frozen=True, kw_only=True):
    """Where it is now."""

    path: str
    to: str
    replaced: bool


class Copy(Request, frozen=True, kw_only=True):
    """Copy a file, a link or a whole directory, with modes and times."""

    path: str
    to: str
    """The new path itself, not the directory to put it in."""
    overwrite: bool = False
    """Replace what is there, a directory with all that is in it too."""
    create_parents: bool = True


class CopyAnswer(Answer, frozen=True, kw_only=True):
    """What the copy consists of."""

    path: str
    to: str
    replaced: bool
    entries: int
    """Files, directories and links."""
    bytes: int


class Remove(Request, frozen=True, kw_only=True):
    """Remove a file, a link, or a directory with all that is in it."""

    path: str
    recursive: bool = False
    """Needed for a directory that is not empty."""
    missing_ok: bool = False
    """Nothing there is no error."""
    expected_hash: str | None = None
    """Refuse with ``conflict`` unless the file has this hash now."""


class RemoveAnswer(Answer, frozen=True, kw_only=True):
    """What became of it."""

    path: str
    removed: bool
    """False when there was nothing, and that was all right."""


class Chmod(Request, frozen=True, kw_only=True):
    """Set the permission bits of a file or a directory; a link is followed within the workspace."""

    path: str
    mode: int
    """0 to 511 (0o777)."""


class ChmodAnswer(Answer, frozen=True, kw_only=True):
    """The bits before and now."""

    path: str
    mode: int
    previous: int
