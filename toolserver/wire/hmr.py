"""The dev server's own channel to its pages, heard as a page hears it. Loopback alone, one port alone.

Vite and Astro: the client script names a token, and a WebSocket tells of updates, reloads and errors. The
server of static sites: server-sent events. Every frame is bounded, and so is every answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from toolserver.tools.diagnostics import Frame, Frames, Page

EVENTS = "/__live"
"""Of the server of static sites; that module is not loaded for one word."""
_TOKEN = re.compile(r'wsToken = "([^"]+)"')
_MAX_FRAME_BYTES = 1024 * 1024
_MAX_PAGE_BYTES = 256 * 1024
_CONNECT_SECONDS = 5.0


class DevChannel:
    """Frames and answers of the dev server on a port of this machine."""

    @asynccontextmanager
    async def opened(self, port: int) -> AsyncIterator[Frames | None]:
        """The frames that it sends from now on; None when it has no channel that is known. Raises OSError."""
        async with _session(port) as web:
            script = await _page(web, "/@vite/client")
            token = _TOKEN.search(script.text) if script.status == 200 else None
            if token is not None:
                address = f"ws://127.0.0.1:{port}/?token={token[1]}"
                async with web.ws_connect(
                    address, protocols=["vite-hmr"], max_msg_size=_MAX_FRAME_BYTES
                ) as socket:
                    yield _of_vite(socket)
                return
            async with web.get(EVENTS, headers={"Accept": "text/event-stream"}) as response:
                yield _of_static(response) if response.content_type == "text/event-stream" else None

    async def get(self, port: int, path: str, is_page: bool) -> Page:
        """What a browser gets that asks for ``path``. Raises OSError."""
        async with _session(port) as web:
            return await _page(web, path, "text/html" if is_page else "*/*")


@asynccontextmanager
async def _session(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as web:
            yield web
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConnectionError(str(error)) from error


async def _page(web: aiohttp.ClientSession, path: str, accept: str = "*/*") -> Page:
    fetched = "script" if accept == "*/*" else "document"
    headers = {"Accept": accept, "Sec-Fetch-Dest": fetched, "Cache-Control": "no-cache"}
    async with web.get(path, headers=headers, allow_redirects=False) as response:
        data = await response.content.read(_MAX_PAGE_BYTES)
        while len(data) < _MAX_PAGE_BYTES and (more := await response.content.read(_MAX_PAGE_BYTES)):
            data += more
        return Page(response.status, data.decode(errors="replace"))


async def _of_vite(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[Frame]:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            try:
                frame = json.loads(message.data)
            except ValueError:
                continue
            if isinstance(frame, dict):
                yield frame


async def _of_static(response: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    async for line in response.content:
        what = line.decode(errors="replace").strip()
        if what == "data: css":
            yield {"type": "update", "updates": []}
        elif what.startswith("data:"):
            yield {"type": "full-reload"}
