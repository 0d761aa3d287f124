"""Of a client that sends without end one piece is read, and then it is the others' turn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest
import uvloop
from aiohttp import web

from protocol.limits import Limits
from tests.builder import PATIENCE_SECONDS
from toolserver.wire.bodies import pieces
from toolserver.wire.connections import Connection, Doors

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
FULL_BYTES = 64 * 1024
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OPENING, FRAGMENT = b"\x01\x80" + bytes(4), b"\x00\x80" + bytes(4)
FRAGMENTS = OPENING + FRAGMENT * 4_000_000


async def take(request: web.BaseRequest) -> web.StreamResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for _ in ws:
        pass
    return ws


def send(port: int) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)) as client:
        client.sendall(HANDSHAKE)
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        client.sendall(FRAGMENTS)


def ask(port: int) -> None:
    """For much more than is held for anybody, without a look at the answers."""
    with closing(socket.create_connection(("127.0.0.1", port), 1)) as client:
        for _ in range(32):
            client.sendall(REQUEST * 40_000)  # a megabyte


async def wait(_: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


class Turns:
    """Counts those of the loop."""

    def __init__(self) -> None:
        self.now = 0
        self._next()

    def _next(self) -> None:
        self.now += 1
        asyncio.get_running_loop().call_soon(self._next)


async def served(
    serve: Handler,
    send: Callable[[int], None],
    connection: Callable[[Doors], asyncio.BaseProtocol] = lambda doors: doors(),
) -> None:
    """Until ``send`` has sent what it sends to a port where ``serve`` answers."""
    doors = Doors(web.Server(serve), Limits(), lambda _: None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: connection(doors), "127.0.0.1", 0)
    try:
        await asyncio.to_thread(send, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await doors.shutdown(1)


async def turns_of_full_pieces(serve: Handler, send: Callable[[int], None]) -> list[int]:
    """In which turn of the loop each came of what ``send`` sends to a port where ``serve`` answers."""
    turns, came = Turns(), list[int]()

    class Counted(Connection):
        def data_received(self, data: bytes) -> None:
            if len(data) >= FULL_BYTES:
                came.append(turns.now)
            super().data_received(data)

    await served(serve, send, lambda doors: Counted(doors, loop=asyncio.get_running_loop()))
    return came


def test_pieces_that_fill_what_is_read_at_once_come_in_turns_of_their_own() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        came = runner.run(turns_of_full_pieces(take, send))
    assert len(came) > 1
    assert len(came) == len(set(came))


CHUNKS = 100_000


def put(port: int) -> None:
    """A body of chunks of a single byte."""
    with closing(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)) as client:
        client.sendall(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"1\r\nx\r\n" * CHUNKS + b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


async def turns_of_a_body(put: Callable[[int], None]) -> list[tuple[int, int]]:
    """Of each piece of the body that ``put`` sends: the turn of the loop it is given out in, and its size."""
    turns, came = Turns(), list[tuple[int, int]]()

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        came.extend([(turns.now, len(data)) async for data in pieces(request, Limits())])
        return web.Response()

    await served(take, put)
    return came


def test_of_tiny_chunks_a_few_are_taken_and_then_it_is_the_others_turn() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        came = runner.run(turns_of_a_body(put))
    assert sum(size for _, size in came) == CHUNKS
    assert max(size for _, size in came) <= 4096
    assert len({turn for turn, _ in came}) == len(came)


def test_of_requests_without_end_no_more_is_read_than_can_wait() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(TimeoutError):
        runner.run(turns_of_full_pieces(wait, ask))
