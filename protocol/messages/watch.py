"""Watch: what changes in the tree, as it happens, numbered.

A number holds for the life of one tool server. Whoever comes back with one gets what came after it, or is
told to look at everything again, by ``resync``: never is a change left out in silence.
"""

from __future__ import annotations

import enum

import msgspec

from protocol.messages.base import Answer, Event, Request


class ChangeKind(enum.Enum):
    """What became of a path."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"
    MOVED = "moved"


class ResyncReason(enum.Enum):
    """Why what came after a number is not known."""

    EXPIRED = "expired"
    """The number is not of this tool server, or too old."""
    LOST = "lost"
    """The reader was too slow for what is kept, or the kernel's own queue ran over."""


class Watch(Request, frozen=True, kw_only=True):
    """Follow changes below some paths; without a stream, answer with those since a number."""

    paths: list[str] = []
    """Files, or directories with all that is in them; they need not exist yet. None: the whole workspace."""
    glob: list[str] | str = []
    """Only paths that fit, ``!`` in front leaves out, as in ``search``."""
    ignore: list[str] = []
    """Names and paths to leave out, as .gitignore writes them. What is inside node_modules, .git and the like
    is never followed."""
    debounce_ms: int = 50
    """Quiet time to wait for after a change, so that one batch tells of what belongs together; 0 to 60000."""
    since: int | None = None
    """Begin with what came after this number, of an earlier answer or event; without it, with what comes."""
    timeout_ms: int | None = None
    """End after this time. Without a stream: how long to wait for the first change; not at all without."""


class Change(Answer, frozen=True, kw_only=True):
    """One path."""

    number: int
    kind: ChangeKind
    path: str
    is_directory: bool
    from_: str | None = msgspec.field(default=None, name="from")
    """Where something that moved was before. A directory takes along what is in it, which is not told."""
    request_id: str | None = None
    """The request of this tool server that touched the path a moment before, if one did."""


class Watching(Event, frozen=True, kw_only=True, tag="watching"):
    """Everything after ``number`` will be told."""

    number: int


class Changes(Event, frozen=True, kw_only=True, tag="changes"):
    """A batch; ``number`` is the one to come back with."""

    number: int
    changes: list[Change]


class Resync(Event, frozen=True, kw_only=True, tag="resync"):
    """Changes were missed: look at everything again. What comes after ``number`` is told as before."""

    number: int
    reason: ResyncReason


WatchEvent = Watching | Changes | Resync


class WatchAnswer(Answer, frozen=True, kw_only=True):
    """Without a stream, the changes; ``number`` is the one to come back with."""

    number: int
    changes: list[Change] = []
    resync: ResyncReason | None = None
    """Set when some were missed: look at everything again."""
