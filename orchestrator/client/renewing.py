"""A connection that outlives its token: before it ends, another one is told on the same socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.client import Client

Fetch = Callable[[], Awaitable[str]]
"""Brings a fresh session token, from whoever hands them out."""
_SHARE = 0.75
"""Of a token's life is used before the next one is fetched: the rest is for trying again."""
_AGAIN_SECONDS = 5.0
"""After a fetch or a renewal that failed. The leeway of a token is six times that."""

_LEAST_SECONDS = 1.0
"""Between two renewals, however short the life of a token is."""

log = logging.getLogger("orchestrator.client")


@contextlib.asynccontextmanager
async def renewing(client: Client, fetch: Fetch) -> AsyncIterator[None]:
    """While inside, ``client``'s connection is renewed by what ``fetch`` brings; the first time at once.

    What fails is tried again until the tool server closes the connection, which ``client`` then tells of.
    """
    keeping = asyncio.create_task(_keep(client, fetch))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


async def _keep(client: Client, fetch: Fetch) -> None:
    closing = asyncio.create_task(client.wait_closed())
    try:
        while not closing.done():
            try:
                answer = await client.renew(await fetch())
                pause = _SHARE * (datetime.fromisoformat(answer.expires) - datetime.now(UTC)).total_seconds()
            except Exception as error:  # whatever the caller's way to a token raises
                log.warning("a connection could not be renewed: %s", str(error) or type(error).__name__)
                pause = _AGAIN_SECONDS
            await asyncio.wait({closing}, timeout=max(pause, _LEAST_SECONDS))
    finally:
        closing.cancel()
