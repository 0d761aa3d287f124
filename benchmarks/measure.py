"""Candidates by turns, so that a noisy machine is noisy for all of them alike; medians, p99, ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

Act = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Figure:
    """One candidate's times in one case, in milliseconds."""

    case: str
    candidate: str
    median_ms: float
    p99_ms: float
    runs: int
    ratio: float
    """Of its median to that of the case's floor, which comes first."""

    def row(self) -> str:
        """For a table in Markdown."""
        return (
            f"| {self.case} | {self.candidate} | {self.median_ms:.2f} | {self.p99_ms:.2f} "
            f"| {self.ratio:.2f} | {self.runs} |"
        )

    def data(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


async def compare(case: str, candidates: Sequence[tuple[str, Act]], runs: int) -> list[Figure]:
    """Time each of ``candidates`` ``runs`` times, A B A B; the first is the floor. One warm-up each."""
    times: dict[str, list[float]] = {name: [] for name, _ in candidates}
    for _, act in candidates:
        await act()
    for _ in range(runs):
        for name, act in candidates:
            begun = time.perf_counter()
            await act()
            times[name].append((time.perf_counter() - begun) * 1000)
    floor = statistics.median(times[candidates[0][0]])
    return [figure(case, name, found, floor) for name, found in times.items()]


def figure(case: str, name: str, times: list[float], floor: float) -> Figure:
    """What ``times``, in milliseconds, come to beside the floor's median."""
    ordered = sorted(times)
    return Figure(
        case=case,
        candidate=name,
        median_ms=round(statistics.median(ordered), 3),
        p99_ms=round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        runs=len(ordered),
        ratio=round(statistics.median(ordered) / floor, 2),
    )
