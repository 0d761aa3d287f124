"""The dev server's own channel to its pages, heard as a page hears it. Loopback alone, one port alone.

Vite and Astro: the client script names a token, and a WebSocket tells of updates, reloads and errors. The
server of static sites: server-sent events. Every frame is bounded, and so is every answer.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp.http import WSMsgType

from toolserver.tools.diagnostics import Frame, Frames, Page

if TYPE_CHECKING:
    from aiohttp.client import ClientResponse, ClientSession, ClientWebSocketResponse

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
async def _session(port: int) -> AsyncIterator[ClientSession]:
    if not hasattr(sys.modules.get("aiohttp.client"), "ClientSession"):  # nor while a thread is about to
        # By the first who hears a dev server, on a thread: for start-up and memory of an idle daemon.
        await asyncio.to_thread(importlib.import_module, "aiohttp.client")
    from aiohttp.client import ClientError, ClientSession, ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    try:
        async with ClientSession(f"http://127.0.0.1:{port}", timeout=timeout) as web:
            yield web
    except (ClientError, TimeoutError) as error:
        raise ConnectionError(str(error)) from error


async def _page(web: ClientSession, path: str, accept: str = "*/*") -> Page:
    fetched = "script" if accept == "*/*" else "document"
    headers = {"Accept": accept, "Sec-Fetch-Dest": fetched, "Cache-Control": "no-cache"}
    async with web.get(path, headers=headers, allow_redirects=False) as response:
        data = await response.content.read(_MAX_PAGE_BYTES)
        while len(data) < _MAX_PAGE_BYTES and (more := await response.content.read(_MAX_PAGE_BYTES)):
            data += more
        return Page(response.status, data.decode(errors="replace"))


async def _of_vite(socket: ClientWebSocketResponse) -> AsyncIterator[Frame]:
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            try:
                frame = json.loads(message.data)
            except ValueError:
                continue
            if isinstance(frame, dict):
                yield frame


async def _of_static(response: ClientResponse) -> AsyncIterator[Frame]:
    async for line in response.content:
        what = line.decode(errors="replace").strip()
        if what == "data: css":
            yield {"type": "update", "updates": []}
        elif what.startswith("data:"):
            yield {"type": "full-reload"}
