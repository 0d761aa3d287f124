"""Checkpoints: the tree as it was, and the way back to it.

A checkpoint that is asked for holds the whole tree. An automatic one is made before each request of this tool
server that changes files, and holds what that request touched, so that ``undo`` can take it back. What tools
fill (node_modules, .git, caches) is in none, and stays as it is when the rest goes back.
"""

from __future__ import annotations

import enum

import msgspec

from protocol.messages.base import Answer, Request


class Checkpoint(Request, frozen=True, kw_only=True):
    """Keep the whole tree as it is now, to come back to; only what changed since the last one takes room."""

    name: str | None = None
    """To call it by; up to 200 characters, not digits alone, not ``now``."""


class CheckpointEntry(Answer, frozen=True, kw_only=True):
    """One checkpoint."""

    id: str
    name: str | None
    created: str
    """ISO 8601 UTC."""
    cause: str
    """``checkpoint``, or the operation it was made for: ``edit``, ``write``, ``remove``, ``rollback`` …"""
    automatic: bool
    """It holds only the paths that its request has touched."""
    files: int
    bytes: int
    """Content that was new with it."""
    request_id: str | None = None
    undone: bool = False
    """An ``undo`` has taken its request back."""
    incomplete: str | None = None
    """Why not all content is kept: files past ``maxCheckpointFileBytes``, a request past ``maxUndoBytes``."""


class CheckpointAnswer(CheckpointEntry, frozen=True, kw_only=True):
    """The new one."""

    dropped: list[str] = []
    """Ids of older ones that had to go for it, to keep the bounds."""


class Checkpoints(Request, frozen=True, kw_only=True):
    """List the checkpoints, the newest first."""

    limit: int = 100
    automatic: bool = True
    """Those too that were made before requests."""


class CheckpointsAnswer(Answer, frozen=True, kw_only=True):
    """What there is to go back to."""

    checkpoints: list[CheckpointEntry]
    total: int
    bytes: int
    """All contents together, as kept on the disk."""
    max_bytes: int
    dropped: int
    """How many have gone so far to keep the bounds, the oldest first."""
    set_aside: str | None = None
    """A file in the tool server's state directory: earlier checkpoints, which could not be read any more."""


class ChangedKind(enum.Enum):
    """What became of a path."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"
    MODE = "mode"
    """Permission bits alone."""


class CheckpointDiff(Request, frozen=True, kw_only=True):
    """Tell what differs between two checkpoints, or between one and the tree as it is now."""

    from_: str = msgspec.field(name="from")
    """An id or a name."""
    to: str = "now"
    """An id, a name, or ``now``. With an automatic one on either side, only paths that it knows."""
    paths: list[str] = []
    """Only these, and what is below them."""
    diff: bool = True
    """With unified diffs of text."""


class ChangedPath(Answer, frozen=True, kw_only=True):
    """One path that differs."""

    path: str
    kind: ChangedKind
    mode_before: int | None = None
    """Permission bits; null when there was nothing."""
    mode_after: int | None = None
    size_before: int | None = None
    size_after: int | None = None
    diff: str | None = None
    """Unified, of text; null for what is none, is too large, or is past ``maxDiffBytes``."""


class CheckpointDiffAnswer(Answer, frozen=True, kw_only=True):
    """What differs, in the order of paths."""

    from_: str = msgspec.field(name="from")
    to: str
    changes: list[ChangedPath]
    total: int
    truncated: bool
    """There are more changes than told, or diffs that were left out for their size."""


class Rollback(Request, frozen=True, kw_only=True):
    """Make the tree, or some paths of it, what they were at a checkpoint; itself it can be undone."""

    to: str
    """An id or a name. An automatic one: back to before its request, for what has been touched since."""
    paths: list[str] = []
    """Only these, and what is below them; everything without."""
    dry_run: bool = False


class Undo(Request, frozen=True, kw_only=True):
    """Take back the last request that changed files; asked again, the one before it."""

    force: bool = False
    """Also where something else has changed the same files since; ``redo`` brings that back."""
    dry_run: bool = False


class Redo(Request, frozen=True, kw_only=True):
    """Take back the last ``undo``, while nothing was edited since."""

    force: bool = False
    """Also where something else has changed the same files since."""
    dry_run: bool = False


class RollbackAnswer(Answer, frozen=True, kw_only=True):
    """What was changed. Files get new times, so that tools notice them."""

    checkpoint: str
    """The one that was gone back to."""
    cause: str
    """Why that one was made: for ``undo``, the operation taken back."""
    undo_checkpoint: str | None
    """The automatic one made first, which leads back again; null when nothing was changed."""
    changes: list[ChangedPath]
    total: int
    """Paths changed; ``changes`` names the first 1000."""
    skipped: list[str] = []
    """Files that had to stay as they are, because the checkpoint does not hold their content."""
