"""A terminal for one program, without forking for it.

A session leader without a terminal gets the first one it opens as its controlling terminal. So a shell
opens the terminal by name and becomes the program: no ``preexec_fn``, no ``pty.fork``.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Sequence

_ADOPT = 'exec 0<>"$0" 1>&0 2>&0; exec "$@"'


def open_terminal(cols: int, rows: int) -> tuple[int, int, str]:
    """A new pair of the given size in character cells: (our end, the program's end, its name)."""
    ours, theirs = os.openpty()
    resize(ours, cols, rows)
    return ours, theirs, os.ttyname(theirs)


def resize(fd: int, cols: int, rows: int) -> None:
    """Set the size; programs on it get SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def on_terminal(argv: Sequence[str], name: str) -> list[str]:
    """``argv``, to be run as a session leader whose terminal is ``name``."""
    return ["/bin/sh", "-c", _ADOPT, name, *argv]
