"""What browsers are told: which other pages may ask, and what every answer forbids them.

The tool server neither sets nor reads a cookie. So a page that asks it from elsewhere has no right that it
did not bring along as a token, though browsers send the cookies of one host to all its ports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from protocol import routes
from toolserver.wire.guard import Guard

_EVERYWHERE = {
    # What a workspace holds may be a page, and is somebody's: it is what it is called, and for them alone.
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_METHODS = "GET, HEAD, POST, PUT, DELETE"
_ASKED = (
    "Authorization, Content-Type, Accept, Range, If-Match, If-None-Match, If-Range, "
    f"{routes.TOKEN_HEADER}, {routes.REQUEST_ID_HEADER}"
)
_SHOWN = f"ETag, Content-Range, Accept-Ranges, Last-Modified, Content-Disposition, {routes.REQUEST_ID_HEADER}"
_PREFLIGHT_SECONDS = "600"
"""A browser asks again after so long; Chromium takes two hours at most, and a list may change."""


def answering(guard: Guard) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """The headers that every answer has, of whichever door; a door's own come first."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        for name, value in _EVERYWHERE.items():
            if name not in headers:
                headers[name] = value
        if guard.lists_origins:
            headers.add(hdrs.VARY, "Origin")
        origin = request.headers.get("Origin")
        if origin is not None and guard.lists(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _SHOWN

    return prepare


def preflight_answer(guard: Guard, request: web.Request) -> web.Response | None:
    """What a browser is told that asks, before a listed page's request, whether it may send it."""
    if request.method != hdrs.METH_OPTIONS or "Access-Control-Request-Method" not in request.headers:
        return None
    if not guard.lists(request.headers.get("Origin", "")):
        return None
    guard.refuse_foreign(request.headers)
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _ASKED,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            routes.REQUEST_ID_HEADER: request["id"],
        },
    )
