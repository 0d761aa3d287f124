"""What /proc tells of this process: its command line and its environment, anew and without an exec.

A process that was forked shows those of its parent. By its environment a sandbox's process is found again,
and root reads it there; so it has to be the process's own, as after an exec. Both are written into memory of
their own, the kernel is told where they begin and end, and the C library's variables point into them: who
overwrites one there overwrites what /proc shows.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Mapping, Sequence

from orchestrator.isolation import kernel

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_NO_PROGRAM = 0xFFFF_FFFF
"""For the program itself: it stays what it is."""
_MAP = struct.Struct("=11QQII")
"""prctl_mm_map: eleven addresses, then the auxiliary vector and the program, both left as they are."""
_libc = ctypes.CDLL(None)
_libc.sbrk.restype = ctypes.c_void_p
_libc.sbrk.argtypes = [ctypes.c_ssize_t]
_kept: list[object] = []
"""Memory that the kernel and the C library know by its address."""


def take_on(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Have ``command`` and ``environ`` for one's own, and no variable of before.

    Raises OSError where the kernel was built without CONFIG_CHECKPOINT_RESTORE; then nothing has changed.
    """
    words = b"".join(os.fsencode(word) + b"\0" for word in command)
    lines = [os.fsencode(f"{name}={value}") + b"\0" for name, value in environ.items()]
    memory = mmap.mmap(-1, len(words) + sum(map(len, lines)) + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(words + b"".join(lines))
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ends = begin + len(words), begin + len(memory) - 1
    _tell_kernel(begin, *ends)
    _kept.append(memory)
    os.environ.clear()
    os.environ.update(environ)
    _point_to(lines, ends[0])


def _tell_kernel(begin: int, middle: int, end: int) -> None:
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - no pathlib here
        fields = [int(each) for each in file.read().rpartition(b")")[2].split()[1:]]
    # proc(5) counts from 1, and two come before the bracket, one after it was taken off here.
    code, stack, data, brk = fields[22:24], fields[24], fields[41:43], fields[43]
    told = (*code, *data, brk, _libc.sbrk(0), stack, begin, middle, middle, end)
    packed = _MAP.pack(*told, 0, 0, _NO_PROGRAM)
    kernel.process_control(
        _PR_SET_MM, _PR_SET_MM_MAP, ctypes.create_string_buffer(packed, len(packed)), len(packed)
    )


def _point_to(lines: Sequence[bytes], address: int) -> None:
    table = (ctypes.c_void_p * (len(lines) + 1))()
    for index, line in enumerate(lines):
        table[index] = address
        address += len(line)
    _kept.append(table)
    ctypes.c_void_p.in_dll(_libc, "environ").value = ctypes.addressof(table)
