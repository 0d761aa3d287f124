"""Who listens where, asked of the kernel or read from /proc; and whether a port answers."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from toolserver.system import sock_diag

_LISTEN = "0A"
_ESTABLISHED = "01"
_ANSWER_SECONDS = 5.0
"""A dev server's first answer may compile the page: Astro took 2 s on two cores."""


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen on ``port`` now, on ``host`` and on every address."""
    if listening_inodes(port):
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, order=True)
class Listener:
    """A listening TCP socket."""

    port: int
    address: str
    inode: int


def listening_inodes(port: int | None = None) -> dict[int, int]:
    """Socket inode to port, of all listening TCP sockets, or of those on ``port``."""
    return {inode: each.port for inode, each in listeners().items() if port in (None, each.port)}


def listeners() -> dict[int, Listener]:
    """All listening TCP sockets of this network namespace, by inode."""
    try:
        return {
            inode: Listener(port, str(ipaddress.ip_address(address)), inode)
            for port, address, inode in sock_diag.listening()
        }
    except OSError:
        return listeners_of_proc()  # a filter or another kernel knows no netlink


def listeners_of_proc() -> dict[int, Listener]:
    """The same, slower."""
    found: dict[int, Listener] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            found |= parse_listening(lines)
    return found


def parse_listening(lines: Iterable[str]) -> dict[int, Listener]:
    """Socket inode to listener, from the lines of /proc/net/tcp or tcp6.

    >>> parse_listening(["0: 0100007F:10E1 00000000:0000 0A 0:0 00:0 0 0 0 7781 1"])
    {7781: Listener(port=4321, address='127.0.0.1', inode=7781)}
    """
    found = {}
    for line in lines:
        # Most lines are connections: seen at once, without taking the line apart.
        if f" {_LISTEN} " in line and len(fields := line.split()) > 9 and fields[3] == _LISTEN:
            address, _, port = fields[1].rpartition(":")
            inode = int(fields[9])
            found[inode] = Listener(int(port, 16), address_of(address), inode)
    return found


def address_of(raw: str) -> str:
    """An address as /proc writes it, in words of the machine's byte order.

    >>> address_of("0100007F"), address_of("00000000000000000000000001000000")
    ('127.0.0.1', '::1')
    """
    words = [int(raw[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(raw), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def connections(port: int) -> int:
    """How many TCP connections to ``port`` of this machine are open, as their server sees them."""
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            count += count_connections(lines, port)
    return count


def count_connections(lines: Iterable[str], port: int) -> int:
    """Those of the lines of /proc/net/tcp whose own end is ``port``.

    >>> count_connections(["0: 0100007F:10E1 0100007F:9C40 01 0:0 00:0 0 0 0 7781 1"], 4321)
    1
    """
    own_end = f":{port:04X}"
    fields = (line.split() for line in lines)
    return sum(len(each) > 3 and each[1].endswith(own_end) and each[3] == _ESTABLISHED for each in fields)


def ports_of(pids: Iterable[int]) -> set[int]:
    """The ports that these processes listen on."""
    inodes = listening_inodes()
    return {inodes[inode] for pid in pids for inode in sockets_of(pid) if inode in inodes}


def listens(pids: Iterable[int], port: int, host: str) -> bool:
    """Whether one of these processes is who answers at ``port`` of ``host``, an address of this machine.

    On another of its addresses the same port may be another program's.
    """
    inodes = {
        inode for inode, each in listeners().items() if each.port == port and _takes(each.address, host)
    }
    return any(inode in inodes for pid in pids for inode in sockets_of(pid)) if inodes else False


def _takes(address: str, host: str) -> bool:
    """Whether a socket at ``address`` takes what is sent to ``host``; 0.0.0.0 is loopback then.

    >>> _takes("127.0.0.1", "0.0.0.0"), _takes("::", "127.0.0.1"), _takes("::ffff:7f00:1", "127.0.0.1")
    (True, True, True)
    >>> _takes("::1", "127.0.0.1"), _takes("192.0.2.1", "0.0.0.0")
    (False, False)
    """
    at, to = ipaddress.ip_address(address), ipaddress.ip_address(host)
    if isinstance(at, ipaddress.IPv6Address) and at.ipv4_mapped is not None:
        at = at.ipv4_mapped
    if to.is_unspecified:
        to = ipaddress.ip_address("127.0.0.1" if to.version == 4 else "::1")
    return at == to or at.is_unspecified


def owner(port: int) -> int | None:
    """The pid that listens on ``port``, when it can be seen."""
    inodes = set(listening_inodes(port))
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return next((pid for pid in pids if inodes & set(sockets_of(pid))), None) if inodes else None


async def accepts(host: str, port: int) -> bool:
    """Whether a connection is taken."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_status(host: str, port: int, path: str) -> int | None:
    """The status that ``GET path`` gets, or None when there is no answer.

    Written out by hand: an HTTP client library would be loaded for one line and one number.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                head = f"GET {path} HTTP/1.1", f"Host: localhost:{port}", "Accept: */*", "Connection: close"
                writer.write("\r\n".join((*head, "", "")).encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None
    parts = line.split()
    return int(parts[1]) if len(parts) > 1 and parts[0].startswith(b"HTTP/") and parts[1].isdigit() else None


def sockets_of(pid: int) -> list[int]:
    """Inodes of a process's sockets; none when it is gone or may not be asked."""
    links: list[str] = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            # A busy program closes some of them while we look; the others count.
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return [int(link[8:-1]) for link in links if link.startswith("socket:[")]
