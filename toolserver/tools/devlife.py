"""The dev server's life as a table: every state, every event that means something in it."""

from __future__ import annotations

import enum

from protocol.messages.devserver import DevState


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
