r"""Where old text is in a file, rung by rung; what is found on one rung keeps the search from the next.

    exact -> line ends apart -> spaces at line ends apart -> indentation apart

The last two compare whole lines. Forgiving is only the search: what the file has beside the change stays as
it is, and where the new text's indentation cannot be told from the file's, nothing is found.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.messages.edits import Rung
from toolserver.tools.diff import same_lines
from toolserver.tools.editing.documents import CRLF, bare, ending_of, is_crlf_only, with_ending
from toolserver.tools.text import lines_of

Span = tuple[int, int]
_KEYS: dict[Rung, Callable[[str], str]] = {
    Rung.EXACT: lambda line: line,
    Rung.LINE_ENDINGS: bare,
    Rung.TRAILING_SPACE: str.rstrip,
    Rung.INDENTATION: str.strip,
}
"""What is compared of a line."""
_COMMON = 1000
"""A line that a file has oftener says nothing of where a text nearly is."""


class UnclearIndentation(Exception):
    """The old text was found but for its indentation, and the new text cannot be indented like the file."""


@dataclass(frozen=True)
class Found:
    """All places on one rung, overlapping ones too, in order."""

    rung: Rung
    spans: list[Span]

    def apart(self) -> list[Span]:
        """Those that do not overlap, from the top."""
        chosen: list[Span] = []
        for span in self.spans:
            if not chosen or span[0] >= chosen[-1][1]:
                chosen.append(span)
        return chosen


def find(text: str, old: str) -> Found | None:
    r"""The places of ``old``, on the first rung that has any.

    >>> find("aaa", "aa")
    Found(rung=<Rung.EXACT: 'exact'>, spans=[(0, 2), (1, 3)])
    >>> find("a\r\nb\r\n", "a\nb\n")
    Found(rung=<Rung.LINE_ENDINGS: 'line_endings'>, spans=[(0, 6)])
    >>> find("if x:  \n\ty\n", "if x:\n    y").rung
    <Rung.INDENTATION: 'indentation'>
    """
    if spans := _exact(text, old):
        return Found(Rung.EXACT, spans)
    if (CRLF in text or CRLF in old) and (spans := _neutral(text, old)):
        return Found(Rung.LINE_ENDINGS, spans)
    if old.strip():
        lines, wanted = lines_of(text), lines_of(old)
        for rung in (Rung.TRAILING_SPACE, Rung.INDENTATION):
            if places := positions(keys(lines, rung), keys(wanted, rung)):
                return Found(rung, _spans(lines, len(wanted), places, whole_last=old.endswith("\n")))
    return None


def keys(lines: Sequence[str], rung: Rung) -> list[str]:
    """What is compared of each line."""
    key = _KEYS[rung]
    return [key(line) for line in lines]


def positions(have: Sequence[str], wanted: Sequence[str], start: int = 0) -> list[int]:
    """Where the ``wanted`` lines stand in a row, from ``start`` on.

    >>> positions(["a", "b", "a", "b"], ["a", "b"])
    [0, 2]
    """
    first, rest = wanted[0], list(wanted)
    last = len(have) - len(rest)
    return [
        at for at in range(start, last + 1) if have[at] == first and list(have[at : at + len(rest)]) == rest
    ]


def _exact(text: str, old: str) -> list[Span]:
    found = []
    at = text.find(old) if old else -1
    while at >= 0:
        # Who writes a bare line feed does not mean the half of a CRLF.
        if not (old[0] == "\n" and at and text[at - 1] == "\r" and "\r" not in old):
            found.append((at, at + len(old)))
        at = text.find(old, at + 1)
    return found


def _neutral(text: str, old: str) -> list[Span]:
    plain, wanted = text.replace(CRLF, "\n"), old.replace(CRLF, "\n")
    ends: list[int] = []
    at = text.find(CRLF)
    while at >= 0:
        ends.append(at - len(ends))
        at = text.find(CRLF, at + 2)
    found, at = [], plain.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        found.append((at + bisect.bisect_left(ends, at), end + bisect.bisect_left(ends, end)))
        at = plain.find(wanted, at + 1)
    return found


def _spans(lines: Sequence[str], count: int, places: Sequence[int], *, whole_last: bool) -> list[Span]:
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line))

    def end(at: int) -> int:
        last = lines[at + count - 1]
        return offsets[at + count] - (0 if whole_last else len(last) - len(bare(last)))

    return [(offsets[at], end(at)) for at in places]


def fitted(text: str, span: Span, old: str, new: str, rung: Rung) -> str:
    r"""``new`` as it goes into ``text`` at ``span``. Raises UnclearIndentation.

    >>> fitted("a\r\nb\r\n", (0, 1), "a", "x\ny", Rung.EXACT)
    'x\r\ny'
    >>> fitted("a\n\nb", (0, 2), " a\n ", " c\n ", Rung.INDENTATION)
    'c\n'
    >>> fitted("  if x:\n    y\n", (0, 13), "if x:\n  y", "if z:\n  y", Rung.INDENTATION)
    '  if z:\n    y'
    """
    if rung is Rung.EXACT:
        # A caller that writes "\r" knows what it does.
        adapts = "\r" not in old and CRLF not in new and is_crlf_only(text)
        return with_ending(new, CRLF) if adapts else new
    region = text[slice(*span)]
    ending = ending_of(region if "\n" in region else text)
    if rung is Rung.LINE_ENDINGS:
        return with_ending(new, ending)
    wanted, stands = lines_of(old), lines_of(region)
    # A last line of spaces may stand for an empty one, of which the span has nothing.
    stands += [""] * (len(wanted) - len(stands))
    made = composed(stands, wanted, lines_of(new), rung, ending)
    joined = [line if line.endswith("\n") else line + ending for line in made]
    if joined and not new.endswith("\n"):
        joined[-1] = bare(joined[-1])
    return "".join(joined)


def composed(
    region: Sequence[str], old: Sequence[str], new: Sequence[str], rung: Rung, ending: str
) -> list[str]:
    """``new`` lines in place of ``region``, which is ``old`` but for what the rung leaves apart.

    A line that the change does not touch stays as the file has it. Raises UnclearIndentation.
    """
    if rung is Rung.EXACT:
        return list(new)
    kept = {
        run.new + n: region[run.old + n]
        for run in same_lines([bare(line) for line in old], [bare(line) for line in new])
        for n in range(run.size)
    }
    shift = _shift(region, old) if rung is Rung.INDENTATION else str
    return [kept[at] if at in kept else shift(bare(line)) + ending for at, line in enumerate(new)]


def _shift(region: Sequence[str], old: Sequence[str]) -> Callable[[str], str]:
    """How a line that is indented as ``old`` is becomes one that is indented as the file is."""
    pairs = {(_indent(was), _indent(here)) for was, here in zip(old, region, strict=True) if was.strip()}
    more = {here.removesuffix(was) for was, here in pairs if here.endswith(was)}
    less = {was.removesuffix(here) for was, here in pairs if was.endswith(here)}
    known = dict(pairs)

    def shifted(line: str) -> str:
        if not line.strip():
            return line
        indent = _indent(line)
        if len(more) == 1 and all(here.endswith(was) for was, here in pairs):
            return next(iter(more)) + line
        if len(less) == 1 and all(was.endswith(here) for was, here in pairs):
            surplus = next(iter(less))
            if indent.startswith(surplus):
                return line[len(surplus) :]
        if len(known) == len(pairs) and indent in known:
            return known[indent] + line[len(indent) :]
        raise UnclearIndentation

    return shifted


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))] if line.strip() else ""


def nearest(text: str, old: str) -> tuple[int, int] | None:
    r"""First and last line, from 1, of what is most like ``old``; None when no line of it is there.

    >>> nearest("a\nb\nc\nd\n", "b\nX\nd")
    (2, 4)
    """
    have, wanted = keys(lines_of(text), Rung.INDENTATION), keys(lines_of(old), Rung.INDENTATION)
    places: dict[str, list[int]] = {}
    for at, line in enumerate(have):
        places.setdefault(line, []).append(at)
    votes = Counter(
        at - number
        for number, line in enumerate(wanted)
        if line and len(places.get(line, ())) <= _COMMON
        for at in places.get(line, ())
    )
    if not votes:
        return None
    first = max(votes, key=lambda at: (votes[at], -at))
    return max(first, 0) + 1, min(first + len(wanted), len(have))


def line_number(text: str, at: int) -> int:
    """The line of position ``at``, from 1."""
    return text.count("\n", 0, at) + 1
