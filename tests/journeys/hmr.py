"""A browser's part in hot reload, without a browser: page, modules, the dev server's own WebSocket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

_TOKEN = re.compile(r'wsToken = "([^"]+)"')
_IMPORT = re.compile(r'(?:import|from|src=)\s*"(/(?!@)[^"]+)"')
FRAME_SECONDS = 90.0


class Page:
    """One open page. ``frame`` gives what the dev server tells it."""

    def __init__(self, base: str, socket: Any) -> None:
        self._base = base
        self._socket = socket

    async def frame(self) -> dict[str, Any]:
        """The next frame that changes the page: an update or a full reload."""
        async with asyncio.timeout(FRAME_SECONDS):
            while True:
                told: dict[str, Any] = json.loads(await self._socket.recv())
                if told["type"] in {"update", "full-reload"}:
                    return told


@asynccontextmanager
async def open_page(base: str) -> AsyncIterator[Page]:
    """Load the page and the modules it names, and listen, as the dev server's client script does."""
    async with aiohttp.ClientSession() as web:
        async with asyncio.timeout(FRAME_SECONDS):
            while not await _loaded(web, base):
                pass
        client = await text(web, f"{base}/@vite/client")
    found = _TOKEN.search(client)
    assert found, "the dev server's client script has no token"
    address = f"{base.replace('http', 'ws', 1)}/?token={found[1]}"
    # Without its own clocks, which are short for a dev server on a busy machine.
    async with connect(
        address,
        subprotocols=[Subprotocol("vite-hmr")],
        proxy=None,
        open_timeout=FRAME_SECONDS,
        ping_interval=None,
    ) as socket:
        assert json.loads(await socket.recv())["type"] == "connected"
        yield Page(base, socket)


async def _loaded(web: aiohttp.ClientSession, base: str) -> bool:
    """Whether page and modules came; no when Vite has packed packages anew: a browser would load again."""
    try:
        for path in _IMPORT.findall(await text(web, f"{base}/")):
            for below in _IMPORT.findall(await text(web, base + path)):
                await text(web, base + below)
    except Outdated:
        return False
    return True


class Outdated(Exception):
    """The dev server has another version of what was asked for."""


async def text(web: aiohttp.ClientSession, url: str) -> str:
    """What ``url`` answers, which must be a 200."""
    async with web.get(url) as response:
        if response.status == 504:  # Vite's "Outdated Optimize Dep"
            raise Outdated(url)
        assert response.status == 200, f"{url}: {response.status}"
        return await response.text()


async def page_text(base: str) -> str:
    """The page as a browser gets it."""
    async with aiohttp.ClientSession() as web:
        return await text(web, f"{base}/")
