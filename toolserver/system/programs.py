"""Which program a bare name means, remembered: a look at every directory of a PATH is for a thread.

What was found is taken again only while each directory up to it is as it was then, so a program that is
added before it, or removed, is seen at once. Remembered is only what lies on the system's own disk: to look
at that again waits no longer than to start the program from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_REMEMBERED = 256
"""Names with their PATH; a workspace uses some dozens. A gut feeling."""
_RACY_NS = 1_000_000_000
"""A directory changed this shortly before the look may have changed since and show the same time: the clock
for files ticks every few milliseconds, that of some file systems every second."""

Stamp = tuple[int, int, int] | None
"""Device, inode and time of the last change of a directory; None when there is none."""


@dataclass(frozen=True)
class _Found:
    path: str
    looked_at: tuple[tuple[str, Stamp], ...]
    """The directories of the PATH, up to and with the one that has it."""


class Programs:
    """Names looked up. ``look_up`` is for a thread, ``known`` for the event loop."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[str, str], _Found] = {}

    def known(self, name: str, places: str) -> str | None:
        """The path of ``name`` on the PATH ``places``; None when it is to be looked up."""
        found = self._remembered.get((name, places))
        if found is None:
            return None
        if all(_stamp(place) == stamp for place, stamp in found.looked_at) and os.access(found.path, os.X_OK):
            return found.path
        self._remembered.pop((name, places), None)
        return None

    def look_up(self, name: str, places: str, cwd: str, now_ns: int) -> str | None:
        """The same by a look at every directory, to be remembered; None when it is nowhere. Blocks.

        A PATH may name directories relative to ``cwd`` (node_modules/.bin); those are not remembered.
        """
        directories = [os.path.join(cwd, place) for place in places.split(os.pathsep)]
        stamps = [(place, _stamp(place)) for place in directories]
        path = shutil.which(name, path=os.pathsep.join(directories))
        if path is not None and directories == places.split(os.pathsep):
            self._remember(name, places, path, stamps, now_ns)
        return path

    def _remember(
        self, name: str, places: str, path: str, stamps: Sequence[tuple[str, Stamp]], now_ns: int
    ) -> None:
        at = next((n for n, (place, _) in enumerate(stamps) if os.path.join(place, name) == path), None)
        if at is None or not all(is_settled(stamp, now_ns) for _, stamp in stamps[: at + 1]):
            return
        # A copy, and by ``pop``: others look up at the same time, and the loop drops what is old.
        for oldest in list(self._remembered)[: max(0, len(self._remembered) - _MAX_REMEMBERED + 1)]:
            self._remembered.pop(oldest, None)
        self._remembered[name, places] = _Found(path, tuple(stamps[: at + 1]))


def is_settled(stamp: Stamp, now_ns: int) -> bool:
    """Whether a later look at the same stamp means the same content, on the system's own disk.

    >>> is_settled((os.stat("/").st_dev, 1, 5), 10**12), is_settled((-1, 1, 5), 10**12), is_settled(None, 0)
    (True, False, True)
    >>> is_settled((os.stat("/").st_dev, 1, 10**12 - 5), 10**12)
    False
    """
    return stamp is None or (stamp[0] == os.stat("/").st_dev and stamp[2] < now_ns - _RACY_NS)


def _stamp(place: str) -> Stamp:
    try:
        seen = os.stat(place)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns
