"""Landlock: a process gives up what is not on a list, for itself and all that it will ever start.

The rules are numbers of the kernel's interface (linux/landlock.h); which of them a kernel knows is told by
its ABI. What is not ``handled`` is not restricted: everything known is handled, then granted path by path.
Landlock binds the calling thread: apply it before there is a second one.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from orchestrator.isolation import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_ASK_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

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
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

KINDS = {
    "read": _READ,
    "list": READ_DIR,
    "write": _READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | _MAKE | REFER | TRUNCATE,
    "device": READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV,
}
"""What may be granted on a path and all below it. Nobody makes device nodes."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # what _pack_ means; newer Pythons want it said
    _fields_ = (("access", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> int:
    """The kernel's version of the interface; 0 when it has none, or is told not to use it."""
    try:
        return kernel.system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    except OSError:
        return 0


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


def restrict_self(
    abi: int, paths: Iterable[tuple[str, str]], bind: Iterable[int], connect: Iterable[int]
) -> None:
    """Tie the calling thread down: to ``paths`` (kind, path), and to TCP ports where the kernel can.

    Without any port TCP is not judged. A path that is not there is passed over. Needs ``no_new_privileges``
    first, unless root.
    """
    by_port = bool([*bind, *connect])
    ruleset = _ruleset(abi, by_port)
    try:
        for kind, path in paths:
            _allow_path(ruleset, abi, kind, path)
        if by_port and abi >= NET_ABI:
            for access, ports in ((BIND_TCP, bind), (CONNECT_TCP, connect)):
                for port in ports:
                    rule = _NetPort(access, port)
                    kernel.system_call(_ADD_RULE, ruleset, _NET_PORT, ctypes.byref(rule), 0)
        kernel.system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _ruleset(abi: int, by_port: bool) -> int:
    attributes = _Ruleset(handled_files(abi), handled_net(abi) if by_port else 0, scoped(abi))
    # An older kernel refuses bytes that it does not know unless they are 0; these are, by then.
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    return kernel.system_call(_CREATE_RULESET, ctypes.byref(attributes), size, 0)


def _allow_path(ruleset: int, abi: int, kind: str, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        access = granted(kind, abi, stat.S_ISDIR(os.fstat(fd).st_mode))
        if access:
            rule = _PathBeneath(access, fd)
            kernel.system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)
