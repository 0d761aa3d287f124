"""Whether who is at the other end of a silent WebSocket is still there.

aiohttp's own way looks at a clock for every piece that comes in. Here a message only leaves a mark, and a
timer that comes by now and then looks for it: small requests are answered sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Iterator

from aiohttp import web

_PING = b"\x89\x00"
"""A whole frame, RFC 6455, 5.5.2."""
_LAST_RECEIVED = 52
"""Where ``struct tcp_info`` of linux/tcp.h says how many milliseconds ago bytes came in."""

log = logging.getLogger("toolserver.ws")


class Heartbeat:
    """Of one socket. Looks twice in ``seconds``: after that long a silence it asks, and waits half as long.

    The owner says ``heard`` of every message. A large one that is still on its way counts, too.
    """

    def __init__(self, ws: web.WebSocketResponse, request: web.Request, seconds: float) -> None:
        self.heard = True
        self._ws = ws
        self._request = request
        self._pause = seconds / 2
        self._silent = 0
        """Looks in a row that found nothing."""
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """In here."""
        self._arm()
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def look(self) -> None:
        """See whether anything has come since the last look; ask, or end the connection."""
        transport, self._timer = self._request.transport, None
        if transport is None or self._ws.closed:
            return
        self._silent = 0 if self.heard or receives(transport, self._pause) else self._silent + 1
        self.heard = False
        if self._silent > 2:
            log.info("socket lost", extra={"data": {"reason": "no answer to a ping"}})
            transport.abort()
            return
        if self._silent == 2:
            transport.write(_PING)
        self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self.look)


def receives(transport: asyncio.BaseTransport, seconds: float) -> bool:
    """Whether bytes came in within that time, be it of half a message; no, where the system does not say."""
    try:
        own = transport.get_extra_info("socket")
        info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED + 4)
        ago: int = struct.unpack_from("I", info, _LAST_RECEIVED)[0]
    except (OSError, AttributeError, struct.error):
        return False
    return 0 < ago < seconds * 1000
