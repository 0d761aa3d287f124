"""A cgroup per command, where cgroup v2 may be written: nobody leaves it, and one write ends all in it.

A command is placed once it has run for a moment, together with what it has started by then: most commands
are over before, and pay nothing. Placing may wait for the kernel, so it is done on a thread. Nothing here
is needed: where there is no such cgroup, or it refuses, families are found and ended without it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from toolserver.system.group_files import own_groups

_PREFIX = "workspace-core-"


class Cgroups:
    """Those of this daemon's commands. Used on threads: one places and tidies up, others look and kill."""

    VERSION = 2
    """Of the kernel's. Where its groups hold limits too (``limit_groups``), commands are born in one."""

    def __init__(self) -> None:
        self._base: Path | None = None
        self._names: dict[str, str] = {}
        """Of placed commands: id to directory. Ids are the callers', and no names of directories."""

    @property
    def works(self) -> bool:
        """Whether commands are placed."""
        return self._base is not None

    @property
    def used(self) -> bool:
        """Whether there are any to be removed one day."""
        return bool(self._names)

    def open(self) -> None:
        """Find out, once, by doing it: make a directory of ours, and see that it can be killed by."""
        own = own_cgroup(*self.told())
        if own is None:
            return
        remove_left_behind(own)
        base = own / own_name()
        try:
            base.mkdir()
        except OSError:
            return
        if os.access(base / "cgroup.kill", os.W_OK) and os.access(own / "cgroup.procs", os.W_OK):
            self._base = base
        else:
            base.rmdir()

    @staticmethod
    def told() -> tuple[str, str]:
        """What the kernel tells of all control groups, and of ours: /proc/self/{mountinfo,cgroup}."""
        return _read("/proc/self/mountinfo"), _read("/proc/self/cgroup")

    @property
    def base(self) -> Path | None:
        """The directory that holds them all; None when there are none."""
        return self._base

    def adopt(self, id: str, directory: Path) -> None:
        """The command is in this one of ``base`` since its start."""
        self._names[id] = directory.name

    def place(self, id: str, pids: Iterable[int]) -> bool:
        """Move these processes into the cgroup of ``id``; False when none went."""
        if self._base is None:
            return False
        directory = self._base / self._names.setdefault(id, secrets.token_hex(8))
        try:
            directory.mkdir(exist_ok=True)
        except OSError:
            del self._names[id]
            return False
        return sum(_write(directory / "cgroup.procs", str(pid)) for pid in pids) > 0

    def members(self) -> dict[int, str]:
        """Pid to command, of everybody who is in one of them."""
        return {pid: id for id in list(self._names) for pid in _pids(self._directory(id))}

    def kill(self, id: str, known: set[int]) -> bool:
        """KILL everyone in it at once, before they can fork; refused when somebody in it is not ``known``.

        Between a program's end and its placing its pid may have become another's.
        """
        directory = self._directory(id)
        pids = _pids(directory)
        if directory is None or not pids or not pids <= known:
            return False
        return _write(directory / "cgroup.kill", "1")

    def tidy(self, kept: Iterable[str]) -> None:
        """Remove those in which nobody is left, of commands that are not ``kept``."""
        for id in set(self._names) - set(kept):
            # Somebody in it keeps it.
            with contextlib.suppress(OSError):
                assert self._base is not None
                (self._base / self._names[id]).rmdir()
                self._names.pop(id, None)

    def close(self) -> None:
        """Remove them all."""
        self.tidy(())
        if self._base is not None:
            with contextlib.suppress(OSError):
                self._base.rmdir()

    def _directory(self, id: str) -> Path | None:
        # Looked up once: who tidies up forgets it meanwhile.
        name = self._names.get(id)
        return None if self._base is None or name is None else self._base / name


def _pids(directory: Path | None) -> set[int]:
    return set() if directory is None else set(map(int, _read(str(directory / "cgroup.procs")).split()))


def own_cgroup(mountinfo: str, cgroup: str) -> Path | None:
    """Where our own cgroup v2 directory is, from /proc/self/{mountinfo,cgroup}.

    >>> own_cgroup("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw", "0::/user.slice")
    PosixPath('/sys/fs/cgroup/user.slice')
    >>> own_cgroup("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup cgroup rw", "1:cpu:/") is None
    True
    """
    return own_groups(mountinfo, cgroup).get("")


def own_name() -> str:
    """For a directory of this daemon's, by which the next one knows whose it was."""
    return f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"


def remove_left_behind(own: Path) -> None:
    """What a daemon that was killed could not remove; a cgroup with somebody in it refuses."""
    with contextlib.suppress(OSError):
        for base in own.glob(f"{_PREFIX}*"):
            pid = base.name.removeprefix(_PREFIX).partition("-")[0]
            if not os.path.exists(f"/proc/{pid}"):
                # Each by itself: another daemon that starts now removes the same.
                with contextlib.suppress(OSError):
                    for each in [*base.iterdir(), base]:
                        if each.is_dir():
                            with contextlib.suppress(OSError):
                                each.rmdir()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: Path, text: str) -> bool:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return False
    return True
