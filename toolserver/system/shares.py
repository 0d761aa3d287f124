"""How many of a thing each caller may have, and all of them together: so that one cannot take all."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from protocol.errors import Busy


class Share(NamedTuple):
    """A limit: its name for callers, how many, and a sentence that says so and what to do about it."""

    limit: str
    value: int
    told: str


class Shares:
    """Who has how many. For the event loop alone."""

    def __init__(self, each: Share, in_all: Share | None = None) -> None:
        self._each = each
        self._in_all = in_all
        self._of_each: Counter[str] = Counter()
        self.total = 0

    def refuse(self, who: str) -> None:
        """Raise Busy if he has had his share, or all callers together have all. Nobody has no share of his.

        >>> shares = Shares(Share("maxCups", 1, "one cup each"), Share("maxCupsInAll", 2, "two cups are out"))
        >>> shares.take("ann")
        >>> shares.refuse("bob")
        >>> shares.refuse("ann")
        Traceback (most recent call last):
        protocol.errors.Busy: one cup each
        >>> shares.take("bob")
        >>> shares.refuse("eve")
        Traceback (most recent call last):
        protocol.errors.Busy: two cups are out
        """
        if self._in_all is not None and self.total >= self._in_all.value:
            raise _refusal(self._in_all)
        if who and self._of_each[who] >= self._each.value:
            raise _refusal(self._each)

    def take(self, who: str) -> None:
        """One more is his."""
        self.total += 1
        self._of_each[who] += 1

    def give_back(self, who: str) -> None:
        """One less."""
        self.total -= 1
        self._of_each[who] -= 1
        if not self._of_each[who]:
            del self._of_each[who]


def _refusal(share: Share) -> Busy:
    return Busy(share.told, limit=share.limit, value=share.value)
