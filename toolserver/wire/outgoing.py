"""What goes out over one WebSocket: at once while the socket has room, else by a queue and its writer."""

from __future__ import annotations

import asyncio
import logging
import struct

from aiohttp import web
from aiohttp.http import WSMsgType

_ROOM_BYTES = 64 * 1024
"""Not yet taken by the socket: up to here a frame is given to it at once, which saves a turn of the loop;
beyond it frames wait in the queue."""

_QUEUED_BYTES = 4 * 1024 * 1024
"""Frames wait for a client up to here; then who makes them waits."""

_LARGE_BYTES = 16 * 1024
"""A larger message is not copied to stand behind its head. aiohttp writes the head of one by itself, so that
ten bytes cross the network alone and wake the client: a tenth of the time of 100 MB of output. Where there is
room, messages of any size are put together here."""

log = logging.getLogger("toolserver.ws")


def frame_head(size: int, kind: WSMsgType) -> bytes:
    """What goes before a whole message of so many bytes (RFC 6455, 5.2; a server masks nothing).

    >>> frame_head(2, WSMsgType.TEXT), len(frame_head(1000, WSMsgType.BINARY))
    (b'\\x81\\x02', 4)
    """
    if size < 126:
        return struct.pack(">BB", 0x80 | kind, size)
    if size < 1 << 16:
        return struct.pack(">BBH", 0x80 | kind, 126, size)
    return struct.pack(">BBQ", 0x80 | kind, 127, size)


class _Frames(asyncio.Queue[bytes]):
    """Bounded in number, and in bytes: as many large ones as small ones would be 16 MB a client."""

    _bytes = 0

    def full(self) -> bool:
        """Whether the next one has to wait."""
        return self._bytes >= _QUEUED_BYTES or super().full()

    def _put(self, item: bytes) -> None:
        self._bytes += len(item)
        super()._put(item)

    def _get(self) -> bytes:
        item = super()._get()
        self._bytes -= len(item)
        return item


class Outgoing:
    """One socket's frames, in the order in which they were given. ``write`` has to run beside."""

    def __init__(
        self, socket: web.WebSocketResponse, request: web.Request, binary: bool, most_frames: int
    ) -> None:
        self._socket = socket
        self._request = request
        self._binary = binary
        self._queue = _Frames(most_frames)

    async def send(self, frame: bytes) -> None:
        """At once where the socket has room and nobody waits; else behind those who wait."""
        if self.has_room():
            self.send_now(frame)
        else:
            await self._queue.put(frame)

    async def send_parts(self, head: bytes, rest: bytes) -> None:
        """One binary frame of two parts, which need not be put together where there is room."""
        transport = self._request.transport
        if not self.has_room() or transport is None or self._socket.closed:
            await self.send(head + rest)
            return
        before = frame_head(len(head) + len(rest), WSMsgType.BINARY) + head
        transport.writelines((before, rest))

    def send_now(self, frame: bytes) -> None:
        """Where ``has_room`` has just said so."""
        transport = self._request.transport
        if transport is None or self._socket.closed:
            # The client is gone; its reader sees the same and ends the conversation.
            return
        head = frame_head(len(frame), WSMsgType.BINARY if self._binary else WSMsgType.TEXT)
        if len(frame) > _LARGE_BYTES:
            transport.writelines((head, frame))
        else:
            transport.write(head + frame)

    def has_room(self) -> bool:
        """Whether the socket takes a frame at once, and none waits before it."""
        transport = self._request.transport
        if transport is None or not self._queue.empty():
            return False
        return transport.get_write_buffer_size() < _ROOM_BYTES

    async def _write_frame(self, frame: bytes) -> None:
        """The frame is whole in the transport when this first waits, so that two never mix."""
        if self._binary:
            await self._socket.send_bytes(frame)
        else:
            await self._socket.send_frame(frame, WSMsgType.TEXT)

    async def write(self) -> None:
        """Give the socket what waits, until cancelled."""
        try:
            while True:
                await self._write_frame(await self._queue.get())
        except (ConnectionError, RuntimeError) as error:
            # The client is gone; its reader sees the same and ends the conversation.
            log.info("socket lost", extra={"data": {"reason": str(error)}})
            await self._drop_rest()

    async def _drop_rest(self) -> None:
        """Keep the queue moving, so that no request waits for a client that is gone."""
        while True:
            await self._queue.get()
