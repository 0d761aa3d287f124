"""Daemons of this host, begun: each by a program of its own, or forked by a nursery that has loaded it.

The first way works everywhere. The second is for a host that begins many, several times as quick; where it
does not work the first one is taken, and the log says why.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator import processes
from orchestrator.backends.local_nursery import Nursery, NurseryGone, reads_alike
from orchestrator.isolation.nursery import Order

log = logging.getLogger("orchestrator.backends")


@dataclass(frozen=True)
class Start:
    """One daemon to be begun."""

    program: Sequence[str]
    """To be started: it becomes ``command``, tied down."""
    command: Sequence[str]
    words: list[str] | None
    """By which a process ties itself down (``Isolation.words``); None where only the program can."""
    environ: dict[str, str]
    """All of it."""
    directory: Path
    out: BinaryIO
    """Files: they outlive us, and the daemon must not then write to nobody."""
    error: BinaryIO

    def order(self, module: str) -> Order | None:
        """What a nursery of ``module`` is told; None where it cannot do it."""
        before = [*self.command[:1], "-P", "-m", module]
        if self.words is None or [*self.command[: len(before)]] != before:
            return None
        arguments = [*self.command[len(before) :]]
        return Order([*self.command], arguments, self.words, self.environ, str(self.directory))


class Daemons:
    """Those that were begun here."""

    def __init__(self, nursery: Nursery | None) -> None:
        self._nursery = nursery
        self._children: set[int] = set()
        """Processes started by this very one, which therefore has to reap them."""

    def begin(self, start: Start) -> tuple[int, int]:
        """Its process id and start time. Blocks; raises OSError, and Unavailable for a nursery that hangs."""
        forked = self._forked(start)
        return forked if forked is not None else self._started(start)

    def leave(self, process: subprocess.Popen[bytes]) -> None:
        """Its end is ours to see, by ``reap``; Popen is not to wait for it, nor to warn."""
        self._children.add(process.pid)
        process.returncode = 0

    def reap(self) -> None:
        """Clear away those that have ended."""
        for pid in tuple(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            self._children.discard(pid)

    def _forked(self, start: Start) -> tuple[int, int] | None:
        nursery = self._nursery
        if nursery is None or not reads_alike(nursery.environ, start.environ):
            return None
        if (order := start.order(nursery.module)) is None:
            return None
        try:
            return nursery.begin(order, start.out.fileno(), start.error.fileno())
        except NurseryGone as gone:
            log.warning("a tool server is started by itself, for none could be forked: %s", gone)
            return None

    def _started(self, start: Start) -> tuple[int, int]:
        process = subprocess.Popen(
            start.program,
            cwd=start.directory,
            env=start.environ,
            stdin=subprocess.DEVNULL,
            stdout=start.out,
            stderr=start.error,
            start_new_session=True,
        )
        self.leave(process)
        seen = processes.look_up(process.pid)
        return process.pid, seen.started if seen else 0
