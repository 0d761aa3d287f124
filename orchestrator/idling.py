"""Idle sessions are stopped, with a save; what is at work goes on, and is told why.

The rule is ``idle``; here it is asked and carried out. Of a session that cannot be asked nothing is known, so
it is left alone. The last look comes after the save and right before the end: a job that was begun meanwhile
goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.idle import IdleRule, Observed, Verdict, idle_verdict
from orchestrator.paths import UserId
from orchestrator.records import SessionRecord
from orchestrator.sessions import Sessions
from protocol.errors import Conflict, ToolError

ASK_SECONDS = 10.0
"""A daemon that has not answered by then is left alone."""
SETTLE_SECONDS = 5.0
"""The connection of our own save may still be seen open for a moment. A gut feeling."""
_PAUSE_SECONDS = 0.1

log = logging.getLogger("orchestrator.idling")

Clock = Callable[[], float]
"""Seconds, of any start: only differences count."""


@dataclass(frozen=True)
class Judged:
    """One session, and what became of it."""

    record: SessionRecord
    verdict: Verdict | None
    """None when it could not be asked."""
    stopped: bool
    sentence: str


async def judge(
    sessions: Sessions, record: SessionRecord, rule: IdleRule, clock: Clock = time.monotonic
) -> Judged:
    """Ask it, and stop nothing."""
    try:
        observed = await _observe(sessions, record, clock)
    except (ToolError, TimeoutError) as error:
        return Judged(record, None, False, f"cannot be asked what goes on, and is left alone: {_why(error)}")
    verdict = idle_verdict(observed, rule, clock())
    return Judged(record, verdict, False, verdict.sentence)


async def stop_idle(
    sessions: Sessions, rule: IdleRule, user: UserId | None = None, clock: Clock = time.monotonic
) -> list[Judged]:
    """Judge all running sessions, or a user's, and stop those whose time has come, each saved first.

    One that cannot be saved goes on; the sentence says why.
    """
    records = [each for each in await sessions.running() if user in (None, each.user_id)]
    return list(await asyncio.gather(*(_judge_and_stop(sessions, each, rule, clock) for each in records)))


async def watch(
    sessions: Sessions,
    rule: IdleRule,
    told: Callable[[Judged], None],
    user: UserId | None = None,
    every_seconds: float = 30.0,
) -> None:
    """Stop idle sessions until cancelled; ``told`` hears of each that was stopped or could not be.

    A registry that cannot be asked is asked again at the next turn.
    """
    while True:
        try:
            for judged in await stop_idle(sessions, rule, user):
                if judged.stopped or (judged.verdict is not None and judged.verdict.stop):
                    told(judged)
        except ToolError as error:  # of the registry: one that was in use for long, for example
            log.warning("idle sessions could not be looked for, which is tried again: %s", error)
        await asyncio.sleep(every_seconds)


async def _judge_and_stop(sessions: Sessions, record: SessionRecord, rule: IdleRule, clock: Clock) -> Judged:
    judged = await judge(sessions, record, rule, clock)
    if judged.verdict is None or not judged.verdict.stop:
        return judged

    async def last_look() -> None:
        await _refuse_work(sessions, record, rule, clock)

    try:
        ended = await sessions.stop(record, last_look=last_look)
    except ToolError as error:
        return Judged(record, judged.verdict, False, f"was to be stopped, and goes on: {error.message}")
    saved = f", saved to {ended.saved.file.path}" if ended.saved else ""
    return Judged(record, judged.verdict, True, f"{judged.sentence.replace('stops now', 'stopped')}{saved}")


async def _refuse_work(sessions: Sessions, record: SessionRecord, rule: IdleRule, clock: Clock) -> None:
    """Raise Conflict when something goes on. How long ago the last thing did is no matter: we saved it."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            verdict = idle_verdict(await _observe(sessions, record, clock), rule, clock())
        except TimeoutError as error:
            raise Conflict(f"it did not say within {ASK_SECONDS:g} s what goes on") from error
        if not verdict.kept_alive_by:
            return
        if time.monotonic() > until:
            raise Conflict(f"kept alive by {', '.join(verdict.kept_alive_by)}")
        await asyncio.sleep(_PAUSE_SECONDS)


async def _observe(sessions: Sessions, record: SessionRecord, clock: Clock) -> Observed:
    async with asyncio.timeout(ASK_SECONDS), sessions.client(record) as client:
        return Observed(await client.activity(), clock())


def _why(error: ToolError | TimeoutError) -> str:
    return error.message if isinstance(error, ToolError) else f"no answer within {ASK_SECONDS:g} s"
