"""Of a client that sends without end one piece is read, and then it is the others' turn."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import uvloop
from aiohttp import web

from protocol.limits import Limits
from tests.builder import PATIENCE_SECONDS
from toolserver.wire.connections import Connection, Doors

FULL_BYTES = 64 * 1024
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
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


async def turns_of_full_pieces() -> list[int]:
    """In which turn of the loop each of them came."""
    loop, turn, came = asyncio.get_running_loop(), 0, []

    class Counted(Connection):
        def data_received(self, data: bytes) -> None:
            if len(data) >= FULL_BYTES:
                came.append(turn)
            super().data_received(data)

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    next_turn()
    doors = Doors(web.Server(take), Limits(), lambda _: None)
    server = await loop.create_server(lambda: Counted(doors, loop=loop), "127.0.0.1", 0)
    try:
        await asyncio.to_thread(send, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await doors.shutdown(1)
    return came


def test_pieces_that_fill_what_is_read_at_once_come_in_turns_of_their_own() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        came = runner.run(turns_of_full_pieces())
    assert len(came) > 1
    assert len(came) == len(set(came))
