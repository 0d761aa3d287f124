"""When a dev server that ended by itself is started again, and when it is given up: decided, not done.

So too for one that is started anew because files changed, and changes them by itself as soon as it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.limits import Limits


@dataclass(frozen=True)
class Tally:
    """How often it failed since somebody asked for it, and since it last stayed up."""

    failures: int = 0
    """In a row: none of the runs between them stayed up."""
    restarts: int = 0
    """In all, for whoever asks."""

    def failed(self, ready_ms: float, limits: Limits) -> Tally:
        """After a run that was ready for ``ready_ms``, 0 when it never was.

        >>> Tally(4).failed(59_000, Limits()).failures, Tally(4).failed(61_000, Limits()).failures
        (5, 1)
        """
        return replace(self, failures=1 if ready_ms >= limits.dev_steady_ms else self.failures + 1)

    def started_again(self) -> Tally:
        """After a further start."""
        return replace(self, restarts=self.restarts + 1)

    def delay_ms(self, limits: Limits) -> int | None:
        """The pause before the next start; None when there is to be none.

        >>> [Tally(count).delay_ms(Limits()) for count in range(1, 7)]
        [250, 500, 1000, 2000, 4000, None]
        """
        if self.failures > limits.max_dev_restarts:
            return None
        return limits.dev_restart_delay_ms << (self.failures - 1)


SOON_MS = 10_000
"""What a server writes because it starts, it has written by then: a guess."""


@dataclass(frozen=True)
class Haste:
    """Changes in a row that came soon, and that no request had made: perhaps its own doing.

    So many as it may fail are followed at once, as many more after a pause that grows, and then none.
    """

    in_row: int = 0

    def changed(self, since_ms: float, requested: bool) -> Haste:
        """After a change, so long after it was started, was ready, or the last one.

        >>> Haste(4).changed(900, False).in_row, Haste(4).changed(900, True).in_row
        (5, 0)
        """
        return Haste(self.in_row + 1) if since_ms < SOON_MS and not requested else Haste()

    def delay_ms(self, limits: Limits) -> int | None:
        """The pause before it is started anew for that; None when it is not.

        >>> [Haste(count).delay_ms(Limits()) for count in (0, 5, 6, 7, 10, 11)]
        [0, 0, 250, 500, 4000, None]
        """
        free = max(1, limits.max_dev_restarts)
        if self.in_row > 2 * free:
            return None
        return limits.dev_restart_delay_ms << (self.in_row - free - 1) if self.in_row > free else 0
