"""A tool server's WebSocket without a tool server: frames as the protocol says, answers as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.typing import Subprotocol

from protocol import routes
from protocol.codec import ReplyFrame, RequestFrame, encode
from protocol.errors import Cancelled, ToolError, Unauthorized
from protocol.messages.base import Event
from protocol.operations import OPERATIONS

Emit = Callable[[Event], Awaitable[None]]
Handler = Callable[[Any, Emit], Awaitable[Any]]


class FakeToolServer:
    """``handlers`` by operation; what happened is in ``frames``, ``headers`` and ``cancelled``."""

    def __init__(self, handlers: dict[str, Handler], token: str | None = None) -> None:
        self.handlers = handlers
        self.token = token
        self.frames: list[RequestFrame] = []
        self.headers: list[Headers] = []
        self.cancelled: list[str] = []
        self.subprotocols = [routes.SUBPROTOCOL_MSGPACK]
        self.version: str | None = None
        self.connections: list[ServerConnection] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        self.headers.append(request.headers)
        if self.token is None or request.headers.get("Authorization") == f"Bearer {self.token}":
            return None
        error = Unauthorized("the token is not the one of this tool server", hint=1)
        body = encode({"error": error.body("r7")})
        return Response(401, "Unauthorized", Headers({"Content-Type": "application/json"}), body)

    async def _speak(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        running: dict[str, asyncio.Task[None]] = {}
        async for message in connection:
            assert isinstance(message, bytes)
            frame = msgspec.msgpack.decode(message, type=RequestFrame)
            self.frames.append(frame)
            if frame.op == "cancel":
                running[frame.id].cancel()
            else:
                running[frame.id] = asyncio.create_task(self._answer(connection, frame))
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)

    async def _answer(self, connection: ServerConnection, frame: RequestFrame) -> None:
        async def emit(event: Event) -> None:
            if frame.stream:
                await connection.send(encode(ReplyFrame(id=frame.id, event=event), "msgpack"))

        params = msgspec.msgpack.decode(frame.params, type=OPERATIONS[frame.op].request)
        try:
            reply = ReplyFrame(id=frame.id, result=await self.handlers[frame.op](params, emit))
        except ToolError as error:
            reply = ReplyFrame(id=frame.id, error=error.body(f"r{frame.id}"))
        except asyncio.CancelledError:
            self.cancelled.append(frame.id)
            reply = ReplyFrame(id=frame.id, error=Cancelled("cancelled").body())
        await connection.send(encode(reply, "msgpack"))

    def _told(self, connection: ServerConnection, request: HttpRequest, response: Response) -> None:
        if self.version is not None:
            response.headers[routes.VERSION_HEADER] = self.version

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FakeToolServer]:
        """While it is entered, it answers."""
        offered = [Subprotocol(each) for each in self.subprotocols]
        server: Server
        async with serve(
            self._speak,
            "127.0.0.1",
            0,
            subprotocols=offered,
            process_request=self._admit,
            process_response=self._told,
            close_timeout=1,
            ping_interval=None,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self
