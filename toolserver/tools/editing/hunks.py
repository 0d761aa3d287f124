r"""Where the hunks of a patch belong in a file, and the file after them.

A hunk's old lines are looked for rung by rung, below the hunk before it. Where the patch says which of
several places it means (a line number, an anchor, the end of the file), that one is taken; otherwise there
must be only one. What is found elsewhere than told, or without the outermost lines of its context, is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from protocol.errors import AmbiguousMatch, NoMatch
from protocol.messages.edits import Rung
from toolserver.tools.editing.documents import bare, ending_of, has_final_end, tidied
from toolserver.tools.editing.matching import UnclearIndentation, composed, keys, nearest, positions
from toolserver.tools.text import lines_of

SHOWN_LINES = 20
"""Line numbers named in an error or an answer; more say nothing new."""
_MAX_FUZZ = 2
"""Lines of context, at either end, that may be wrong: what GNU patch takes by default."""


@dataclass(frozen=True)
class Hunk:
    """Lines, with their ends, that are to be replaced by others."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    source: int
    """Its line in the patch, from 1, for errors."""
    line: int | None = None
    """Where a unified diff says that it begins, from 1; with no old lines, the line before it."""
    anchors: tuple[str, ...] = ()
    """Lines above it, each below the one before."""
    at_end: bool = False
    """The old lines are the file's last."""
    leading: int = 0
    """Old lines at the top that stay, and ``trailing`` at the bottom."""
    trailing: int = 0


@dataclass(frozen=True)
class Placed:
    """Where a hunk was found: ``line`` from 1, in the file as it was before the patch."""

    line: int
    rung: Rung
    offset: int = 0
    fuzz: int = 0


@dataclass
class _Place:
    at: int
    rung: Rung
    offset: int = 0
    fuzz: int = 0
    hunk: Hunk = field(default=Hunk((), (), 0))
    """As it is applied: without the context that was left out."""


def patched(path: str, text: str, hunks: Sequence[Hunk]) -> tuple[str, list[Placed]]:
    r"""The text after all ``hunks``; raises NoMatch, AmbiguousMatch.

    >>> patched("f", "a\nb\nc\n", [Hunk(("b\n",), ("x\n", "y\n"), 1)])
    ('a\nx\ny\nc\n', [Placed(line=2, rung=<Rung.EXACT: 'exact'>, offset=0, fuzz=0)])
    """
    lines, ending = lines_of(text), ending_of(text)
    finder = _Finder(path, text, lines)
    made: list[str] = []
    cursor, final = 0, has_final_end(text) if text else None
    places = []
    for hunk in hunks:
        place = finder.find(hunk, cursor)
        used = place.hunk
        end = place.at + len(used.old)
        made += lines[cursor : place.at]
        made += _composed(path, lines[place.at : end], place, ending)
        if hunk.line is not None and place.rung is Rung.EXACT and end == len(lines):
            final = None  # a unified diff says itself whether the file's last line has an end
        cursor = end
        places.append(Placed(place.at + 1, place.rung, place.offset, place.fuzz))
    made += lines[cursor:]
    return tidied(made, ending, has_final_end=final), places


def _composed(path: str, region: list[str], place: _Place, ending: str) -> list[str]:
    try:
        new = composed(region, place.hunk.old, place.hunk.new, place.rung, ending)
    except UnclearIndentation:
        raise unclear(path, place.at + 1) from None
    if place.rung is Rung.EXACT and place.hunk.line is None and ending != "\n":
        return [bare(line) + ending for line in new]
    return new


def unclear(path: str, line: int) -> NoMatch:
    """The refusal of an edit whose indentation would be a guess."""
    return NoMatch(
        f"old text does not occur in {path!r}; on line {line} it differs only in spaces or line ends, "
        "copy it exactly from there",
        path=path,
        nearest=[line],
    )


class _Finder:
    """One file, hunk after hunk."""

    def __init__(self, path: str, text: str, lines: list[str]) -> None:
        self._path = path
        self._text = text
        self._lines = lines
        self._keys: dict[tuple[Rung, bool], list[str]] = {}
        self._offset = 0

    def find(self, hunk: Hunk, cursor: int) -> _Place:
        """The place of ``hunk``, at or below line index ``cursor``."""
        start = self._below_anchors(hunk, cursor)
        if not hunk.old:
            return _Place(self._of_nothing(hunk, cursor, start), Rung.EXACT, hunk=hunk)
        for rung, fuzz, tried in _attempts(hunk):
            have = self._have(rung, literal=hunk.line is not None)
            wanted = keys(tried.old, rung)
            if rung in (Rung.TRAILING_SPACE, Rung.INDENTATION) and not any(wanted):
                continue
            places = positions(have, wanted, start)
            if hunk.at_end:
                places = [at for at in places if at + len(wanted) == len(self._lines)]
            if places:
                shift = min(fuzz, hunk.leading)
                at = self._chosen(hunk, places, shift)
                offset = 0 if hunk.line is None else at - shift - (hunk.line - 1)
                if hunk.line is not None:
                    self._offset = offset
                return _Place(at, rung, offset, fuzz, tried)
        raise self._not_found(hunk)

    def _have(self, rung: Rung, *, literal: bool) -> list[str]:
        """The file's keys; without ``literal`` a last line without an end has one too."""
        found = self._keys.get((rung, literal))
        if found is None:
            lines = self._lines
            if not literal and lines and not lines[-1].endswith("\n"):
                lines = [*lines[:-1], lines[-1] + "\n"]
            found = self._keys[rung, literal] = keys(lines, rung)
        return found

    def _chosen(self, hunk: Hunk, places: list[int], shift: int) -> int:
        """Of several, the one that the patch means; raises AmbiguousMatch when it does not say."""
        if hunk.anchors:
            return places[0]
        if hunk.line is not None and hunk.line - 1 + self._offset + shift in places:
            return hunk.line - 1 + self._offset + shift
        if len(places) > 1:
            raise ambiguous(self._path, [at + 1 for at in places], _of(hunk), _advice(hunk))
        return places[0]

    def _below_anchors(self, hunk: Hunk, cursor: int) -> int:
        for number, anchor in enumerate(hunk.anchors):
            places = self._anchored(anchor, cursor)
            if not places:
                raise NoMatch(
                    f"{self._path!r} has no line {anchor.strip()!r} below line {cursor}, which the anchor "
                    f"on line {hunk.source} of the patch names; copy the whole line",
                    path=self._path,
                    patch_line=hunk.source,
                )
            if not number and len(places) > 1:
                advice = "name a line above it in an anchor of its own"
                raise ambiguous(self._path, [at + 1 for at in places], f"anchor {anchor.strip()!r}", advice)
            cursor = places[0] + 1
        return cursor

    def _anchored(self, anchor: str, start: int) -> list[int]:
        for rung in (Rung.LINE_ENDINGS, Rung.TRAILING_SPACE, Rung.INDENTATION):
            if places := positions(self._have(rung, literal=True), keys([anchor], rung), start):
                return places
        return []

    def _of_nothing(self, hunk: Hunk, cursor: int, start: int) -> int:
        """Where lines are put that replace none: below the anchors, after the told line, or at the end."""
        if hunk.at_end or (hunk.line is None and not hunk.anchors):
            return len(self._lines)
        if hunk.line is None:
            return start
        if not cursor <= hunk.line + self._offset <= len(self._lines):
            raise self._not_found(hunk)
        return hunk.line + self._offset

    def _not_found(self, hunk: Hunk) -> NoMatch:
        near = nearest(self._text, "".join(hunk.old))
        where = " at its end" if hunk.at_end else ""
        return NoMatch(
            f"{_of(hunk)} does not occur in {self._path!r}{where}{hint(near)}",
            path=self._path,
            patch_line=hunk.source,
            nearest=list(near or ()),
        )


def _attempts(hunk: Hunk) -> Iterator[tuple[Rung, int, Hunk]]:
    """What is looked for, in this order: rung, fuzz, the hunk without as many lines of context."""
    for rung in Rung:
        yield rung, 0, hunk
    if hunk.line is None:
        return
    for fuzz in range(1, _MAX_FUZZ + 1):
        top, bottom = min(fuzz, hunk.leading), min(fuzz, hunk.trailing)
        if (top, bottom) == (min(fuzz - 1, hunk.leading), min(fuzz - 1, hunk.trailing)):
            return
        old, new = hunk.old[top : len(hunk.old) - bottom], hunk.new[top : len(hunk.new) - bottom]
        if old:
            for rung in (Rung.EXACT, Rung.LINE_ENDINGS):
                yield rung, fuzz, Hunk(old, new, hunk.source, hunk.line)


def _of(hunk: Hunk) -> str:
    return f"the old text of the hunk on line {hunk.source} of the patch"


def _advice(hunk: Hunk) -> str:
    return "correct its line number, or add context" if hunk.line is not None else "add context or an anchor"


def ambiguous(
    path: str, lines: list[int], what: str, advice: str, count: int | None = None
) -> AmbiguousMatch:
    """Names the lines; ``count`` is how many there are when ``lines`` has only the first."""
    count = len(lines) if count is None else count
    named = ", ".join(map(str, lines[:SHOWN_LINES])) + (", …" if count > SHOWN_LINES else "")
    times = "once" if count == 1 else f"{count} times"
    return AmbiguousMatch(
        f"{what} is in {path!r} {times}, on line{'s' if count > 1 else ''} {named}; {advice}",
        path=path,
        lines=lines[:SHOWN_LINES],
        count=count,
    )


def hint(near: tuple[int, int] | None) -> str:
    """The end of a sentence on text that was not found.

    >>> hint((3, 3))
    '; nearest is line 3: read it again and copy it exactly'
    """
    if near is None:
        return "; read the file again and copy the text exactly"
    first, last = near
    if first >= last:
        return f"; nearest is line {first}: read it again and copy it exactly"
    return f"; nearest are lines {first} to {last}: read them again and copy the text exactly"
