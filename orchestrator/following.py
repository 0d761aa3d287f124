"""One ``start``, followed to its end also over a socket that breaks on the way.

The tool server goes on with it by itself and numbers its events, so nothing is begun twice and nothing is
told twice. A broken socket is tried again a few times only: the tool server may have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from orchestrator.client import Client
from protocol.errors import Unavailable
from protocol.messages.devserver import Start, StartAnswer, StartEvent

PAUSES_SECONDS = (0.1, 0.5, 2.0)
"""Before each new socket. A gut feeling: a proxy that starts again is back within three seconds."""


class Following:
    """What was asked for, and how much of it was told."""

    def __init__(self, request: Start, take: Callable[[StartEvent], None]) -> None:
        self._request = request
        self._take = take
        self._told: int | None = None
        """Number of the last event."""

    async def to_its_end(
        self, client: Client, again: Callable[[], AbstractAsyncContextManager[Client]]
    ) -> StartAnswer:
        """By ``client``, then by those that ``again`` opens; raises what the last one raised."""
        try:
            return await self._by(client)
        except Unavailable as error:
            broken = error
        for pause in PAUSES_SECONDS:
            await asyncio.sleep(pause)
            try:
                async with again() as other:
                    return await self._by(other)
            except Unavailable as error:
                broken = error
        raise broken

    async def _by(self, client: Client) -> StartAnswer:
        request = self._request if self._told is None else Start(from_event=self._told + 1)
        async with client.stream(request) as events:
            async for event in events:
                assert isinstance(event, StartEvent)
                self._take(event)
                self._told = event.number
            answer = await events.result()
        assert isinstance(answer, StartAnswer)
        return answer
