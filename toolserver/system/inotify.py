"""The kernel's change notices, as Python: inotify(7) and nothing on top of it.

The numbers are those of linux/inotify.h. A watch is on a directory held by a descriptor, never on a path that
somebody could swap meanwhile.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from typing import NamedTuple

MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
OVERFLOW, IGNORED = 0x4000, 0x8000
IS_DIRECTORY = 0x40000000
_ONLY_DIRECTORY, _EXCLUDE_UNLINKED = 0x01000000, 0x04000000

CONTENT = MODIFY | CLOSE_WRITE
"""Somebody wrote into a file, whatever its times say."""
_WANTED = CONTENT | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | _ONLY_DIRECTORY | _EXCLUDE_UNLINKED

_READ_BYTES = 256 * 1024
_HEAD = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Notice(NamedTuple):
    """One event: on which watch, what (``mask``), and the name in the directory."""

    watch: int
    mask: int
    name: str


class Inotify:
    """One queue of notices, of which ``fd`` becomes readable. Raises OSError where the system has no more."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, directory: int) -> int:
        """Watch the directory behind a descriptor; the same directory gives the same number again."""
        place = b"/proc/self/fd/%d" % directory
        return _checked(_libc.inotify_add_watch(self.fd, place, _WANTED))

    def remove(self, watch: int) -> None:
        """No more of it; one that the kernel has ended already is no error."""
        _libc.inotify_rm_watch(self.fd, watch)

    def waiting(self) -> int:
        """Bytes of notices that were not read yet."""
        (size,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)))
        return int(size)

    def read(self) -> tuple[list[Notice], int]:
        """What is there, at most 256 KiB of it, and its size in bytes; nothing when there is nothing."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return [], 0
        return parsed(data), len(data)

    def close(self) -> None:
        """End all watches."""
        os.close(self.fd)


def parsed(data: bytes) -> list[Notice]:
    """
    >>> parsed(_HEAD.pack(1, CREATE, 0, 4) + b"ab\\0\\0")
    [Notice(watch=1, mask=256, name='ab')]
    """
    found, at = [], 0
    while at < len(data):
        watch, mask, _, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + length].rstrip(b"\0")
        found.append(Notice(watch, mask, os.fsdecode(name)))
        at += length
    return found


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
