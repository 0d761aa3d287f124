"""The one thread of the daemon that commands could reach, guarded by a filter of their system calls.

Commands inherit what the thread that starts them is tied to, so to Landlock it is one of them, and with a
user of their own to the kernel too. A signal to any thread that kills, kills the process; so what signals by
number is refused for that thread's. What signals without naming it in an argument is refused whole:
``pidfd_send_signal``, which takes a directory of /proc as well, says that this kernel does not have it, and
programs that know it (Go's) then use the older call. A limit of another process is changed by nobody.
"""

from __future__ import annotations

import errno

from protocol.seccomp import allow, load_argument, program, refuse, when

_PIDFD_SEND_SIGNAL, _PIDFD_OPEN = 424, 434
_SET_OWNER, _SET_OWNER_BY_STRUCT = 8, 15
_OWNER_BY_POINTER = (0x8901, 0x8902)
"""FIOSETOWN and SIOCSPGRP: they say whom a socket signals, where no filter can look."""

# machine: (kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, fcntl, ioctl, prlimit64)
_MACHINES = {
    "x86_64": (62, 200, 234, 129, 297, 72, 16, 302),
    "aarch64": (129, 130, 131, 138, 240, 25, 29, 261),
}


def is_known(machine: str) -> bool:
    """Whether there is a filter for what ``os.uname().machine`` says."""
    return machine in _MACHINES


def filter_for(machine: str, daemon: int, thread: int) -> bytes:
    """The filter: ``daemon`` is its process id, ``thread`` that of the thread that starts commands.

    >>> len(filter_for("x86_64", 7, 8)) == len(filter_for("aarch64", 7, 8)) > 0
    True
    """
    kill, tkill, tgkill, queue, tgqueue, fcntl, ioctl, prlimit = _MACHINES[machine]
    whom = daemon, thread
    return program(
        machine,
        *(when(number, _unless_named(0, whom)) for number in (kill, tkill, queue, _PIDFD_OPEN)),
        *(when(number, _unless_named(1, whom)) for number in (tgkill, tgqueue)),
        when(_PIDFD_SEND_SIGNAL, refuse(errno.ENOSYS)),
        when(fcntl, _judge_owner(whom)),
        when(
            ioctl, load_argument(1), *(when(each, refuse(errno.EPERM)) for each in _OWNER_BY_POINTER), allow()
        ),
        when(prlimit, _judge_limit()),
    )


def _unless_named(argument: int, whom: tuple[int, ...]) -> bytes:
    return load_argument(argument) + b"".join(when(each, refuse(errno.EPERM)) for each in whom) + allow()


def _judge_owner(whom: tuple[int, ...]) -> bytes:
    return b"".join(
        (
            load_argument(1),
            when(_SET_OWNER_BY_STRUCT, refuse(errno.EPERM)),
            when(_SET_OWNER, _unless_named(2, whom)),
            allow(),
        )
    )


def _judge_limit() -> bytes:
    """prlimit64(pid, which, new, old): one's own (0), or only read (``new`` is null in both halves)."""
    return b"".join(
        (
            load_argument(0),
            when(0, allow()),
            load_argument(2),
            when(0, load_argument(2, upper=True), when(0, allow()), refuse(errno.EPERM)),
            refuse(errno.EPERM),
        )
    )
