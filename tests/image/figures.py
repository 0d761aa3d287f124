"""Figures that the tests take on the way: told at the end of the run, asserted nowhere.

``docs/performance.md`` keeps the ones of a quiet machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


class Figures:
    """A table of name, value and what it is held against."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []

    def add(self, name: str, value: str, beside: str = "") -> None:
        """One row."""
        self._rows.append((name, value, beside))

    def table(self) -> str:
        """All rows as a Markdown table."""
        head = [("figure", "value", "beside"), ("---", "---", "---")]
        return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *self._rows])


def median_seconds(act: Callable[[], object], times: int) -> float:
    """The median time of ``act``, in seconds."""
    taken = []
    for _ in range(times):
        begun = time.monotonic()
        act()
        taken.append(time.monotonic() - begun)
    return statistics.median(taken)
