"""The doors around Landlock's rules on ports, closed by a system call filter.

Landlock judges bind and connect of TCP sockets. Multipath TCP, SCTP and other stream families are none to it,
and TCP Fast Open connects by sending: a tenant would reach another's ports by any of them. So sockets are of
the ordinary families and protocols only, nothing is sent with MSG_FASTOPEN, and io_uring, whose requests no
filter sees, answers as on a kernel without it. The machine's other instruction set (32 bit) gets no calls.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from orchestrator.isolation import kernel

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_MSG_FASTOPEN = 0x20000000
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6, netlink."""
_INTERNET = (2, 10)
_PROTOCOLS = (0, 1, 6, 17, 58)
"""Any, ICMP, TCP, UDP, ICMPv6."""
_IO_URING_SETUP = 425
_X32_BIT = 0x40000000

# machine: (audit architecture, socket, sendto, sendmsg, sendmmsg)
_MACHINES = {
    "x86_64": (0xC000003E, 41, 44, 46, 307),
    "aarch64": (0xC00000B7, 198, 206, 211, 269),
}


def is_known(machine: str) -> bool:
    """Whether there is a filter for what ``os.uname().machine`` says."""
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """The filter, as the kernel reads it: 8 bytes an instruction.

    >>> len(program("x86_64")) % 8, program("x86_64") != program("aarch64")
    (0, True)
    """
    architecture, socket, sendto, sendmsg, sendmmsg = _MACHINES[machine]
    return b"".join(
        (
            _load(_ARCHITECTURE_AT),
            _instruction(_JUMP_EQUAL, architecture, 1, 0),
            _refuse(errno.ENOSYS),
            _load(_NUMBER_AT),
            _instruction(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
            _refuse(errno.ENOSYS),
            _when(_IO_URING_SETUP, _refuse(errno.ENOSYS)),
            _when(socket, _judge_socket()),
            _when(sendto, _judge_flags(3)),
            _when(sendmsg, _judge_flags(2)),
            _when(sendmmsg, _judge_flags(3)),
            _instruction(_RETURN, _ALLOW),
        )
    )


def apply(machine: str) -> None:
    """Put the filter on the calling thread and all that it starts. Needs ``no_new_privileges`` first."""
    code = program(machine)
    instructions = ctypes.create_string_buffer(code, len(code))
    descriptor = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    kernel.process_control(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(descriptor))


def _judge_socket() -> bytes:
    """socket(family, type, protocol): the family is one of ours, and so is an internet socket's protocol."""
    return b"".join(
        (
            _load_argument(0),
            _unless_one_of(_FAMILIES, errno.EAFNOSUPPORT),
            _instruction(_JUMP_EQUAL, _INTERNET[0], 2, 0),
            _instruction(_JUMP_EQUAL, _INTERNET[1], 1, 0),
            _instruction(_RETURN, _ALLOW),
            _load_argument(2),
            _unless_one_of(_PROTOCOLS, errno.EPROTONOSUPPORT),
            _instruction(_RETURN, _ALLOW),
        )
    )


def _judge_flags(argument: int) -> bytes:
    return b"".join(
        (
            _load_argument(argument),
            _instruction(_JUMP_BITS, _MSG_FASTOPEN, 0, 1),
            _refuse(errno.EOPNOTSUPP),
            _instruction(_RETURN, _ALLOW),
        )
    )


def _when(number: int, then: bytes) -> bytes:
    """``then``, which has to return, for that system call; its number is what was loaded last."""
    return _instruction(_JUMP_EQUAL, number, 0, len(then) // 8) + then


def _unless_one_of(values: tuple[int, ...], error: int) -> bytes:
    left = range(len(values), 0, -1)
    tests = (_instruction(_JUMP_EQUAL, value, more, 0) for value, more in zip(values, left, strict=True))
    return b"".join(tests) + _refuse(error)


def _load_argument(index: int) -> bytes:
    # The lower half: families, protocols and flags are ints to the kernel.
    return _load(_ARGUMENTS_AT + 8 * index)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _refuse(error: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | error)


def _instruction(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)
