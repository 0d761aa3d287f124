"""separation: what commands are kept from, and which limits of their own hold."""

from __future__ import annotations

from collections.abc import Callable

from protocol.messages.separation import (
    CommandLimit,
    Separation,
    SeparationAnswer,
    SeparationProperty,
)
from toolserver.system.bounds import Held
from toolserver.system.separation import Reached
from toolserver.tools.call import Call


class Separations:
    """The handler. ``reached`` and ``held`` tell what the daemon's start came to."""

    def __init__(self, reached: Callable[[], Reached], held: Callable[[], list[Held]]) -> None:
        self._reached = reached
        self._held = held

    async def separation(self, request: Separation, call: Call) -> SeparationAnswer:
        """As it was found at the start."""
        reached = self._reached()
        return SeparationAnswer(
            wish=reached.wish.value,
            tier=reached.tier.value,
            properties=[
                SeparationProperty(name=each.name, holds=each.holds, why=each.why)
                for each in reached.properties
            ],
            limits=[
                CommandLimit(
                    name=each.name, value=each.value, holds=each.holds, means=each.means, why=each.why
                )
                for each in self._held()
            ],
        )
