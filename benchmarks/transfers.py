"""A file sent and received at the least cost to the sender, so that the figure is the tool server's.

On a thread, by the standard library: the kernel sends from its own memory, and what is received goes into a
file, as tar's output does.
"""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path
from urllib.parse import urlsplit

_PIECE_BYTES = 64 * 1024
_LIMIT_SECONDS = 120.0
"""Without a byte either way."""


async def send(url: str, path: Path) -> None:
    """PUT the file at ``path``. Raises OSError, AssertionError when it is not taken."""
    await asyncio.to_thread(_sent, url, path)


async def receive(url: str, path: Path) -> None:
    """GET into the file at ``path``. Raises OSError, AssertionError when it is not given."""
    await asyncio.to_thread(_received, url, path)


def _sent(url: str, path: Path) -> None:
    connection, place = _connected(url)
    try:
        with path.open("rb") as file:
            connection.putrequest("PUT", place)
            connection.putheader("Content-Length", str(path.stat().st_size))
            connection.endheaders()
            connection.sock.sendfile(file)
            _expect(connection.getresponse())
    finally:
        connection.close()


def _received(url: str, path: Path) -> None:
    connection, place = _connected(url)
    try:
        connection.request("GET", place)
        answer = connection.getresponse()
        if answer.status != 200:
            _expect(answer)
        piece = memoryview(bytearray(_PIECE_BYTES))
        with path.open("wb", buffering=0) as file:
            while count := answer.readinto(piece):
                file.write(piece[:count])
    finally:
        connection.close()


def _connected(url: str) -> tuple[http.client.HTTPConnection, str]:
    parts = urlsplit(url)
    place = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return http.client.HTTPConnection(parts.netloc, timeout=_LIMIT_SECONDS), place


def _expect(answer: http.client.HTTPResponse) -> None:
    body = answer.read()
    if answer.status != 200:
        raise AssertionError(f"status {answer.status}: {body[:200]!r}")
