"""The dev server's life as a table: every state, every event that means something in it; and its record."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from protocol.limits import Limits
from protocol.messages.devserver import DevChange, DevStart, DevState
from toolserver.tools.call import Call
from toolserver.tools.journal import Journal
from toolserver.tools.restarts import Tally

_KEPT_CHANGES = 200


class DevEvent(enum.Enum):
    """What can happen to it."""

    INSTALL = "install"
    INSTALLED = "installed"
    START = "start"
    ANSWERED = "answered"
    EXITED = "exited"
    STOP = "stop"


NEXT: dict[DevState, dict[DevEvent, DevState]] = {
    DevState.DOWN: {DevEvent.INSTALL: DevState.INSTALLING, DevEvent.START: DevState.STARTING},
    DevState.INSTALLING: {DevEvent.INSTALLED: DevState.DOWN},
    DevState.STARTING: {
        DevEvent.ANSWERED: DevState.READY,
        DevEvent.EXITED: DevState.CRASHED,
        DevEvent.STOP: DevState.STOPPING,
    },
    DevState.READY: {DevEvent.EXITED: DevState.CRASHED, DevEvent.STOP: DevState.STOPPING},
    DevState.CRASHED: {
        DevEvent.INSTALL: DevState.INSTALLING,
        DevEvent.START: DevState.STARTING,
        DevEvent.STOP: DevState.DOWN,
    },
    DevState.STOPPING: {DevEvent.EXITED: DevState.DOWN},
}


def after(state: DevState, event: DevEvent) -> DevState:
    """The state that follows; an event that means nothing in a state leaves it.

    >>> after(DevState.STARTING, DevEvent.ANSWERED), after(DevState.DOWN, DevEvent.STOP)
    (<DevState.READY: 'ready'>, <DevState.DOWN: 'down'>)
    """
    return NEXT[state].get(event, state)


class Observer(Protocol):
    """Who looks after the files that a dev server was started from."""

    def check(self, request: DevStart) -> None:
        """Raise InvalidRequest for what cannot be looked after."""

    async def launching(self, request: DevStart) -> None:
        """It is about to be started from what is there now."""

    async def answered(self, request: DevStart) -> None:
        """It answers; nobody was told yet."""

    def ready(self, request: DevStart) -> None:
        """It is told to be ready."""


class Life:
    """One dev server's, as it is told: where it stands, how it came there, what is planned."""

    def __init__(self, limits: Limits) -> None:
        self.state = DevState.DOWN
        self.since = datetime.now(UTC)
        self.reason: str | None = None
        self.next_try: str | None = None
        self.tally = Tally()
        self.changes = Journal[DevChange](_KEPT_CHANGES)
        self._limits = limits

    def note(
        self,
        event: DevEvent,
        reason: str | None = None,
        *,
        exit_code: int | None = None,
        output: Sequence[str] = (),
    ) -> None:
        """Let something happen to it, and tell it when that means something now."""
        state = after(self.state, event)
        if state is self.state:
            return
        self.state, self.since, self.reason = state, datetime.now(UTC), reason
        change = DevChange(
            number=self.changes.next,
            at=self.since.isoformat(),
            state=state,
            reason=reason,
            exit_code=exit_code,
            output=list(output),
            restarts=self.tally.restarts,
            next_try=self.next_try,
        )
        self.changes.add(change)

    def remark(self, reason: str) -> None:
        """Say more of the state that it is in."""
        self.reason = reason

    def failed(
        self, what: str, ready_ms: float, restart: bool, exit_code: int | None, output: Sequence[str]
    ) -> int | None:
        """It ended by itself after so long: the pause until it is started again, None when it is not."""
        self.tally = self.tally.failed(ready_ms, self._limits)
        delay_ms = self.tally.delay_ms(self._limits) if restart else None
        self.next_try = None
        if delay_ms is not None:
            self.next_try = (datetime.now(UTC) + timedelta(milliseconds=delay_ms)).isoformat()
            what = f"{what}; it is started again in {delay_ms} ms"
        elif restart:
            what = (
                f"{what}; it failed {self.tally.failures} times in a row and is not started again: "
                "mend it, then 'dev_start'"
            )
        self.note(DevEvent.EXITED, what, exit_code=exit_code, output=output)
        return delay_ms

    async def follow(self, call: Call, number: int) -> None:
        """Tell every change from ``number`` on, until cancelled."""
        while True:
            for change in self.changes.since(number):
                await call.emit(change)
                number = change.number + 1
            if number >= self.changes.next:
                await self.changes.news()
