"""Connections, before there is a request: how many, and how long one may take to ask for something.

The law: a connection either *asks* (since an instant), *works* on a request, or is *idle* between two. One
that asks for too long is told so and closed, one that idles for too long is closed. When there are too many,
those that do not work make room, who asks slowly first; only when all work is a new one refused.

aiohttp bounds the size of a head and leaves its time open, so this watches from below, once a second for all
connections together: a request costs two assignments.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from protocol.codec import encode
from protocol.errors import Busy, InvalidRequest, Timeout, TooLarge, ToolError
from protocol.export.schema import ErrorAnswer
from protocol.limits import Limits
from toolserver.wire.bodies import FEW_BYTES

IDLE, WORKING = 0.0, float("inf")
_LOOK_SECONDS = 1.0
_LONGEST_RESERVE = 256
"""Descriptors kept for operations that run: a command takes six, an archive three."""
_PIECE_BYTES = 64 * 1024
"""uvloop reads 250 KiB, and while that is all filled up to 32 times in one turn: a WebSocket message of empty
fragments, which nobody sees before its end, then held all others up for a third of a second each time."""

Hit = Callable[[ToolError], None]


class Connection(web.RequestHandler):
    """aiohttp's, and since when it asks."""

    __slots__ = ("_doors", "asks_since")

    def __init__(self, doors: Doors, **options: Any) -> None:
        super().__init__(doors, **options)
        self._doors = doors
        self.asks_since = IDLE
        """An instant of the loop's clock, or IDLE, or WORKING."""

    @property
    def waits(self) -> bool:
        """Whether it is open and works on nothing."""
        return self.connected and self.asks_since != WORKING

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """To ask for something from now on, or refused."""
        super().connection_made(transport)
        self.asks_since = self._loop.time()
        self._doors.make_room(self)

    def data_received(self, data: bytes) -> None:
        """A request's first byte, or more of it."""
        if self.asks_since == IDLE:
            self.asks_since = self._loop.time()
        super().data_received(data)
        if len(data) >= _PIECE_BYTES:
            self._others_turn()

    def _others_turn(self) -> None:
        """The next piece comes after what else waits for the loop."""
        if self.transport is not None and not self._held_up:
            self.transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self.transport is not None and not self._held_up:
            self.transport.resume_reading()

    @property
    def _held_up(self) -> bool:
        """Whether aiohttp has paused it, for a body that nobody reads or for too many requests, and ends that
        itself."""
        return self._reading_paused or self._buffer_paused

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """The end of the work: the answer is sent."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.asks_since = IDLE

    def refuse(self, error: ToolError) -> None:
        """Tell why, where something was asked, and close."""
        self._doors.hit(error)
        transport = self.transport
        if transport is not None:
            transport.write(_answer(error))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, as the sentence that every door gives."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        error = self._doors.misread(exc, message)
        response = web.Response(
            body=encode(ErrorAnswer(error.body())) + b"\n",
            status=431 if isinstance(error, TooLarge) else error.status,
            content_type="application/json",
        )
        response.force_close()
        return response


class Doors(web.Server):
    """All connections of one daemon."""

    def __init__(self, server: web.Server, limits: Limits, hit: Hit, **options: Any) -> None:
        """Does what ``server`` does, within ``limits``; ``hit`` is told of every refusal."""
        self._asked = server.request_handler
        super().__init__(
            self._work,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
        )
        self.hit = hit
        self._limits = limits
        self._open: dict[Connection, None] = {}
        """The oldest first."""
        self._options: dict[str, Any] = {
            **options,
            "max_line_size": limits.max_header_bytes,
            "max_field_size": limits.max_header_bytes,
            "max_headers": limits.max_headers,
            "keepalive_timeout": limits.idle_connection_ms / 1000,
            "read_bufsize": FEW_BYTES,
        }
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._last_descriptor = soft - min(_LONGEST_RESERVE, soft // 4)
        self._files = soft
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def __call__(self) -> Connection:
        """A connection's protocol."""
        return Connection(self, loop=self._loop, **self._options)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all, and look no more."""
        self._looking.cancel()
        await super().shutdown(timeout)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """One more."""
        super().connection_made(handler, transport)
        if isinstance(handler, Connection):
            self._open[handler] = None

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """One less."""
        super().connection_lost(handler, exc)
        self._open.pop(cast(Connection, handler), None)

    def make_room(self, new: Connection) -> None:
        """For ``new``, or refuse it."""
        if len(self._open) > self._limits.max_sockets_in_all:
            limit, value = "maxSocketsInAll", self._limits.max_sockets_in_all
        elif _descriptor(new) > self._last_descriptor:
            limit, value = "maxOpenFiles", self._files
        else:
            return
        busy = Busy(
            f"the tool server has as many connections as it can take ({limit}: {value}); close some",
            limit=limit,
            value=value,
        )
        waiting = [each for each in self._open if each is not new and each.waits]
        if waiting:
            self.hit(busy)
            slow = self._loop.time() - _LOOK_SECONDS
            min(waiting, key=lambda each: _turn(each.asks_since, slow)).force_close()
        else:
            new.refuse(busy)

    def misread(self, error: BaseException | None, message: str | None) -> ToolError:
        """Why a request could not be read."""
        limit = {"limit": "maxHeaderBytes", "value": self._limits.max_header_bytes}
        refusal: ToolError
        if isinstance(error, LineTooLong):
            refusal = TooLarge(f"a header has at most {self._limits.max_header_bytes} bytes", **limit)
        elif message is not None and "headers" in message and "oo many" in message:
            limit = {"limit": "maxHeaders", "value": self._limits.max_headers}
            refusal = TooLarge(f"a request has at most {self._limits.max_headers} headers", **limit)
        else:
            refusal = InvalidRequest(f"this is no HTTP request: {(message or str(error))[:200]}")
        self.hit(refusal)
        return refusal

    def _work(self, request: Any) -> Any:
        request.protocol.asks_since = WORKING
        return self._asked(request)

    def _look(self) -> None:
        """Close whoever asks for too long."""
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        before = self._loop.time() - self._limits.header_timeout_ms / 1000
        for connection in list(self._open):
            if connection.waits and IDLE < connection.asks_since < before:
                connection.refuse(
                    Timeout(
                        f"the request's headers did not come within {self._limits.header_timeout_ms} ms",
                        limit="headerTimeoutMs",
                        value=self._limits.header_timeout_ms,
                    )
                )


class Runner(web.AppRunner):
    """aiohttp's, behind ``Doors``."""

    def __init__(self, app: web.Application, limits: Limits, hit: Hit, **options: Any) -> None:
        super().__init__(app, access_log=None, **options)
        self._limits, self._hit = limits, hit

    async def _make_server(self) -> web.Server:
        return Doors(await super()._make_server(), self._limits, self._hit, access_log=None)


def raise_open_files(at_most: int) -> None:
    """Let the daemon have so many descriptors, as far as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = at_most if hard == resource.RLIM_INFINITY else min(at_most, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _turn(asks_since: float, slow: float) -> tuple[int, float]:
    """Who goes first when there are too many: who asks slowly, then who idles, then who has just come.

    >>> sorted([7.0, 6.5, IDLE, 2.0, 1.0], key=lambda each: _turn(each, slow=6.0))
    [1.0, 2.0, 0.0, 6.5, 7.0]
    """
    if asks_since == IDLE:
        return 1, 0.0
    return (0 if asks_since < slow else 2), asks_since


def _descriptor(connection: Connection) -> int:
    """The kernel gives the lowest free number: it tells how many are open."""
    transport = connection.transport
    socket = transport.get_extra_info("socket") if transport is not None else None
    return socket.fileno() if socket is not None else 0


def _answer(error: ToolError) -> bytes:
    body = encode(ErrorAnswer(error.body())) + b"\n"
    status = {408: "Request Timeout", 503: "Service Unavailable"}
    code = 408 if isinstance(error, Timeout) else error.status
    return (
        f"HTTP/1.1 {code} {status.get(code, 'Refused')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\nRetry-After: 1\r\n\r\n"
    ).encode() + body
