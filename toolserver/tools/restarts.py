"""When a dev server that ended by itself is started again, and when it is given up: decided, not done."""

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
