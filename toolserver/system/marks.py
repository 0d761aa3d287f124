"""A mark that a command's processes inherit, and that no change of session or environment takes away.

``RLIMIT_LOCKS`` is a resource limit that Linux has not used since 2.4.25, and that every fork and exec still
hands down. So the daemon wears a number there while it starts a command, and whoever has that number was
started by it: after a double fork, in another session, with an empty environment. What may lose it is a
program that sets this very limit itself. Where a sandbox refuses the limit there is no such mark, and the
inherited variable (``tree.MARKER``) has to do.
"""

from __future__ import annotations

import contextlib
import re
import resource
import secrets

_RLIMIT_LOCKS = 10
_LINE = re.compile(rb"^Max file locks +(\d+) ", re.MULTILINE)


class LimitMarks:
    """Numbers for commands: given out, handed down, read back. Numbers of two daemons never meet."""

    def __init__(self) -> None:
        # Below 2**62, so that a signed reader is not surprised; the low half counts this daemon's commands.
        self._next = secrets.randbits(30) << 31
        self._own = resource.getrlimit(_RLIMIT_LOCKS)
        self.works = self._wear(self._next) and resource.getrlimit(_RLIMIT_LOCKS)[0] == self._next
        self._wear(self._own[0])

    def new(self) -> int:
        """A number that nobody has had."""
        self._next += 1
        return self._next

    def handed_down(self, number: int) -> _HandedDown:
        """Programs started in here have ``number``. Two system calls of a microsecond."""
        return _HandedDown(self, number)

    def take_off(self) -> None:
        """What is started from here on has no number."""
        if self.works:
            self._wear(self._own[0])

    def put_on(self, number: int) -> None:
        """What is started from here on has ``number``."""
        if self.works:
            self._wear(number)

    def _wear(self, number: int) -> bool:
        try:
            resource.setrlimit(_RLIMIT_LOCKS, (number, self._own[1]))
        except (OSError, ValueError):
            return False
        return True


class _HandedDown:
    # No generator: this is on the way of every command, and cold by then.
    __slots__ = ("_marks", "_number")

    def __init__(self, marks: LimitMarks, number: int) -> None:
        self._marks = marks
        self._number = number

    def __enter__(self) -> None:
        self._marks.put_on(self._number)

    def __exit__(self, *_: object) -> None:
        self._marks.take_off()


def number_of(pid: int) -> int | None:
    """The number of a process; None when it is gone."""
    try:
        return resource.prlimit(pid, _RLIMIT_LOCKS)[0]
    except ProcessLookupError:
        return None
    except (OSError, ValueError):
        # Another user's, as after a setuid program: what may not be asked may still be read.
        return _read(pid)


def _read(pid: int) -> int | None:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/limits", "rb") as file:
        found = _LINE.search(file.read())
        return int(found[1]) if found else None
    return None
