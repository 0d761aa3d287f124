"""Unified diffs, in time that grows with the text and not with its square.

difflib alone takes 19 s for 10 000 lines of which every second one changed (measured). So lines that occur
once on both sides are anchors, and between two of them the same is asked again; difflib gets only what is
small. The result is always a right diff; it is the shortest one nearly always.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolserver.tools.text import lines_of

_Opcode = tuple[str, int, int, int, int]
_SMALL = 10_000
"""Lines of one side times lines of the other that difflib may have at once: a few milliseconds at worst."""
_MAX_LEVELS = 8
"""Anchors within gaps within gaps; real texts need two or three."""


@dataclass(frozen=True, order=True)
class Same:
    """``size`` lines that are the same: from ``old`` on the one side, from ``new`` on the other."""

    old: int
    new: int
    size: int


@dataclass(frozen=True)
class _Gap:
    """Lines still to be compared: old[a:b] and new[c:d]."""

    a: int
    b: int
    c: int
    d: int
    level: int = 0


def unified_diff(path: str, old: str, new: str) -> str:
    """Unified diff with three lines of context, as ``git`` and ``patch`` read it; empty when nothing changed.

    >>> print(unified_diff("a", "x\\n", "y\\n"), end="")
    --- a/a
    +++ b/a
    @@ -1 +1 @@
    -x
    +y
    """
    return _headed(shown_name("a/", path), shown_name("b/", path), hunks(old, new))


def created_diff(path: str, new: str, mode: int = 0o644) -> str:
    """The diff of a new file, with git's head, which also tells of one that is empty."""
    head = f"diff --git {quoted('a/', path)} {quoted('b/', path)}\nnew file mode 100{mode:o}\n"
    return head + _headed("/dev/null", shown_name("b/", path), hunks("", new))


def deleted_diff(path: str, old: str, mode: int = 0o644) -> str:
    """The diff of a file that goes."""
    head = f"diff --git {quoted('a/', path)} {quoted('b/', path)}\ndeleted file mode 100{mode:o}\n"
    return head + _headed(shown_name("a/", path), "/dev/null", hunks(old, ""))


def moved_diff(path: str, to: str, old: str, new: str) -> str:
    """The diff of a file that gets another name, and perhaps other content."""
    names = f"rename from {quoted('', path)}\nrename to {quoted('', to)}\n"
    head = f"diff --git {quoted('a/', path)} {quoted('b/', to)}\n{names}"
    return head + _headed(shown_name("a/", path), shown_name("b/", to), hunks(old, new))


def hunks(old: str, new: str) -> str:
    """Only what changed, without the names."""
    before, after = lines_of(old), lines_of(new)
    groups = _Anchored(before, after).get_grouped_opcodes()
    return "".join([_printed(group, before, after) for group in groups])


def _headed(old_name: str, new_name: str, text: str) -> str:
    return f"--- {old_name}\n+++ {new_name}\n{text}" if text else ""


def shown_name(side: str, path: str) -> str:
    """A name in a head, where a tab ends one that has spaces."""
    name = quoted(side, path)
    return f"{name}\t" if " " in path and not name.startswith('"') else name


def quoted(side: str, path: str) -> str:
    r"""A name as git writes it: in quotes when a line could not hold it otherwise.

    >>> quoted("a/", "x y"), quoted("b/", 'a"\n')
    ('a/x y', '"b/a\\"\\012"')
    """
    if path.isprintable() and not {'"', "\\"} & set(path):
        return side + path
    return '"' + side + "".join(map(_escaped, path.encode(errors="surrogateescape"))) + '"'


def _escaped(byte: int) -> str:
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def same_lines(old: Sequence[str], new: Sequence[str]) -> list[Same]:
    """What both have in the same order, from the top, as long runs.

    >>> same_lines(["a", "b", "c"], ["a", "x", "c"])
    [Same(old=0, new=0, size=1), Same(old=2, new=2, size=1)]
    """
    found: list[Same] = []
    gaps = [_Gap(0, len(old), 0, len(new))]
    while gaps:
        gap = _trimmed(gaps.pop(), old, new, found)
        if gap.a < gap.b and gap.c < gap.d:
            anchors = _anchors(gap, old, new) if gap.level < _MAX_LEVELS else []
            found += anchors or _compared(gap, old, new)
            gaps += _between(gap, anchors)
    return _joined(sorted(found))


def _trimmed(gap: _Gap, old: Sequence[str], new: Sequence[str], found: list[Same]) -> _Gap:
    """The gap without the lines that are the same at its top and its bottom."""
    a, b, c, d = gap.a, gap.b, gap.c, gap.d
    while a < b and c < d and old[a] == new[c]:
        a, c = a + 1, c + 1
    while a < b and c < d and old[b - 1] == new[d - 1]:
        b, d = b - 1, d - 1
    found += [Same(gap.a, gap.c, a - gap.a)] if a > gap.a else []
    found += [Same(b, d, gap.b - b)] if b < gap.b else []
    return _Gap(a, b, c, d, gap.level)


def _anchors(gap: _Gap, old: Sequence[str], new: Sequence[str]) -> list[Same]:
    """Lines that occur once on both sides, as many as keep their order."""
    once_old = {line for line, count in Counter(old[gap.a : gap.b]).items() if count == 1}
    once_new = {line for line, count in Counter(new[gap.c : gap.d]).items() if count == 1}
    place = {new[c]: c for c in range(gap.c, gap.d) if new[c] in once_new}
    pairs = [(a, place[old[a]]) for a in range(gap.a, gap.b) if old[a] in once_old and old[a] in place]
    return [Same(a, c, 1) for a, c in _increasing(pairs)]


def _increasing(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The most pairs, out of some in order of their first, that are in order of their second too.

    >>> _increasing([(0, 5), (1, 1), (2, 2), (3, 0)])
    [(1, 1), (2, 2)]
    """
    ends: list[int] = []
    ends_at: list[int] = []
    before: list[int] = []
    for at, (_, second) in enumerate(pairs):
        length = bisect.bisect_left(ends, second)
        ends[length : length + 1] = [second]
        ends_at[length : length + 1] = [at]
        before.append(ends_at[length - 1] if length else -1)
    chain = []
    at = ends_at[-1] if ends_at else -1
    while at >= 0:
        chain.append(pairs[at])
        at = before[at]
    return chain[::-1]


def _compared(gap: _Gap, old: Sequence[str], new: Sequence[str]) -> list[Same]:
    """Without an anchor: by difflib when it is small, line by line when the counts agree, else nothing."""
    count_old, count_new = gap.b - gap.a, gap.d - gap.c
    if count_old * count_new <= _SMALL:
        matcher = difflib.SequenceMatcher(None, old[gap.a : gap.b], new[gap.c : gap.d], autojunk=False)
        return [Same(gap.a + m.a, gap.c + m.b, m.size) for m in matcher.get_matching_blocks() if m.size]
    if count_old != count_new:
        return []
    return [Same(gap.a + n, gap.c + n, 1) for n in range(count_old) if old[gap.a + n] == new[gap.c + n]]


def _between(gap: _Gap, anchors: Sequence[Same]) -> Iterator[_Gap]:
    if not anchors:
        return
    edges = [Same(gap.a, gap.c, 0), *anchors, Same(gap.b, gap.d, 0)]
    for left, right in itertools.pairwise(edges):
        yield _Gap(left.old + left.size, right.old, left.new + left.size, right.new, gap.level + 1)


def _joined(runs: Sequence[Same]) -> list[Same]:
    joined: list[Same] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and (last.old + last.size, last.new + last.size) == (run.old, run.new):
            joined[-1] = Same(last.old, last.new, last.size + run.size)
        else:
            joined.append(run)
    return joined


class _Anchored(difflib.SequenceMatcher[str]):
    """difflib's grouping into hunks, over our own matching."""

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        super().__init__(None, "", "")
        self._runs = same_lines(old, new)
        self._end = difflib.Match(len(old), len(new), 0)

    def get_matching_blocks(self) -> list[difflib.Match]:
        """In difflib's form, with the empty one at the end that it expects."""
        return [*(difflib.Match(run.old, run.new, run.size) for run in self._runs), self._end]


def _printed(group: Sequence[_Opcode], old: Sequence[str], new: Sequence[str]) -> str:
    """One hunk."""
    _, first_old, _, first_new, _ = group[0]
    _, _, last_old, _, last_new = group[-1]
    parts = [f"@@ -{_span(first_old, last_old)} +{_span(first_new, last_new)} @@\n"]
    for tag, a, b, c, d in group:
        if tag == "equal":
            parts += [_line(" ", line) for line in old[a:b]]
        else:
            parts += [_line("-", line) for line in old[a:b]]
            parts += [_line("+", line) for line in new[c:d]]
    return "".join(parts)


def _span(start: int, end: int) -> str:
    """
    >>> _span(0, 1), _span(4, 7), _span(0, 0)
    ('1', '5,3', '0,0')
    """
    count = end - start
    return str(start + 1) if count == 1 else f"{start + bool(count)},{count}"


def _line(mark: str, line: str) -> str:
    return mark + line if line.endswith("\n") else f"{mark}{line}\n\\ No newline at end of file\n"
