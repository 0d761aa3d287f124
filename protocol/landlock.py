"""Landlock's numbers: rights, the versions of the interface that know them, and the bytes of its requests.

Both sides tie programs down by it, the host a whole sandbox and the daemon its commands; what is read here
is linux/landlock.h. What is not *handled* is not restricted: everything known is handled, and then granted
path by path. Nothing here calls the kernel.
"""

from __future__ import annotations

import struct

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls; the same numbers on every architecture."""
ASK_VERSION = 1
PATH_BENEATH, NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR = 16, 32, 64, 128
MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = 256, 512, 1024, 2048
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = 4096, 8192, 16384, 32768
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1, 2

MIN_ABI, TRUNCATE_ABI, NET_ABI, DEVICE_ABI, SCOPE_ABI = 2, 3, 4, 5, 6
"""Before ABI 2 no file could be moved to another directory, which putting content in place consists of."""

_READ = EXECUTE | READ_FILE | READ_DIR
_MAKE = MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM
_WRITE = _READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | _MAKE | REFER | TRUNCATE
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

KINDS = {
    "read": _READ,
    "list": READ_DIR,
    "write": _WRITE,
    "device": READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV,
    "all": _WRITE | IOCTL_DEV,
}
"""What may be granted on a path and all below it. Nobody makes device nodes."""


def handled_files(abi: int) -> int:
    """Every right on files that a kernel of ``abi`` knows.

    >>> [handled_files(n).bit_length() for n in (1, 2, 3, 4, 5, 7)]
    [13, 14, 15, 15, 16, 16]
    """
    known = {1: REFER - 1, 2: TRUNCATE - 1, 3: IOCTL_DEV - 1, 4: IOCTL_DEV - 1}
    return known.get(abi, 2 * IOCTL_DEV - 1)


def handled_net(abi: int) -> int:
    """
    >>> handled_net(3), handled_net(4)
    (0, 3)
    """
    return BIND_TCP | CONNECT_TCP if abi >= NET_ABI else 0


def scoped(abi: int) -> int:
    """
    >>> scoped(5), scoped(6)
    (0, 3)
    """
    return SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= SCOPE_ABI else 0


def granted(kind: str, abi: int, directory: bool) -> int:
    """The rights of ``kind`` as this kernel takes them: what it does not know is an error to it.

    >>> granted("write", 2, True) & TRUNCATE, granted("read", 7, False) == EXECUTE | READ_FILE
    (0, True)
    """
    return KINDS[kind] & handled_files(abi) & (-1 if directory else _FOR_FILES)


def ruleset(abi: int, *, by_port: bool) -> bytes:
    """What a new set of rules is to judge: all that can be, TCP only ``by_port``.

    An older kernel refuses bytes that it does not know unless they are 0; these are, by then.

    >>> len(ruleset(7, by_port=True)), ruleset(3, by_port=True)[8:] == bytes(16)
    (24, True)
    """
    return struct.pack("=QQQ", handled_files(abi), handled_net(abi) if by_port else 0, scoped(abi))


def path_rule(rights: int, fd: int) -> bytes:
    """These rights on what the descriptor is open on, and all below it."""
    return struct.pack("=Qi", rights, fd)


def port_rule(rights: int, port: int) -> bytes:
    """These rights on a TCP port."""
    return struct.pack("=QQ", rights, port)
