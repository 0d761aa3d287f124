"""A session's life as a table: every state, every event, and what comes of it or why not.

A pure table; the registry asks it inside the transaction that writes the answer down, so of two orchestrators
that move one session at once, the second meets the state that the first has made.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from protocol.errors import Conflict


class State(enum.Enum):
    """A session's life, as intended; whether a sandbox lives is asked of its backend."""

    CREATING = "creating"
    """Its sandbox is being made."""
    INITIALIZING = "initializing"
    """The tool server answers; content, packages and dev server are on their way."""
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    """No process, no port; its files or a save are kept. Also that of one that was never started."""
    ERROR = "error"
    """It ended otherwise than asked, or would not end; ``SessionRecord.reason`` says how."""


class Event(enum.Enum):
    """What happens to a session."""

    MADE = "made"
    """Its sandbox runs."""
    READY = "ready"
    """All is in place."""
    STOP = "stop"
    """It shall end."""
    ENDED = "ended"
    """Nothing of it runs any more."""
    FAILED = "failed"
    """It is gone without being asked, or would not go."""
    RESUME = "resume"
    """It shall run again."""


LIVE = (State.CREATING, State.INITIALIZING, State.RUNNING, State.STOPPING)
"""States in which a session may hold ports and processes."""
BETWEEN = (State.CREATING, State.INITIALIZING, State.STOPPING)
"""States in which somebody has to be at work on it."""

_NO_SANDBOX = "nothing was being started"
_NOT_ENDING = "nobody was ending it"
_MEANWHILE = "it was ended meanwhile"

NEXT: Mapping[State, Mapping[Event, State | str]] = {
    State.CREATING: {
        Event.MADE: State.INITIALIZING,
        Event.READY: "its sandbox is not made yet",
        Event.STOP: State.STOPPING,
        Event.ENDED: _NOT_ENDING,
        Event.FAILED: State.ERROR,
        Event.RESUME: "it is being started already; wait for it",
    },
    State.INITIALIZING: {
        Event.MADE: "its sandbox is made already",
        Event.READY: State.RUNNING,
        Event.STOP: State.STOPPING,
        Event.ENDED: _NOT_ENDING,
        Event.FAILED: State.ERROR,
        Event.RESUME: "it is being started already; wait for it",
    },
    State.RUNNING: {
        Event.MADE: "its sandbox is made already",
        Event.READY: "it is ready already",
        Event.STOP: State.STOPPING,
        Event.ENDED: _NOT_ENDING,
        Event.FAILED: State.ERROR,
        Event.RESUME: "it runs already",
    },
    State.STOPPING: {
        Event.MADE: _MEANWHILE,
        Event.READY: _MEANWHILE,
        Event.STOP: State.STOPPING,  # goes on where an orchestrator that died has left it
        Event.ENDED: State.STOPPED,
        Event.FAILED: State.ERROR,
        Event.RESUME: "it is being stopped; wait a moment",
    },
    State.STOPPED: {
        Event.MADE: _MEANWHILE,
        Event.READY: _MEANWHILE,
        Event.STOP: State.STOPPING,  # so what is kept of it can be removed later
        Event.ENDED: "it has ended already",
        Event.FAILED: _NO_SANDBOX,
        Event.RESUME: State.CREATING,
    },
    State.ERROR: {
        Event.MADE: _NO_SANDBOX,
        Event.READY: _NO_SANDBOX,
        Event.STOP: State.STOPPING,
        Event.ENDED: _NOT_ENDING,
        Event.FAILED: State.ERROR,
        Event.RESUME: State.CREATING,
    },
}
"""State -> event -> the next state, or the reason why there is none."""


def after(state: State, event: Event, session_id: str = "the session") -> State:
    """The state that ``event`` leads to; raises Conflict with the reason where it leads to none.

    >>> after(State.CREATING, Event.MADE), after(State.ERROR, Event.RESUME)
    (<State.INITIALIZING: 'initializing'>, <State.CREATING: 'creating'>)
    >>> after(State.STOPPED, Event.READY, "s1")
    Traceback (most recent call last):
    protocol.errors.Conflict: s1 is stopped: it was ended meanwhile
    """
    found = NEXT[state][event]
    if isinstance(found, State):
        return found
    raise Conflict(f"{session_id} is {state.value}: {found}", sessionId=session_id, state=state.value)
