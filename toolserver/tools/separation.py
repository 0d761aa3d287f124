"""separation: what commands are kept from."""

from __future__ import annotations

from collections.abc import Callable

from protocol.messages.separation import Separation, SeparationAnswer, SeparationProperty
from toolserver.system.separation import Reached
from toolserver.tools.call import Call


class Separations:
    """The handler. ``reached`` tells what the daemon's start came to."""

    def __init__(self, reached: Callable[[], Reached]) -> None:
        self._reached = reached

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
        )
