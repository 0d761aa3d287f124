"""A WebSocket whose messages are delivered as they come, without a task in between.

``websockets`` puts every message into a queue, and a task takes it out in a later turn of the loop; to send,
it goes through a context manager and two awaits. That is what a queue and flow control need, and both are
here where somebody has to wait. For a small answer it was 8 of 120 microseconds.

Bytes come into one buffer that stays: asyncio's own way takes 256 KiB from the system for every read and
gives them back, 15 microseconds of a small answer's 130.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

Take = Callable[[bytes], bool]
"""Gets a whole binary message; False when it has to wait, and then it is queued."""
BUFFER_BYTES = 256 * 1024
"""Read at once, as asyncio does: of much output, what a socket holds comes in one piece."""


class Socket(ClientConnection, asyncio.BufferedProtocol):
    """Made by ``websockets``. With ``take`` set, who iterates calls ``taken`` after each message."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.take: Take | None = None
        self._queued = 0
        """Messages that the iterating task has still to deliver: what comes later goes behind them."""
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts what comes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So much came; the library copies it to what it has."""
        self.data_received(cast(bytes, self._buffer[:nbytes]))

    def taken(self) -> None:
        """One that was queued is delivered."""
        self._queued -= 1

    def send_at_once(self, message: bytes) -> bool:
        """Send, where nothing has to be waited for; else False, and ``send`` will wait or raise."""
        if self.protocol.state is not State.OPEN or self.paused or self.transport.is_closing():
            return False
        self.protocol.send_binary(message)
        self.send_data()
        return True

    def process_event(self, event: Event) -> None:
        """Deliver it or queue it. An answer of HTTP, pieces of messages and pings take the library's way."""
        if not isinstance(event, Frame) or event.opcode not in _DATA:
            super().process_event(event)
            return
        whole = event.fin and event.opcode is Opcode.BINARY
        if whole and not self._queued and self.take is not None and self.take(bytes(event.data)):
            return
        # Of a message in pieces the last one counts: nothing else comes between them.
        self._queued += event.fin
        super().process_event(event)


_DATA = frozenset((Opcode.TEXT, Opcode.BINARY, Opcode.CONT))
