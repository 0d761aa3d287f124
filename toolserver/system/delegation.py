"""Control groups of version 2 that were given to us: with controllers, to divide among commands.

The kernel gives a group's controllers on only where nobody is in that group itself. So the daemon moves down
into a group of its own beside its commands', if it is alone where it was started; and back when it stops.

    own          where the daemon was started
      base       workspace-core-…, see ``cgroups``
        daemon   where it is from then on
        …        one for each command
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolserver.system import tree

_HOW = "start the tool server in a control group of its own, as by systemd-run with -p Delegate=yes"
_LEAF = "daemon"
_LOOKS = 3
"""Who was forked while the others were moved is found by the next look."""


class NotDelegated(Exception):
    """Not ours to divide, and why."""


class Delegation:
    """``controllers`` are on in ``base``, for all groups in it. Made by ``of``."""

    def __init__(self, base: Path, controllers: Sequence[str]) -> None:
        self.controllers = list(controllers)
        self._base = base
        self._moved = self._enabled = False

    @classmethod
    def of(cls, base: Path, wanted: Iterable[str]) -> Delegation:
        """As many of those that are wanted as there are; raises NotDelegated when there are none, OSError."""
        wanted = list(wanted)
        offered = _words(base.parent / "cgroup.controllers")
        controllers = [each for each in wanted if each in offered]
        if not controllers:
            lacking = " and ".join(wanted)
            raise NotDelegated(f"the control group {base.parent} was not given {lacking}: {_HOW}")
        made = cls(base, controllers)
        try:
            made._divide()
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        """As it was before. The groups of commands are gone."""
        with contextlib.suppress(OSError):
            self._turn("-", self._base)
        if self._enabled:
            with contextlib.suppress(OSError):
                self._turn("-", self._base.parent)
        if self._moved:
            with contextlib.suppress(OSError):
                self._move(self._base / _LEAF, self._base.parent)
                (self._base / _LEAF).rmdir()

    def _divide(self) -> None:
        own = self._base.parent
        if not set(self.controllers) <= set(_words(own / "cgroup.subtree_control")):
            # The root of all groups has no type, and may have processes in it.
            if (own / "cgroup.type").exists():
                self._move_down()
            self._turn("+", own)
            self._enabled = True
        self._turn("+", self._base)

    def _move_down(self) -> None:
        own, leaf = self._base.parent, self._base / _LEAF
        ours = {os.getpid(), *(proc.pid for proc in tree.below(os.getpid(), tree.processes()))}
        if others := sorted({int(pid) for pid in _words(own / "cgroup.procs")} - ours):
            raise NotDelegated(f"process {others[0]} is in the control group {own} as well: {_HOW}")
        leaf.mkdir()
        self._moved = True
        self._move(own, leaf)

    def _move(self, source: Path, target: Path) -> None:
        for _ in range(_LOOKS):
            for pid in _words(source / "cgroup.procs"):
                with contextlib.suppress(ProcessLookupError):
                    (target / "cgroup.procs").write_text(pid)

    def _turn(self, sign: str, directory: Path) -> None:
        (directory / "cgroup.subtree_control").write_text(" ".join(sign + each for each in self.controllers))


def _words(path: Path) -> list[str]:
    return path.read_text().split()
