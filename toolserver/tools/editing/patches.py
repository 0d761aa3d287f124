"""What a patch says of one file, whichever way it was written."""

from __future__ import annotations

from dataclasses import dataclass

from toolserver.tools.editing.hunks import Hunk


@dataclass(frozen=True)
class Added:
    """A file that is not there yet."""

    path: str
    content: str
    mode: int | None = None


@dataclass(frozen=True)
class Deleted:
    """A file that goes; with ``hunks``, only if it is just what they remove."""

    path: str
    hunks: tuple[Hunk, ...] = ()


@dataclass(frozen=True)
class Updated:
    """A file that changes, or only its name or mode."""

    path: str
    hunks: tuple[Hunk, ...]
    to: str | None = None
    mode: int | None = None


Section = Added | Deleted | Updated
