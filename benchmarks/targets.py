"""What is aimed at, as ratios within one run, and whether this run's figures meet it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks.measure import Figure, Kind

_OURS = ("ours", "ours, WebSocket", "ours, frames alone", "ours, gzip", "ours, isolated", "ours, edit")
_MANY_FILES = 1000
_TAR_ZSTD = "tar -I 'zstd -1'"
Figures = Mapping[str, list[Figure]]
"""By the case's name."""


@dataclass(frozen=True)
class Target:
    """One line of the table; ``found`` is None where the run has not measured it."""

    what: str
    bound: float
    unit: str
    found: float | None
    at_most: bool = True

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.found is None:
            return "not measured"
        return "met" if (self.found <= self.bound) is self.at_most else "**missed**"

    def row(self) -> str:
        """For a table in Markdown."""
        found = "" if self.found is None else f"{self.found:.2f}{self.unit}"
        aim = f"{'at most' if self.at_most else 'at least'} {self.bound:g}{self.unit}"
        return f"| {self.what} | {aim} | {found} | {self.verdict} |"


def targets(figures: Iterable[Figure]) -> list[Target]:
    """All of them, in a fixed order.

    >>> [each.verdict for each in targets([Figure("session created", "ours", 0.6, 0.9, 9, None)])][-4:]
    ['not measured', 'met', 'not measured', 'not measured']
    """
    by_case: dict[str, list[Figure]] = {}
    for each in figures:
        if not each.not_run:
            by_case.setdefault(each.case, []).append(each)
    return (
        [make(by_case) for make in _ALL]
        + _warm(by_case)
        + [
            Target("a session created, p50", 1.0, " ms", _median(by_case, "session created")),
            Target("sessions a minute, each with its tool server", 120, "", _rate(by_case), at_most=False),
            Target("edit to the page's frame, over a plain file write", 5.0, " ms", _frames(by_case)),
        ]
    )


def _warm(figures: Figures) -> list[Target]:
    """One for each template that was brought up out of a warm store."""
    cases = [case for case in figures if case.startswith("inject to ready, ")]
    what = "with a warm store, beside the bare dev server"
    return [Target(f"{case}, {what}", 1.2, "", _against(figures, case, "bare dev server")) for case in cases]


def _start(figures: Figures) -> Target:
    found = _against(figures, "start to healthy", "SWE-ReX")
    return Target("start to healthy, beside SWE-ReX", 0.6, "", found)


def _memory(figures: Figures) -> Target:
    return Target("idle memory", 45, " MiB", _median(figures, "memory, idle"))


def _true(where: str) -> Callable[[Figures], Target]:
    def made(figures: Figures) -> Target:
        found = _against(figures, f"command true, {where}", "posix_spawn + pidfd")
        return Target(f"`true`, beside posix_spawn and a pidfd, {where}", 1.5, "", found)

    return made


def _true_of_peers(figures: Figures) -> Target:
    peers = [each.median_ms for each in figures.get("command true", []) if each.kind is Kind.PEER]
    ours = _median(figures, "command true")
    found = ours / min(peers) if ours and peers else None
    return Target("`true`, beside the quickest peer", 1.0, "", found)


def _output(figures: Figures) -> Target:
    found = _against(figures, "100 MB of output, in pairs", "cat to Python")
    return Target("100 MB of output to one reader, beside cat", 2.0, "", found)


def _first_byte(figures: Figures) -> Target:
    found = _median(figures, "first byte of a stream")
    return Target("first byte of a stream", 2.0, " ms", found)


def _small_read(where: str) -> Callable[[Figures], Target]:
    def made(figures: Figures) -> Target:
        found = _against(figures, f"read 1 KiB, frames alone, {where}", "bare echo socket")
        return Target(f"small read over the WebSocket, beside an echo, {where}", 1.5, "", found)

    return made


def _token(figures: Figures) -> Target:
    thousand = _median(figures, "1000 token checks")
    return Target("a session token checked", 0.1, " ms", thousand / 1000 if thousand else None)


def _p99(case: str, what: str) -> Callable[[Figures], Target]:
    def made(figures: Figures) -> Target:
        one = _ours(figures, case)
        return Target(
            f"p99 to median, 64 at once, {what}", 5.0, "", one.p99_ms / one.median_ms if one else None
        )

    return made


def _search(count: int) -> Callable[[Figures], Target]:
    def made(figures: Figures) -> Target:
        ours, rg = (
            _median(figures, f"a word in {count} files"),
            _of(figures, f"a word in {count} files", "ripgrep"),
        )
        found = (ours - 3.0) / rg if ours and rg else None
        return Target(f"a word in {count} files, less 3 ms, beside ripgrep", 1.2, "", found)

    return made


def _large_archive(way: str, bound: float, ours: str, floor: str) -> Callable[[Figures], Target]:
    def made(figures: Figures) -> Target:
        case = next((each for each in figures if each.startswith(f"archive {way}, one file of ")), "")
        found = _ratio(_of(figures, case, ours), _of(figures, case, floor))
        return Target(f"archive {way}, one large file, beside {floor}", bound, "", found)

    return made


def _few_in(figures: Figures) -> Target:
    return Target("archive in, 50 files", 30, " ms", _median(figures, "archive in, 50 files"))


def _archive(
    way: str, bound: float, ours: str, floor: str, beside: str = "GNU tar"
) -> Callable[[Figures], Target]:
    def made(figures: Figures) -> Target:
        # The largest tree of small files of the run; a few files, or a lone large one, say other things.
        cases = {each: each.split() for each in figures if each.startswith(f"archive {way}, ")}
        many = {each: int(words[2]) for each, words in cases.items() if words[2].isdigit()}
        case = max(
            (each for each in many if many[each] >= _MANY_FILES), key=lambda each: many[each], default=""
        )
        found = _ratio(_of(figures, case, ours), _of(figures, case, floor))
        return Target(f"archive {way}, many small files, beside {beside}", bound, "", found)

    return made


_ALL: tuple[Callable[[Figures], Target], ...] = (
    _start,
    _memory,
    _true("in pairs"),
    _true("on one core"),
    _true_of_peers,
    _output,
    _first_byte,
    _small_read("on two cores"),
    _small_read("on one core"),
    _token,
    _p99("read 1 KiB, 64 at once", "small read over HTTP"),
    _p99("read 1 KiB by sockets, 64 at once", "small read over sockets"),
    _p99("command true, 64 at once", "`true`"),
    _search(1000),
    _search(50_000),
    _archive("in", 0.75, "ours", "tar xzf"),
    _archive("out", 0.25, "ours, gzip", "tar czf"),
    _archive("out", 1.5, "ours, zstd", _TAR_ZSTD, _TAR_ZSTD),
    _few_in,
    _large_archive("in", 0.3, "ours", "tar xzf"),
    _large_archive("out", 0.25, "ours, gzip", "tar czf"),
    _large_archive("out", 1.5, "ours, zstd", _TAR_ZSTD),
)


def _ours(figures: Figures, case: str) -> Figure | None:
    own = [each for each in figures.get(case, []) if each.kind is Kind.OURS]
    named = [each for each in own if each.candidate in _OURS]
    return next(iter(named or own), None)


def _median(figures: Figures, case: str) -> float | None:
    one = _ours(figures, case)
    return one.median_ms if one else None


def _of(figures: Figures, case: str, candidate: str) -> float | None:
    return next((each.median_ms for each in figures.get(case, []) if each.candidate == candidate), None)


def _against(figures: Figures, case: str, candidate: str) -> float | None:
    return _ratio(_median(figures, case), _of(figures, case, candidate))


def _ratio(ours: float | None, other: float | None) -> float | None:
    return ours / other if ours and other else None


def _rate(figures: Figures) -> float | None:
    found = [name for name in figures if name.startswith("sessions a minute")]
    return _median(figures, found[0]) if found else None


def _frames(figures: Figures) -> float | None:
    worst = None
    for case in figures:
        plain = _of(figures, case, "plain file write")
        ours = _median(figures, case)
        if plain is not None and ours is not None:
            worst = max(worst or ours - plain, ours - plain)
    return worst
