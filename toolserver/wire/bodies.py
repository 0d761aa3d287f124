"""A request's body, as it comes: for as long as something comes, and never at the others' cost.

A body of tiny chunks is work for each of them, a microsecond or two. aiohttp parses and hands out so many at
a time (``FEW_BYTES`` decides), and goes on at once while there are more: so others get their turn in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from protocol.errors import Timeout
from protocol.limits import Limits

FEW_BYTES = 32 * 1024
"""aiohttp's ``read_bufsize``: it holds a sixteenth as many chunks, 2048, which are three milliseconds."""
_HELD_BYTES = 256 * 1024
"""What it would hold of a body otherwise."""


async def pieces(request: web.BaseRequest, limits: Limits) -> AsyncIterator[bytes]:
    """The body; raises Timeout for a sender that stops, or sends next to nothing.

    Only the time counts that is waited here: a sender is not to blame for a disk that is slow to take it.
    """
    loop, content = asyncio.get_running_loop(), request.content
    content.set_read_chunk_size(_HELD_BYTES)
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
        await asyncio.sleep(0)  # what is there already is handed out without a wait
