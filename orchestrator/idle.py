"""When an idle session is stopped, and what keeps it: one rule, which explains itself.

The daemon tells what goes on (``activity``); only when nothing does, the time since then counts. So a clock
never ends a job that works, however long it is silent. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.units import count_text
from protocol.messages.activity import ActiveProcess, ActivityAnswer

_NAMED = 3
"""Programs told by name; more are counted."""


@dataclass(frozen=True)
class IdleRule:
    """When to stop."""

    after_seconds: float
    """Of nothing going on."""


@dataclass(frozen=True)
class Observed:
    """What a daemon told, and when: ``at`` is in seconds, on the clock that ``now`` is given on."""

    activity: ActivityAnswer
    at: float


@dataclass(frozen=True)
class Verdict:
    """What becomes of a session."""

    stop: bool
    in_seconds: float
    """Until the clock is over; 0 when it is. With ``kept_alive_by`` that alone does not stop it."""
    kept_alive_by: tuple[str, ...]
    sentence: str


def idle_verdict(observed: Observed, rule: IdleRule, now: float) -> Verdict:
    """Whether the session is to be stopped now, and if not, when, and what keeps it.

    >>> npm = ActiveProcess(process_id="31", pid=4711, command="npm test")
    >>> busy = ActivityAnswer(idle_ms=660_000, requests=0, sockets=0, dev_connections=0, processes=[npm])
    >>> idle_verdict(Observed(busy, 0.0), IdleRule(900), 0.0).sentence
    'would stop in 4 min; kept alive by process 31 (npm test)'
    >>> verdict = idle_verdict(Observed(busy, 0.0), IdleRule(900), 9000.0)  # for hours
    >>> verdict.stop, verdict.in_seconds, verdict.sentence
    (False, 0.0, 'would stop now; kept alive by process 31 (npm test)')
    >>> idle = ActivityAnswer(idle_ms=660_000, requests=0, sockets=0, dev_connections=0, processes=[])
    >>> idle_verdict(Observed(idle, 0.0), IdleRule(900), 0.0).sentence
    'stops in 4 min'
    >>> verdict = idle_verdict(Observed(idle, 0.0), IdleRule(900), 240.0)
    >>> verdict.stop, verdict.sentence
    (True, 'stops now: idle for 15 min')
    """
    idle = observed.activity.idle_ms / 1000 + max(0.0, now - observed.at)
    left = max(0.0, rule.after_seconds - idle)
    kept = tuple(keepers(observed.activity))
    when = "now" if left == 0 else f"in {duration_text(left)}"
    if kept:
        return Verdict(False, left, kept, f"would stop {when}; kept alive by {', '.join(kept)}")
    if left:
        return Verdict(False, left, (), f"stops {when}")
    return Verdict(True, 0.0, (), f"stops now: idle for {duration_text(idle)}")


def keepers(activity: ActivityAnswer) -> Iterator[str]:
    """What goes on, as clauses; the most telling first.

    >>> many = [ActiveProcess(process_id=None, pid=pid, command="make") for pid in range(1, 6)]
    >>> print(*keepers(ActivityAnswer(idle_ms=0, requests=1, sockets=2, dev_connections=1, processes=many)))
    pid 1 (make) pid 2 (make) pid 3 (make) 2 processes more 1 request 2 sockets 1 connection to the dev server
    """
    yield from (_named(each) for each in activity.processes[:_NAMED])
    if (more := len(activity.processes) - _NAMED) > 0:
        yield f"{more} process{'es' if more > 1 else ''} more"
    if activity.requests:
        yield count_text(activity.requests, "request")
    if activity.sockets:
        yield count_text(activity.sockets, "socket")
    if activity.dev_connections:
        yield f"{count_text(activity.dev_connections, 'connection')} to the dev server"


def _named(process: ActiveProcess) -> str:
    who = f"process {process.process_id}" if process.process_id else f"pid {process.pid}"
    return f"{who} ({process.command})"


def duration_text(seconds: float) -> str:
    """For a person; rounded to what matters.

    >>> [duration_text(each) for each in (0.4, 59, 60, 89.9, 240, 5400, 90_000)]
    ['1 s', '59 s', '1 min', '1 min', '4 min', '1 h 30 min', '25 h']
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def parse_duration(text: str) -> float:
    """Seconds, from what a person writes; raises ValueError.

    >>> [parse_duration(each) for each in ("15m", "90s", "1h", "1.5h", "30")]
    [900.0, 90.0, 3600.0, 5400.0, 30.0]
    """
    factors = {"s": 1, "m": 60, "h": 3600}
    number, factor = (text[:-1], factors[text[-1]]) if text[-1:] in factors else (text, 1)
    seconds = float(number) * factor
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is no duration above 0")
    return seconds
