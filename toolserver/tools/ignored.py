"""What the ignore files of a tree leave out, learned directory by directory on the way down."""

from __future__ import annotations

import os

from protocol.errors import ToolError
from protocol.paths import ROOT, WorkspacePath
from toolserver.system.confinement import unconfined
from toolserver.system.disk import Disk
from toolserver.tools.names import IGNORE_FILES, Ignoring
from toolserver.tools.patterns import ignore_file

_MAX_BYTES = 1024 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Ignored:
    """The rules for a walk that begins at ``path``: those of the directories above count, too."""

    def __init__(self, disk: Disk, path: WorkspacePath) -> None:
        self._rules = Ignoring()
        above = "" if path == ROOT else path
        while above:
            above = above.rpartition("/")[0]
            self._learn_above(disk, above)

    def enter(self, fd: int, directory: str, names: list[str]) -> None:
        """Learn the rules of a directory (``""`` is the root), before its names are judged."""
        for kind in IGNORE_FILES:
            if kind in names:
                self._rules.specs[kind, directory] = ignore_file(_lines(fd, kind))

    def leaves_out(self, path: str, is_directory: bool) -> bool:
        """Whether a path below those entered is left out."""
        return self._rules.leaves_out(path, is_directory)

    def _learn_above(self, disk: Disk, directory: str) -> None:
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY
            with unconfined(), disk.opened(WorkspacePath(directory or ROOT), flags) as fd:
                self.enter(fd, directory, list(IGNORE_FILES))
        except (ToolError, OSError):
            return


def _lines(fd: int, name: str) -> list[str]:
    try:
        file = os.open(name, _READ, dir_fd=fd)
    except OSError:
        return []
    try:
        return os.read(file, _MAX_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []
    finally:
        os.close(file)
