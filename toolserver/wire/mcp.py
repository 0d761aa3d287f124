"""The door for agents that speak the Model Context Protocol: POST /mcp.

What a message means is decided in ``toolserver.mcp``. Here it is run: operations that may take long are
answered by a stream, which says that they still run, to clients that would otherwise give up.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from protocol.errors import ToolError
from protocol.limits import Limits
from toolserver.tools.call import Dispatcher
from toolserver.wire.http import SSE, body_of, call_of, keep_alive, open_stream, until_over

if TYPE_CHECKING:
    from toolserver.mcp import CallTool

_PROGRESS_SECONDS = 10.0
"""The SDKs' clients give up after 60 seconds of silence, or 30."""
_JSON = "application/json"


def mcp_handler(
    dispatcher: Dispatcher, limits: Limits
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """POST /mcp; ``?tools=read,edit`` offers these alone, for a model that has little room."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if "toolserver.mcp" not in sys.modules:
            # By the first agent that speaks it, on a thread: an idle daemon does without.
            await asyncio.to_thread(importlib.import_module, "toolserver.mcp")
        from toolserver.mcp import METHOD_HEADER, NAME_HEADER, VERSION_HEADER, CallTool, receive

        headers = {
            name: request.headers.getall(name, []) for name in (VERSION_HEADER, METHOD_HEADER, NAME_HEADER)
        }
        wanted = request.query.get("tools")
        decision = receive(
            await body_of(request, limits),
            headers,
            request["admission"],
            frozenset(wanted.split(",")) if wanted else None,
        )
        if not isinstance(decision, CallTool):
            dispatcher.ledger.charge(request["admission"], time.monotonic())
            return web.Response(status=decision.status, body=decision.body, content_type=_JSON)
        if decision.operation.streams and SSE in request.headers.get("Accept", ""):
            return await _stream(request, dispatcher, decision)
        return web.Response(body=await _run(request, dispatcher, decision), content_type=_JSON)

    return handle


async def _run(request: web.Request, dispatcher: Dispatcher, tool: CallTool) -> bytes:
    call = call_of(request)
    call.abandoned = not tool.stateless
    call.received = request.content_length or 0
    try:
        told = tool.result(await dispatcher.run(tool.operation, tool.request, call))
        call.sent = len(told)
        return told
    except ToolError as error:
        return tool.failure(error, request["id"])


async def _until_over(request: web.Request, dispatcher: Dispatcher, tool: CallTool) -> bytes:
    try:
        return await until_over(request, _run(request, dispatcher, tool))
    except ToolError as error:
        return tool.failure(error, request["id"])


async def _stream(request: web.Request, dispatcher: Dispatcher, tool: CallTool) -> web.StreamResponse:
    response = await open_stream(request, SSE)
    signs = keep_alive(response, b":\n\n") if tool.progress_token is None else _progress(response, tool)
    alive = asyncio.create_task(signs)
    with contextlib.suppress(ConnectionError):
        try:
            last = await _until_over(request, dispatcher, tool)
        finally:
            alive.cancel()
        await response.write(_event(last))
        await response.write_eof()
    return response


async def _progress(response: web.StreamResponse, tool: CallTool) -> None:
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            await response.write(_event(tool.progress(round(time.monotonic() - begun, 3))))


def _event(message: bytes) -> bytes:
    return b"event: message\ndata: " + message + b"\n\n"
