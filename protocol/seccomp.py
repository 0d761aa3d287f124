"""Filters of system calls, put together as bytes: the kernel's classic BPF, 8 bytes an instruction.

Both sides close by it what no other rule covers. Nothing here calls the kernel.
"""

from __future__ import annotations

import errno
import struct

PR_SET_SECCOMP, MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_BIT = 0x40000000

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What ``os.uname().machine`` says, and what a filter sees."""


def program(machine: str, *judgements: bytes) -> bytes:
    """A filter of these, each made by ``when``; what none of them is about is allowed.

    The machine's other instruction set (32 bit) gets no calls.

    >>> len(program("x86_64")) // 8, program("x86_64") != program("aarch64")
    (7, True)
    """
    return b"".join(
        (
            _instruction(_LOAD, _ARCHITECTURE_AT),
            _instruction(_JUMP_EQUAL, ARCHITECTURES[machine], 1, 0),
            refuse(errno.ENOSYS),
            _instruction(_LOAD, _NUMBER_AT),
            _instruction(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
            refuse(errno.ENOSYS),
            *judgements,
            allow(),
        )
    )


def when(value: int, *then: bytes) -> bytes:
    """``then``, which has to return, if that is what was loaded last: at first, a system call's number."""
    return _instruction(_JUMP_EQUAL, value & 0xFFFFFFFF, 0, len(b"".join(then)) // 8) + b"".join(then)


def when_it_has(bits: int, *then: bytes) -> bytes:
    """``then``, which has to return, if one of these bits is in what was loaded last."""
    return _instruction(_JUMP_BITS, bits, 0, len(b"".join(then)) // 8) + b"".join(then)


def unless_one_of(values: tuple[int, ...], then: bytes) -> bytes:
    """``then``, which has to return, if what was loaded last is none of these."""
    left = range(len(values), 0, -1)
    skip = len(then) // 8 - 1
    tests = (
        _instruction(_JUMP_EQUAL, value, more + skip, 0) for value, more in zip(values, left, strict=True)
    )
    return b"".join(tests) + then


def load_argument(index: int, *, upper: bool = False) -> bytes:
    """Argument ``index``; its lower half, which is all of what is an int to the kernel."""
    return _instruction(_LOAD, _ARGUMENTS_AT + 8 * index + (4 if upper else 0))


def refuse(error: int) -> bytes:
    """The call is not made, and fails with that number."""
    return _instruction(_RETURN, _ERRNO | error)


def allow() -> bytes:
    """The call is made."""
    return _instruction(_RETURN, _ALLOW)


def descriptor(code: bytes, address: int) -> bytes:
    """``struct sock_fprog`` of a program that lies at ``address``."""
    return struct.pack("@HP", len(code) // 8, address)


def _instruction(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)
