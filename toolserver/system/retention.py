"""Which records of ended programs are kept: decided by count, bytes and age, without touching any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.limits import Limits


@dataclass(frozen=True)
class Kept:
    """One ended program's record."""

    id: str
    ended: float
    """Seconds on the clock that ``now`` is of."""
    bytes: int
    """Of its output, in memory and file."""
    open: bool = False
    """A child of it still writes: its record is how that child is found, so it goes after all others, and
    never for its age."""
    followed: bool = False
    """Somebody reads it: it stays, and counts."""


def too_many(records: Iterable[Kept], now: float, limits: Limits) -> list[str]:
    """Ids of the records to drop, in the order in which they go: until count and bytes fit, oldest first.

    >>> limits = Limits(
    ...     max_kept_processes=2, max_kept_output_in_all_bytes=100, max_kept_process_age_ms=60_000
    ... )
    >>> too_many([Kept("a", 1, 10), Kept("b", 3, 10), Kept("c", 2, 10)], 5, limits)
    ['a']
    >>> too_many([Kept("a", 1, 70), Kept("b", 2, 20), Kept("c", 3, 20)], 5, limits)
    ['a']
    >>> too_many([Kept("a", 1, 90), Kept("b", 2, 90)], 5, limits)
    ['a']
    >>> too_many([Kept("old", 1, 1), Kept("new", 50, 1)], 70, limits)
    ['old']
    >>> too_many([Kept("read", 1, 200, followed=True), Kept("b", 2, 1)], 99, limits)
    ['b']
    >>> too_many([Kept("open", 1, 1, open=True), Kept("b", 2, 1), Kept("c", 3, 1)], 5, limits)
    ['b']
    """
    ordered = sorted(records, key=lambda each: (each.open, each.ended))
    count, size = len(ordered), sum(each.bytes for each in ordered)
    gone = []
    for each in ordered:
        too_old = (now - each.ended) * 1000 > limits.max_kept_process_age_ms and not each.open
        full = count > limits.max_kept_processes or size > limits.max_kept_output_in_all_bytes
        if not each.followed and (too_old or full):
            gone.append(each.id)
            count, size = count - 1, size - each.bytes
    return gone
