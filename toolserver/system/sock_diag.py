"""Who listens on TCP, asked of the kernel by netlink: listening sockets alone, in a tenth of a millisecond.

/proc/net/tcp names the same ones, and to write it the kernel walks its table of all connections: 11 ms of
processor time on a machine of 24 GB, whose table is large, however few connections there are.
The forms are those of linux/inet_diag.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_DIAG, _BY_FAMILY = 4, 20
"""NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY."""
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_LISTENING = 1 << 10
_HEADER = struct.Struct("=IHHII")
_QUERY = struct.Struct("=BBBBI48x")
_ANSWER = struct.Struct("=4xH2x16s16x12x16xI")
"""The own port (in network order), the own address, the inode."""
_CODE = struct.Struct("=i")
_BYTES = 64 * 1024
_SECONDS = 1.0
"""The kernel answers at once; a sandbox that only seems to know netlink might not."""


def listening() -> list[tuple[int, bytes, int]]:
    """Port, address (4 or 16 bytes) and inode of each; raises OSError where the kernel is not to be asked."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _DIAG) as asked:
        asked.settimeout(_SECONDS)
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in dump(asked, family)]


def dump(asked: socket.socket, family: socket.AddressFamily) -> Iterator[tuple[int, bytes, int]]:
    """Those of one family; raises OSError, also for what the kernel says at the end of a list."""
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTENING)
    asked.send(_HEADER.pack(_HEADER.size + len(query), _BY_FAMILY, _REQUEST_DUMP, 0, 0) + query)
    size = 16 if family == socket.AF_INET6 else 4
    while True:
        data = asked.recv(_BYTES)
        if not data:
            raise OSError("netlink ended")
        for kind, content in messages(data):
            if kind in (_DONE, _ERROR):
                # Also the last message of a list tells an error: of a kernel without the module for TCP, say.
                if code := -_CODE.unpack_from(content)[0]:
                    raise OSError(code, os.strerror(code))
                return
            port, address, inode = _ANSWER.unpack_from(content)
            yield socket.ntohs(port), address[:size], inode


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each in what came at once; what is cut short raises OSError.

    >>> list(messages(_HEADER.pack(20, 3, 0, 0, 0) + b"done" + _HEADER.pack(17, 2, 0, 0, 0) + b"x"))
    [(3, b'done'), (2, b'x')]
    """
    while data:
        if len(data) < _HEADER.size:
            raise OSError("netlink sent half a header")
        size, kind = _HEADER.unpack_from(data)[:2]
        if not _HEADER.size <= size <= len(data):
            raise OSError("netlink sent half a message")
        yield kind, data[_HEADER.size : size]
        data = data[(size + 3) & ~3 :]
