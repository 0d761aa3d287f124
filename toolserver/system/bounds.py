"""A command's own limits, for itself and what it starts: given by a program that sets them and becomes it.

They are the kernel's resource limits, and inherited. The thread that starts commands cannot wear them: they
belong to a process as a whole, which is the daemon. Without any, nothing is put in between. What control
groups hold for the command as a whole (``limit_groups``) is not set here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from protocol.errors import Unavailable
from protocol.limits import Limits

_PROGRAM = "prlimit"
"""Of util-linux, which every distribution has. As a start from a shell costs half a millisecond."""


def bounds(limits: Limits, grouped: Collection[str] = ()) -> list[str]:
    """The options of ``prlimit`` for these limits, but for those by ``grouped`` controllers.

    >>> bounds(Limits())
    []
    >>> bounds(Limits(command_open_files=256, command_memory_bytes=1 << 30))
    ['--nofile=256', '--data=1073741824']
    >>> bounds(Limits(command_open_files=256, command_memory_bytes=1 << 30), ["memory"])
    ['--nofile=256']
    """
    table = (
        ("nofile", limits.command_open_files, ""),
        ("nproc", limits.command_processes, "pids"),
        ("data", limits.command_memory_bytes, "memory"),
        ("cpu", limits.command_cpu_seconds, ""),
    )
    return [f"--{name}={value}" for name, value, controller in table if value and controller not in grouped]


def bounded(
    argv: Sequence[str], options: Sequence[str], find: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """What to start so that ``argv`` runs within them. Its program is a path. Raises Unavailable.

    >>> bounded(["/bin/ls", "-l"], ["--nofile=256"], lambda name: f"/usr/bin/{name}")
    ['/usr/bin/prlimit', '--nofile=256', '--', '/bin/ls', '-l']
    """
    program = find(_PROGRAM)
    if program is None:
        raise Unavailable(
            "commands are to have limits (TOOL_SERVER_COMMAND_...), and there is no 'prlimit' to set them: "
            "install util-linux, or leave these limits out"
        )
    return [program, *options, "--", *argv]


@dataclass(frozen=True)
class Held:
    """A limit that each command is to have, and what became of that."""

    name: str
    """As callers have it."""
    value: float
    holds: bool
    means: str
    """``cgroup v2``, ``cgroup v1``, ``rlimit``, or ``none``."""
    why: str
    """For what it counts, and what would be better, as a clause."""


def held(
    limits: Limits, version: int, missing: Mapping[str, str], *, root: bool | None = None, kept: bool = True
) -> list[Held]:
    """Those that are set. ``version`` is that of the control groups in use, 0 without; ``missing`` says why
    some are not; ``kept``: commands cannot write them.

    >>> [one] = held(Limits(command_processes=9), 0, {"pids": "they may not be written"}, root=True)
    >>> one.holds, one.means, one.why
    (False, 'none', 'the kernel limits no processes of root but by control groups: they may not be written')
    >>> [one] = held(Limits(command_cpus=1.5), 1, {})
    >>> one.holds, one.means, one.why
    (True, 'cgroup v1', 'for a command with all that it starts')
    >>> [one] = held(Limits(command_cpus=1.5), 1, {}, kept=False)
    >>> one.why
    'for a command with all that it starts, as long as it writes no control groups: it is not kept from them'
    """
    root = os.geteuid() == 0 if root is None else root
    found: list[Held] = []

    def grouped(name: str, value: float, controller: str, otherwise: Callable[[str], Held]) -> None:
        if value and version and controller not in missing:
            means = f"cgroup v{version}"
            found.append(Held(name, value, True, means, _ALL if kept else f"{_ALL}{_UNKEPT}"))
        elif value:
            found.append(otherwise(missing.get(controller, "control groups are not used")))

    if limits.command_open_files:
        found.append(Held("commandOpenFiles", limits.command_open_files, True, "rlimit", _EACH))
    processes, memory, cpus = limits.command_processes, limits.command_memory_bytes, limits.command_cpus
    grouped("commandProcesses", processes, "pids", lambda why: _processes(processes, root, why))
    grouped("commandMemoryBytes", memory, "memory", lambda why: _memory(memory, why))
    grouped("commandCpus", cpus, "cpu", lambda why: _cpus(cpus, why))
    if limits.command_cpu_seconds:
        found.append(Held("commandCpuSeconds", limits.command_cpu_seconds, True, "rlimit", _EACH))
    return found


_EACH = "for each process of a command"
_ALL = "for a command with all that it starts"
_UNKEPT = ", as long as it writes no control groups: it is not kept from them"


def _processes(value: int, root: bool, why: str) -> Held:
    if root:
        why = f"the kernel limits no processes of root but by control groups: {why}"
        return Held("commandProcesses", value, False, "none", why)
    return Held("commandProcesses", value, True, "rlimit", f"for all processes of the user, because {why}")


def _memory(value: int, why: str) -> Held:
    return Held("commandMemoryBytes", value, True, "rlimit", f"{_EACH}, because {why}")


def _cpus(value: float, why: str) -> Held:
    return Held("commandCpus", value, False, "none", f"only control groups share processors out: {why}")
