"""Patterns as .gitignore writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Globs:
    """A request's ``glob``: only what fits one of its patterns, and none of those with ``!`` in front.

    >>> globs = Globs.of(["*.ts", "!*.test.ts"])
    >>> [globs.fits(path) for path in ("a.ts", "a.test.ts", "b")]
    [True, False, False]
    """

    only: GitIgnoreSpec | None
    without: GitIgnoreSpec | None

    @classmethod
    def of(cls, given: Sequence[str] | str, ignore: Sequence[str] | None = None) -> Globs:
        """``ignore`` are more to leave out. Raises InvalidRequest."""
        globs = [given] if isinstance(given, str) else given
        only = [each for each in globs if not each.startswith("!")]
        without = [each[1:] for each in globs if each.startswith("!")]
        return cls(
            spec(only, "glob"), spec([*without, *(ignore or ())], "glob" if ignore is None else "ignore")
        )

    def fits(self, path: str) -> bool:
        """Whether a path is wanted; one of a directory ends with a slash."""
        if self.without is not None and self.without.match_file(path):
            return False
        return self.only is None or self.only.match_file(path)


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
