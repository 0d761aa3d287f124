"""Requests and sockets, counted on their way in: see ``system.pulse``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from protocol import routes
from toolserver.system.pulse import Pulse
from toolserver.wire.http import OPEN_ROUTES

_OPERATION = routes.OPERATION.partition("{")[0]


def counting(pulse: Pulse) -> Any:
    """For what the dispatcher does not see: files and archives by their own doors, and open sockets."""

    @web.middleware
    async def handle(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == routes.WEBSOCKET:
            with pulse.socket():
                return await handler(request)
        if request.path in OPEN_ROUTES or (request.method == "POST" and request.path.startswith(_OPERATION)):
            return await handler(request)
        with pulse.request():
            return await handler(request)

    return handle
