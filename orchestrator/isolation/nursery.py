"""``python -P -m orchestrator.isolation.nursery FD MODULE``: it has loaded a daemon, and forks it.

Most of a daemon's start is the loading of its modules. Here that is done once, by MODULE's ``prepare``; then
each message on the socket FD becomes a process of its own, which ties itself down by the launcher's own steps
and runs MODULE's ``main``. A message brings four descriptors: the order, to be read by the child alone, so
that nothing of one session is ever in here or in the next child; what becomes its output and its error
output; and a socket on which the child says who it is.

There is no thread, no event loop and no secret in here. It ends when the socket's other end does, and its
children go on: they are in sessions of their own and nothing ties them to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass

from orchestrator import processes

MESSAGE = b"begin"
DESCRIPTORS = 4
ANSWER_BYTES = 4096
_PR_SET_DUMPABLE = 4
_CAPABILITIES_VERSION = 0x2008_0522
_FIRST_FREE = 3


@dataclass(frozen=True)
class Order:
    """What one child is to become."""

    command: list[str]
    """As /proc shows it."""
    arguments: list[str]
    """Of the daemon's ``main``."""
    words: list[str]
    """The launcher's; without any it is not tied down."""
    environ: dict[str, str]
    """All of it."""
    directory: str

    def encode(self) -> bytes:
        """For ``decode``; a name that is no UTF-8 comes through as well."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Order:
        """
        >>> order = Order(["a"], [], ["uid", "7"], {"LANG": chr(0xdc80)}, "/")
        >>> Order.decode(order.encode()) == order
        True
        """
        return cls(**json.loads(data))


def main(fd: int, module: str) -> None:
    """In here until the socket ends; in each child as long as its daemon runs."""
    # The launcher imports them late; a child that is tied down could not.
    from orchestrator.isolation import appearance, kernel, landlock, network, seccomp, view  # noqa: F401

    daemon = importlib.import_module(f"{module}.__main__")
    daemon.prepare()
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names are enough
        sys.exit(f"{module} has started a thread while it was loaded: it cannot be forked")
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=fd)
    if (descriptors := _forked(control)) is not None:
        control.detach()
        order = _born(*descriptors)
        _tie_down(order.words)
        daemon.main(order.arguments)


def _forked(control: socket.socket) -> list[int] | None:
    """Comes back in each child, with its descriptors; and here with None, at the end."""
    # Nobody waits for a child: the kernel is to clear it away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, len(MESSAGE), DESCRIPTORS)
        if not message:
            return None
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return descriptors
        for each in descriptors:
            os.close(each)


def _born(request: int, out: int, error: int, answer: int) -> Order:
    """From here on it is known as what it is to be, whoever else ends; and has nothing of before."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(error, 2)
    order = Order.decode(os.pread(request, os.fstat(request).st_size, 0))
    from orchestrator.isolation import appearance

    try:
        appearance.take_on(order.command, order.environ)
    except OSError as reason:
        os.write(answer, f"a forked process cannot have an environment of its own: {reason}".encode())
        os._exit(0)
    time.tzset()
    os.chdir(order.directory)
    seen = processes.look_up(os.getpid())
    os.write(answer, f"{os.getpid()} {seen.started if seen else 0}".encode())
    os.closerange(_FIRST_FREE, os.sysconf("SC_OPEN_MAX"))
    return order


def _tie_down(words: list[str]) -> None:
    from orchestrator.isolation import kernel, launcher

    if not words:
        return
    try:
        launcher.tie_down(launcher.grouped(words))
        # What an exec does besides. In a user namespace of one's own one has all rights until then, and
        # becoming another user has closed /proc/self to that very user.
        if os.geteuid() != 0:
            _give_rights_up()
        kernel.process_control(_PR_SET_DUMPABLE, 1)
        _close_what_is_not_inherited()
    except OSError as reason:
        launcher.give_up(reason)


def _close_what_is_not_inherited() -> None:
    """Such as directories that the view was made of: by these one would get out of it."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are enough
        with contextlib.suppress(OSError):  # the one by which they are listed
            if not os.get_inheritable(int(name)) and int(name) >= _FIRST_FREE:
                os.close(int(name))


def _give_rights_up() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
