"""What the pages of a plain directory are told of its changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.builder import PATIENCE_SECONDS
from toolserver.wire.static import EVENTS, StaticSite


async def test_a_page_that_missed_a_change_is_loaded_anew(tmp_path: Path) -> None:
    site = StaticSite(tmp_path)
    app = web.Application()
    app.router.add_get(EVENTS, site.events)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}{EVENTS}") as live,
        ):
            assert await live.content.readline() == b": listening\n"
            # In one turn of the loop: nothing of it is sent in between.
            for what in (*["css"] * 8, "page", "css"):
                site.tell(what)
            heard = [await live.content.readline() for _ in range(5)]
        assert heard == [b"\n", b"data: page\n", b"\n", b"data: css\n", b"\n"]
    finally:
        await runner.cleanup()
