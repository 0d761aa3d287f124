"""Ports of this host: which one a sandbox gets.

A port is asked of the kernel by binding it, for what others listen on; ports promised to sessions that have
not bound them yet come in as ``taken``. The registry calls this inside its transaction, so two launches never
get the same one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from protocol.errors import Busy

DEV_PORTS = range(8000, 8101)
"""Dev servers, when the wished port is taken."""
TOOL_PORTS = range(9000, 9101)
"""Tool servers, when the wished port is taken."""


@dataclass(frozen=True)
class Wish:
    """The port wanted, and what is taken instead: nothing when ``fallback`` is empty."""

    port: int
    fallback: Sequence[int] = ()


def choose(wish: Wish, taken: Collection[int], free: Callable[[int], bool], option: str = "--port") -> int:
    """The wished port, or the first free one of its fallback; raises Busy, naming ``option`` as the way out.

    >>> choose(Wish(4321, DEV_PORTS), {4321, 8000}, lambda port: port != 8001)
    8002
    >>> choose(Wish(4321), {4321}, lambda port: True, "--dev-port")
    Traceback (most recent call last):
    protocol.errors.Busy: port 4321 is taken; stop what listens on it, or choose another by --dev-port
    """
    for port in (wish.port, *wish.fallback):
        if port not in taken and free(port):
            return port
    if not wish.fallback:
        raise Busy(
            f"port {wish.port} is taken; stop what listens on it, or choose another by {option}",
            port=wish.port,
        )
    first, last = wish.fallback[0], wish.fallback[-1]
    raise Busy(
        f"port {wish.port} and all from {first} to {last} are taken; stop a workspace by `workspace down`, "
        f"or choose a port by {option}",
        port=wish.port,
        first=first,
        last=last,
    )


def without(wish: Wish, port: int) -> Wish | None:
    """The same wish, but never ``port``; None when nothing is left of it.

    >>> without(Wish(4321, range(8000, 8003)), 4321), without(Wish(4321, [8000, 8001]), 8000)
    (Wish(port=8000, fallback=(8001, 8002)), Wish(port=4321, fallback=(8001,)))
    """
    others = [each for each in (wish.port, *wish.fallback) if each != port]
    return Wish(others[0], tuple(others[1:])) if others else None


def is_free(port: int) -> bool:
    """Whether nothing on this machine listens on ``port`` of the loopback addresses."""
    return _can_bind(socket.AF_INET, "127.0.0.1", port) and _can_bind(socket.AF_INET6, "::1", port)


def _can_bind(family: socket.AddressFamily, address: str, port: int) -> bool:
    try:
        probe = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return True  # a machine without IPv6
    with probe:
        # A listener still refuses us; connections of one that is gone (TIME_WAIT) do not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno in _NO_SUCH_ADDRESS
        return True


_NO_SUCH_ADDRESS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""IPv6 compiled in, but switched off."""
