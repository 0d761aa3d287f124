"""The nursery as the backend sees it: one process, started when it is first wanted, ended with its owner.

It is asked over a socket that nobody else has. Every order brings a socket of its own for the answer, so
orders may be given by several threads at once; one that closes without an answer says that no child is left
of it, for the child itself would have answered.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

from orchestrator.isolation import nursery
from orchestrator.isolation.nursery import ANSWER_BYTES, MESSAGE, Order
from protocol.errors import Unavailable

PATIENCE_SECONDS = 60.0
"""For an answer; 5 ms when quiet, and the loading of the modules before the first, 0.5 s."""
_END_SECONDS = 5.0
_INTERPRETERS = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_")
"""Beginnings of variables that Python and the C library read at their own start, and never again."""


class NurseryGone(Exception):
    """It did not do it: it has ended, or cannot do so on this host. Nothing is left of the order."""


class Nursery:
    """Forks ``module``, a package with ``prepare`` and ``main`` in its ``__main__``.

    ``log`` is where its own complaints go. It ends when this object does, or its process; what it forked
    goes on.
    """

    def __init__(self, module: str, environ: Mapping[str, str], log: Path) -> None:
        self.module = module
        self.environ = dict(filter(_is_read_at_start, environ.items()))
        """Its own: what a program's start depends on."""
        self._log = log
        self._starting = threading.Lock()
        self._control: socket.socket | None = None
        self._end: weakref.finalize[..., Nursery] | None = None
        self._never = ""
        """Why it is not asked again."""

    def begin(self, order: Order, out: int, error: int) -> tuple[int, int]:
        """Its process id and start time. Blocks; raises NurseryGone, or Unavailable when it hangs."""
        control = self._running()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            ours.settimeout(PATIENCE_SECONDS)
            try:
                with theirs, os.fdopen(os.memfd_create("order", os.MFD_CLOEXEC), "wb") as request:
                    request.write(order.encode())
                    request.flush()
                    socket.send_fds(control, [MESSAGE], [request.fileno(), out, error, theirs.fileno()])
                answer = ours.recv(ANSWER_BYTES)
            except TimeoutError:
                self._close(control)
                raise Unavailable(
                    f"the process that forks tool servers said nothing for {PATIENCE_SECONDS:g} s and was "
                    f"ended (its log is {self._log}): try again",
                    log=str(self._log),
                ) from None
            except ConnectionError:
                answer = b""
            except OSError:
                if control.fileno() >= 0:
                    raise
                answer = b""  # another order has found that it ended, and closed the way to it
        return self._told(answer, control)

    def close(self) -> None:
        """End it; the next ``begin`` starts another."""
        self._close(self._control)

    def _close(self, control: socket.socket | None) -> None:
        """End the one that is spoken to by ``control``, and not the next one, which others use by now."""
        with self._starting:
            if self._end is not None and control is self._control:
                self._end()
                self._control = self._end = None

    def _told(self, answer: bytes, control: socket.socket) -> tuple[int, int]:
        match answer.split():
            case [pid, started] if pid.isdigit():
                return int(pid), int(started)
            case []:
                self._close(control)
                raise NurseryGone(f"the process that forks them has ended (its log is {self._log})")
            case _:
                self._never = answer.decode()
                raise NurseryGone(self._never)

    def _running(self) -> socket.socket:
        with self._starting:
            if self._never:
                raise NurseryGone(self._never)
            if self._control is None:
                self._control = self._started()
            return self._control

    def _started(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE_SECONDS)
        said = os.open(self._log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with theirs, os.fdopen(said, "ab") as log:
            process = subprocess.Popen(
                (sys.executable, "-P", "-m", nursery.__name__, str(theirs.fileno()), self.module),
                cwd="/",
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, os.getpid(), ours, process)
        return ours


def reads_alike(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether Python would start in both environments as in the same one.

    >>> reads_alike({"LANG": "C"}, {"LANG": "C", "HOME": "/x"})
    True
    >>> reads_alike({}, {"PYTHONHASHSEED": "7"})
    False
    """
    return dict(filter(_is_read_at_start, one.items())) == dict(filter(_is_read_at_start, other.items()))


def _is_read_at_start(item: tuple[str, str]) -> bool:
    return item[0].startswith(_INTERPRETERS)


def _end(owner: int, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    if os.getpid() == owner:
        # Its children are none of its business, so nothing is lost by a sudden end.
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
