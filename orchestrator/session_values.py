"""What is said of sessions: wishes, sights, outcomes. Plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from orchestrator.backends import Destroyed
from orchestrator.ports import Wish, without
from orchestrator.records import LIVE, SessionRecord
from orchestrator.saving import Saved
from orchestrator.session_states import State


@dataclass(frozen=True)
class PortWishes:
    """The ports that a session shall have."""

    tool: Wish
    dev: Wish

    def without(self, port: object) -> PortWishes | None:
        """The same wishes, the one for ``port`` less it; None when nothing else is wished for there."""
        for name in ("dev", "tool"):
            wish: Wish = getattr(self, name)
            if (
                isinstance(port, int)
                and port in (wish.port, *wish.fallback)
                and (other := without(wish, port))
            ):
                return replace(self, **{name: other})
        return None


ENDED_UNASKED = "its tool server ended without being asked"


@dataclass(frozen=True)
class Seen:
    """A session, and whether its sandbox runs."""

    record: SessionRecord
    alive: bool
    unknown: str = ""
    """Why its backend could not be asked; then ``alive`` says nothing."""

    @property
    def state(self) -> str:
        """For a person: the intended state, or ``dead`` when the sandbox is gone without being asked."""
        if self.record.state not in LIVE or self.record.guest is None:
            return self.record.state.value
        if self.unknown:
            return "unknown"
        return self.record.state.value if self.alive else "dead"

    @property
    def reason(self) -> str:
        """Why it is not as it was meant to be, and the way on; empty when it is."""
        if self.state == "dead":
            again = f"; `workspace resume {self.record.session_id}` starts it again"
            return f"{ENDED_UNASKED}{again if self.record.state is State.RUNNING else ''}"
        return self.unknown or self.record.reason


@dataclass(frozen=True)
class PutInOrder:
    """What became of a session that its orchestrator had left half way."""

    record: SessionRecord
    """As it was found."""
    sentence: str


@dataclass(frozen=True)
class Ended:
    """What became of a session that was stopped."""

    outcome: Destroyed
    saved: Saved | None
    """None when it was not saved: told so, or nothing of it ran."""


LastLook = Callable[[], Awaitable[None]]
"""Asked right before the end; raises when the session is to go on after all."""
