"""What is told without an operation: health, readiness, the schema, a page for a person."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from protocol import __version__
from protocol.errors import InvalidRequest, ToolError
from protocol.messages.devserver import DevState
from protocol.operations import OPERATIONS
from protocol.templates import dev_command
from toolserver.system.disk import Disk
from toolserver.tools.devserver import DevServer
from toolserver.tools.install import Installs
from toolserver.tools.project import look
from toolserver.wire.http import json_response

_Handler = Callable[[web.Request], Awaitable[web.Response]]


def health(begun: float) -> _Handler:
    """GET /health: alive."""

    async def handle(_: web.Request) -> web.Response:
        return json_response(_body("healthy", begun))

    return handle


def ready(begun: float, disk: Disk, dev: DevServer, installs: Installs) -> _Handler:
    """GET /ready: content is in place, and the dev server answers if the workspace has one."""

    async def handle(_: web.Request) -> web.Response:
        state = await _state(disk, dev, installs)
        is_ready = state == DevState.READY.value
        body = _body("ready" if is_ready else "not_ready", begun) | {"state": state}
        return json_response(body, 200 if is_ready else 503)

    return handle


async def openapi(_: web.Request) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=await asyncio.to_thread(_document), content_type="application/json")


def _document() -> bytes:
    from protocol.export.openapi import document  # for those who ask; kept by itself

    return document()


async def index(request: web.Request) -> web.Response:
    """GET /: what can be asked here, for a person with curl."""
    try:
        base = str(request.url.origin())
    except ValueError as error:
        raise InvalidRequest(f"the Host header names no host: {error}") from None
    return web.Response(text=_page(base))


async def _state(disk: Disk, dev: DevServer, installs: Installs) -> str:
    if dev.state is not DevState.DOWN:
        return str(dev.state.value)
    if installs.running:
        return DevState.INSTALLING.value
    try:
        project = await look(disk)
        has_dev_server = dev_command(project.package, project.names) is not None
    except ToolError:
        return DevState.DOWN.value
    if project.empty:
        return "empty"
    return DevState.DOWN.value if has_dev_server else DevState.READY.value


def _body(status: str, begun: float) -> dict[str, object]:
    return {
        "status": status,
        "version": __version__,
        "uptimeSeconds": round(time.monotonic() - begun, 3),
    }


def _page(base: str) -> str:
    width = max(map(len, OPERATIONS))
    operations = "\n".join(f"  {each.name:<{width}}  {each.doc}" for each in OPERATIONS.values())
    return f"""workspace-core tool server {__version__}

POST {base}/v1/OPERATION with a JSON body; the token goes into 'Authorization: Bearer TOKEN'.

{operations}

  curl {base}/health
  curl -H "Authorization: Bearer $TOKEN" -d '{{"path": "."}}' {base}/v1/list
  curl -H "Authorization: Bearer $TOKEN" -d '{{"command": "ls -la"}}' {base}/v1/command
  curl -H "Authorization: Bearer $TOKEN" -T site.tar.gz {base}/v1/archive

The same operations, many at once: WebSocket at /v1/ws. Their schema: {base}/openapi.json
For agents, as tools of the Model Context Protocol: {base}/mcp
"""
