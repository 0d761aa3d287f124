"""The doors around Landlock's rules on ports, closed by a system call filter.

Landlock judges bind and connect of TCP sockets. Multipath TCP, SCTP and other stream families are none to it,
and TCP Fast Open connects by sending: a tenant would reach another's ports by any of them. So sockets are of
the ordinary families and protocols only, nothing is sent with MSG_FASTOPEN, and io_uring, whose requests no
filter sees, answers as on a kernel without it. The machine's other instruction set (32 bit) gets no calls.
"""

from __future__ import annotations

import ctypes
import errno

from orchestrator.isolation import kernel
from protocol import seccomp
from protocol.seccomp import allow, load_argument, refuse, unless_one_of, when, when_it_has

_MSG_FASTOPEN = 0x20000000
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6, netlink."""
_NOT_INTERNET = (1, 16)
_PROTOCOLS = (0, 1, 6, 17, 58)
"""Any, ICMP, TCP, UDP, ICMPv6."""
_IO_URING_SETUP = 425

# machine: (socket, sendto, sendmsg, sendmmsg)
_MACHINES = {"x86_64": (41, 44, 46, 307), "aarch64": (198, 206, 211, 269)}


def is_known(machine: str) -> bool:
    """Whether there is a filter for what ``os.uname().machine`` says."""
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """The filter, as the kernel reads it: 8 bytes an instruction.

    >>> len(program("x86_64")) % 8, program("x86_64") != program("aarch64")
    (0, True)
    """
    socket, sendto, sendmsg, sendmmsg = _MACHINES[machine]
    return seccomp.program(
        machine,
        when(_IO_URING_SETUP, refuse(errno.ENOSYS)),
        when(socket, _judge_socket()),
        when(sendto, _judge_flags(3)),
        when(sendmsg, _judge_flags(2)),
        when(sendmmsg, _judge_flags(3)),
    )


def apply(machine: str) -> None:
    """Put the filter on the calling thread and all that it starts. Needs ``no_new_privileges`` first."""
    code = program(machine)
    instructions = ctypes.create_string_buffer(code, len(code))
    told = seccomp.descriptor(code, ctypes.addressof(instructions))
    kernel.process_control(seccomp.PR_SET_SECCOMP, seccomp.MODE_FILTER, ctypes.c_char_p(told))


def _judge_socket() -> bytes:
    """socket(family, type, protocol): the family is one of ours, and so is an internet socket's protocol."""
    internet = load_argument(2) + unless_one_of(_PROTOCOLS, refuse(errno.EPROTONOSUPPORT)) + allow()
    return b"".join(
        (
            load_argument(0),
            unless_one_of(_FAMILIES, refuse(errno.EAFNOSUPPORT)),
            unless_one_of(_NOT_INTERNET, internet),
            allow(),
        )
    )


def _judge_flags(argument: int) -> bytes:
    return load_argument(argument) + when_it_has(_MSG_FASTOPEN, refuse(errno.EOPNOTSUPP)) + allow()
