"""How often somebody may ask: so many requests a second on average, some seconds' worth of them at once.

Per caller only one instant is kept, that at which all that was asked so far would be worked off at the
steady rate (the generic cell rate algorithm). Who is further ahead of now than a burst is refused, and told
for how long.
"""

from __future__ import annotations

from protocol.errors import RateLimited
from protocol.limits import Limits

BURST_SECONDS = 10.0
"""Worth of requests that may come at once: an editor that opens a project, an agent that reads a tree."""
_MAX_CALLERS = 1_024
"""Whose instants are kept; then all begin anew, which favours them."""


class Rate:
    """Of one daemon."""

    def __init__(self, limits: Limits) -> None:
        self._each, self._all = limits.max_requests_per_second, limits.max_requests_per_second_in_all
        self._step, self._step_in_all = 1 / self._each, 1 / self._all
        self._until: dict[str, float] = {}
        self._until_in_all = 0.0

    def take(self, who: str, now: float) -> None:
        """One request of ``who``, at an instant of a steady clock; raises RateLimited, and does not count it.

        >>> rate = Rate(Limits(max_requests_per_second=1))
        >>> for _ in range(10):
        ...     rate.take("ann", now=100.0)
        >>> rate.take("ann", now=100.25)
        Traceback (most recent call last):
        protocol.errors.RateLimited: more than 1 requests a second of one caller; try again in 750 ms
        >>> rate.take("bob", now=100.25), rate.take("ann", now=101.0)
        (None, None)
        """
        until = max(self._until.get(who, 0.0), now) + self._step
        if (ahead := until - now - BURST_SECONDS) > _NOTHING:
            raise _limited("of one caller", "maxRequestsPerSecond", self._each, ahead)
        until_in_all = max(self._until_in_all, now) + self._step_in_all
        if (ahead := until_in_all - now - BURST_SECONDS) > _NOTHING:
            raise _limited("of all callers", "maxRequestsPerSecondInAll", self._all, ahead)
        if len(self._until) >= _MAX_CALLERS and who not in self._until:
            self._until.clear()
        self._until[who], self._until_in_all = until, until_in_all


_NOTHING = 1e-9
"""What is lost when instants are added up."""


def _limited(whose: str, limit: str, value: int, seconds: float) -> RateLimited:
    retry_after_ms = max(1, round(seconds * 1000))
    return RateLimited(
        f"more than {value} requests a second {whose}; try again in {retry_after_ms} ms",
        limit=limit,
        value=value,
        retry_after_ms=retry_after_ms,
    )
