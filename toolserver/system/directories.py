"""Directories below one root, opened name by name and never through a link.

A few are kept open, the least recently used go first: a tree is read and written directory by directory, so
most members find theirs open already.
"""

from __future__ import annotations

import os

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 64
"""Descriptors at most. Measured on a node_modules tree: 16 gave the same speed, so 64 has room to spare."""


class Directories:
    """Descriptors of directories by their path below ``root`` (a descriptor that stays the caller's)."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def open(self, path: str) -> int:
        """The directory at ``path`` (normal form, ``"."`` or ``""`` for the root); good until the next call.

        Raises NotADirectoryError when a component is a link or a file, FileNotFoundError when it is missing.
        """
        if path in {"", "."}:
            return self._root
        fd = self._open.pop(path, None)
        if fd is None:
            above, _, name = path.rpartition("/")
            fd = self._entered(self.open(above), path, name)
            self._make_room()
        self._open[path] = fd
        return fd

    def of(self, path: str) -> tuple[int, str]:
        """The directory that holds ``path``, and the name in it."""
        above, _, name = path.rpartition("/")
        return self.open(above), name

    def close(self) -> None:
        """Close what is kept open, but not the root."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _entered(self, above: int, path: str, name: str) -> int:
        return os.open(name, DIRECTORY, dir_fd=above)

    def _make_room(self) -> None:
        if len(self._open) >= _KEPT:
            os.close(self._open.pop(next(iter(self._open))))


class GrowingDirectories(Directories):
    """The same, and what is missing is made."""

    def _entered(self, above: int, path: str, name: str) -> int:
        try:
            return os.open(name, DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=above)
            return os.open(name, DIRECTORY, dir_fd=above)
