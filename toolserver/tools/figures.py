"""What is counted of operations: how many, how they ended, how long they took, which limit was met."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BOUNDS_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0),
)
"""From a small read over the WebSocket, 0.15 ms, to an install."""


@dataclass
class Durations:
    """Of one operation; ``buckets[i]`` has those up to ``BOUNDS_SECONDS[i]``, the last one all longer ones.

    >>> durations = Durations()
    >>> durations.add(0.001), durations.add(700.0)
    (None, None)
    >>> durations.cumulative()[:3], durations.cumulative()[-1], durations.seconds
    ([('0.0005', 0.0), ('0.001', 1.0), ('0.0025', 1.0)], ('+Inf', 2.0), 700.001)
    """

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SECONDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus has it: (upper bound, how many up to it)."""
        found, count = [], 0
        for bound, each in zip((*map(str, BOUNDS_SECONDS), "+Inf"), self.buckets, strict=True):
            count += each
            found.append((bound, float(count)))
        return found


@dataclass
class Figures:
    """Of one daemon, since its start. Names are those of the table and of errors: they are bounded."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations: dict[str, Durations] = field(default_factory=dict)
    limits: Counter[str] = field(default_factory=Counter)
    """How often each was met, by its name in errors."""
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, operation: str, outcome: str, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """One operation has ended."""
        self.outcomes[operation, outcome] += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if (durations := self.durations.get(operation)) is None:
            durations = self.durations[operation] = Durations()
        durations.add(seconds)
