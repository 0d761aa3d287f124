"""A command's own limits, for itself and what it starts: given by a program that sets them and becomes it.

They are the kernel's resource limits, and inherited. The thread that starts commands cannot wear them: they
belong to a process as a whole, which is the daemon. Without any, nothing is put in between.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from protocol.errors import Unavailable
from protocol.limits import Limits

_PROGRAM = "prlimit"
"""Of util-linux, which every distribution has. As a start from a shell costs half a millisecond."""


def bounds(limits: Limits) -> list[str]:
    """The options of ``prlimit`` for these limits.

    >>> bounds(Limits())
    []
    >>> bounds(Limits(command_open_files=256, command_memory_bytes=1 << 30))
    ['--nofile=256', '--data=1073741824']
    """
    table = (
        ("nofile", limits.command_open_files),
        ("nproc", limits.command_processes),
        ("data", limits.command_memory_bytes),
        ("cpu", limits.command_cpu_seconds),
    )
    return [f"--{name}={value}" for name, value in table if value]


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
