"""What the workspace API hands back: plain, frozen, and without a field that says whether to believe it.

A refusal is raised, as the protocol's own error. So ``success`` is always true and ``error`` always None:
both are there for code that was written against APIs which put failures into results.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True)
class CommandResult:
    """A command that ended, or was ended."""

    command: str
    exit_code: int
    """The command's own; 128 + n when signal n ended it, as the clock does by TERM and then KILL."""
    stdout: str
    """All of it, also of a command that was cut short. Bytes that are not UTF-8 are U+FFFD."""
    stderr: str
    timeout_occurred: bool


@dataclass(frozen=True)
class FileOperationResult:
    """A file that went across, byte for byte."""

    source_path: str
    destination_path: str
    """Where it is now, its own name included."""
    file_size: int
    """Bytes."""
    success: bool = True
    error: str | None = None


class GitChangeStatus(enum.Enum):
    """How a file differs from the last commit."""

    ADDED = "ADDED"
    DELETED = "DELETED"
    MOVED = "MOVED"
    UPDATED = "UPDATED"


@dataclass(frozen=True)
class GitChange:
    """One file that differs. Both paths start at the workspace's root, so every other method takes them."""

    status: GitChangeStatus
    path: PurePosixPath
    original_path: PurePosixPath | None = None
    """Where a moved one was."""


@dataclass(frozen=True)
class GitDiff:
    """A file as it is, and as the last commit has it; None on the side where there is none.

    Of a file that is not UTF-8 text both texts are None, and the bytes stand beside them.
    """

    modified: str | None
    original: str | None
    modified_bytes: bytes | None = field(default=None, repr=False)
    original_bytes: bytes | None = field(default=None, repr=False)

    @property
    def binary(self) -> bool:
        """Whether one side is no text."""
        return self.modified_bytes is not None or self.original_bytes is not None

    @classmethod
    def of(cls, modified: bytes | None, original: bytes | None) -> GitDiff:
        """
        >>> GitDiff.of(b"new", None)
        GitDiff(modified='new', original=None)
        >>> GitDiff.of(b"\\xff", b"text").binary
        True
        """
        try:
            return cls(_text(modified), _text(original))
        except UnicodeDecodeError:
            return cls(None, None, modified, original)


def _text(side: bytes | None) -> str | None:
    return None if side is None else side.decode()
