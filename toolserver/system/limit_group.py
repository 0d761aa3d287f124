"""One control group that holds a command to its limits: written, read, removed. Made by ``limit_groups``."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from toolserver.system import group_files
from toolserver.system.group_files import Write

_EVENTS_BYTES = 4096


class Group:
    """One command's, made by ``LimitGroups``: a directory in each hierarchy, the same one in version 2."""

    def __init__(self, version: int, directories: Mapping[str, Path]) -> None:
        self.version = version
        self.directories = dict(directories)
        """By controller."""
        self.descriptor: int | None = None
        """Of version 2's directory, while a program may be started into it."""
        self._letting_go = threading.Lock()
        self.over = False
        """Its command has ended; what that left behind may still be in it."""

    def counts(self) -> dict[str, int]:
        """How often limits were met in it so far. Reads memory of the kernel's, which nobody waits for."""
        return group_files.counts({name: self._events(name) for name in self.directories})

    def met(self) -> list[str]:
        """Which were."""
        return group_files.met(self.counts())

    def write(self, writes: list[Write]) -> None:
        """Have these limits from now on; raises OSError."""
        for each in writes:
            if each.controller in self.directories:
                write_text(self.directories[each.controller] / each.file, each.text, needed=each.needed)

    def remove(self) -> bool:
        """Whether it is gone; somebody in it keeps it."""
        self.let_go()
        for directory in dict.fromkeys(self.directories.values()):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def let_go(self) -> None:
        """Nothing more is started into it. From any thread: nobody closes what is another's by then."""
        with self._letting_go:
            descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _events(self, controller: str) -> str:
        name = group_files.event_file(self.version, controller)
        if name is None:
            return ""
        try:
            fd = os.open(self.directories[controller] / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""  # an older kernel does not tell
        try:
            return os.pread(fd, _EVENTS_BYTES, 0).decode()
        except OSError:
            return ""  # removed since it was opened
        finally:
            os.close(fd)


def write_text(path: Path, text: str, *, needed: bool = True) -> None:
    """``text`` into the file, by one write, as the kernel wants it; raises OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)
    except OSError as error:
        if needed:
            raise OSError(error.errno, error.strerror, str(path)) from None
