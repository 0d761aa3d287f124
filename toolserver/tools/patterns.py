"""Patterns as .gitignore writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from protocol.errors import InvalidRequest

# pathspec is 15 ms of a daemon's start and 1 MiB, and most daemons never need it: it is imported on use.
if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


def spec(patterns: Sequence[str], field: str) -> GitIgnoreSpec | None:
    """A request's patterns; None for none. Raises InvalidRequest naming the field."""
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(patterns) if patterns else None
    except ValueError as error:
        raise InvalidRequest(f"{field!r} holds a pattern that cannot be read: {error}", field=field) from None


def ignore_file(lines: Iterable[str]) -> GitIgnoreSpec:
    """What an ignore file says. Lines that are no pattern are passed over, as ripgrep does.

    >>> ignore_file(["*.log", "!keep.log"]).match_file("keep.log")
    False
    """
    from pathspec import GitIgnoreSpec

    kept: list[str] = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        kept.append(line)
    return GitIgnoreSpec.from_lines(kept)
