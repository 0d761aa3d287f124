"""A request's body, as it comes: for as long as something comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from protocol.errors import Timeout
from protocol.limits import Limits


async def pieces(request: web.Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body; raises Timeout for a sender that stops, or sends next to nothing.

    Only the time counts that is waited here: a sender is not to blame for a disk that is slow to take it.
    """
    loop, content = asyncio.get_running_loop(), request.content
    patience = limits.body_stall_ms / 1000
    size, waited = 0, 0.0
    while True:
        begun = loop.time()
        try:
            async with asyncio.timeout(patience):
                data = await content.readany()
        except TimeoutError:
            raise Timeout(
                f"nothing more of the body came within {limits.body_stall_ms} ms; send it again",
                limit="bodyStallMs",
                value=limits.body_stall_ms,
            ) from None
        if not data:
            return
        size += len(data)
        waited += loop.time() - begun
        if waited > patience and size < waited * limits.min_body_bytes_per_second:
            raise Timeout(
                f"the body came at {size / waited:.0f} bytes a second; send it again, faster than "
                f"{limits.min_body_bytes_per_second}",
                limit="minBodyBytesPerSecond",
                value=limits.min_body_bytes_per_second,
            )
        yield data
