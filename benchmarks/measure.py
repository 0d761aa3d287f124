"""Candidates by turns, so that a noisy machine is noisy for all of them alike; medians, p99, ratios.

Nothing here ends a run: a candidate that fails, or takes too long, becomes a figure that says why.
"""

from __future__ import annotations

import asyncio
import enum
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import NamedTuple

Act = Callable[[], Awaitable[object]]

ROUNDS_SECONDS = 12.0
"""For all rounds of one case, so that a slow machine measures less often instead of longer."""
UNTIL: ContextVar[float] = ContextVar("UNTIL", default=math.inf)
"""When (``time.monotonic``) the group's time is over: its last case ends then with what it has."""
LEAST_RUNS = 2
"""Turns that everybody gets, however slow."""
ACT_SECONDS = 90.0
"""For one act: the largest take 10 s on a quiet machine."""


class Kind(enum.StrEnum):
    """Whose a figure is."""

    FLOOR = "floor"
    OURS = "ours"
    PEER = "peer"


@dataclass(frozen=True)
class Taken:
    """Answered by an act that looked at its own clock: this counts, not how long the act was away."""

    milliseconds: float


class Entry(NamedTuple):
    """One candidate of a case."""

    name: str
    act: Act
    kind: Kind = Kind.OURS


@dataclass(frozen=True)
class Figure:
    """One candidate's times in one case, in milliseconds unless ``unit`` says otherwise."""

    case: str
    candidate: str
    median_ms: float
    p99_ms: float
    runs: int
    ratio: float | None
    """Of its median to that of the case's floor, which comes first; None where there is none."""
    kind: Kind = Kind.OURS
    unit: str = "ms"
    per_second: float | None = None
    """Answers, where several were asked for at once."""
    not_run: str = ""
    """Why there are no numbers."""

    def row(self) -> str:
        """For a table in Markdown."""
        if self.not_run:
            return f"| {self.case} | {self.candidate} | not run: {_cell(self.not_run)} | | | |"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        unit = "" if self.unit == "ms" else f" {self.unit}"
        rate = "" if self.per_second is None else f" ({self.per_second:.0f}/s)"
        return (
            f"| {self.case} | {self.candidate} | {self.median_ms:.2f}{unit}{rate} | {self.p99_ms:.2f} "
            f"| {ratio} | {self.runs} |"
        )

    def data(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def missing(case: str, name: str, why: BaseException | str, kind: Kind = Kind.OURS) -> Figure:
    """The figure of what could not be measured."""
    return Figure(case, name, 0.0, 0.0, 0, None, kind, not_run=why if isinstance(why, str) else reason(why))


def value(case: str, name: str, amount: float, unit: str, kind: Kind = Kind.OURS) -> Figure:
    """A figure that is no time, and was taken once."""
    return Figure(case, name, round(amount, 2), round(amount, 2), 1, None, kind, unit)


async def compare(
    case: str,
    candidates: Sequence[Entry | tuple[str, Act]],
    runs: int,
    seconds: float = ROUNDS_SECONDS,
    *,
    warm: bool = True,
    limit: float = ACT_SECONDS,
) -> list[Figure]:
    """Time ``candidates`` up to ``runs`` times each, A B A B, for about ``seconds``; the first is the floor.

    A kind is by its place: the floor, then ours. ``warm``: each once before that, unmeasured. ``limit``
    is in seconds, for one act: who takes longer is out.
    """
    entries = [_entry(each, index) for index, each in enumerate(candidates)]
    times: dict[str, list[float]] = {each.name: [] for each in entries}
    failed: dict[str, str] = {}
    spent = dict.fromkeys(times, 0.0)

    async def turn(each: Entry) -> None:
        left = UNTIL.get() - time.monotonic()
        if each.name in failed or left <= 0:
            return
        begun = time.monotonic()
        try:
            times[each.name].append(await timed(each.act, min(limit, left)))
        except Exception as error:  # whatever a peer raises, the others go on
            # The group's time ended, not the candidate's: what it has measured before, counts.
            if not (isinstance(error, TimeoutError) and left < limit):
                failed[each.name] = reason(error)
        spent[each.name] += time.monotonic() - begun

    if warm:
        for each in entries:
            await turn(each)
        times, spent = {each.name: [] for each in entries}, dict.fromkeys(times, 0.0)
    share = seconds / max(len(entries), 1)
    for index in range(runs):
        # Who has had his share of the time rests, so that a slow one does not leave the quick ones few turns.
        left = [each for each in entries if index < LEAST_RUNS or spent[each.name] < share]
        for each in left:
            await turn(each)
    return figures(case, entries, times, failed)


def figures(
    case: str, entries: Iterable[Entry], times: dict[str, list[float]], failed: dict[str, str]
) -> list[Figure]:
    """One each, in order; the first entry is the floor.

    >>> async def act() -> None: ...
    >>> both = [Entry("floor", act, Kind.FLOOR), Entry("ours", act)]
    >>> [each.ratio for each in figures("x", both, {"floor": [1.0, 3.0], "ours": [4.0]}, {})]
    [1.0, 2.0]
    >>> figures("x", both, {"floor": [], "ours": [4.0]}, {"floor": "gone"})[0].row()
    '| x | floor | not run: gone | | | |'
    """
    entries = list(entries)
    base = times.get(entries[0].name) if entries and entries[0].name not in failed else None
    floor = statistics.median(base) if base else None
    found = []
    for each in entries:
        if each.name in failed or not times[each.name]:
            found.append(
                missing(case, each.name, failed.get(each.name, "no time was left for it"), each.kind)
            )
        else:
            found.append(figure(case, each.name, times[each.name], floor, each.kind))
    return found


def figure(case: str, name: str, times: list[float], floor: float | None, kind: Kind = Kind.OURS) -> Figure:
    """What ``times``, in milliseconds, come to beside the floor's median."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    return Figure(
        case=case,
        candidate=name,
        median_ms=round(median, 3),
        p99_ms=round(percentile(ordered, 0.99), 3),
        runs=len(ordered),
        ratio=round(median / floor, 2) if floor else None,
        kind=kind,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of ``ordered`` (sorted) lie below; of few, the last.

    >>> percentile(range(1, 201), 0.99), percentile([7.0], 0.99)
    (199, 7.0)
    """
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def timed(act: Act, limit: float = ACT_SECONDS) -> float:
    """Milliseconds of one act, or those it measured itself. Raises TimeoutError past ``limit`` seconds."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(limit):
            answer = await act()
    except TimeoutError:
        raise TimeoutError(f"it took longer than {limit:.0f} s") from None
    return answer.milliseconds if isinstance(answer, Taken) else (time.perf_counter() - begun) * 1000


def reason(error: BaseException) -> str:
    """One line, without what only this machine knows.

    >>> reason(ValueError("no\\nsuch")), reason(TimeoutError())
    ('no', 'TimeoutError')
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _entry(given: Entry | tuple[str, Act], index: int) -> Entry:
    return given if isinstance(given, Entry) else Entry(*given, Kind.OURS if index else Kind.FLOOR)


def _cell(text: str) -> str:
    return text.replace("|", "/")
