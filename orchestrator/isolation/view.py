"""A view of the file system of one's own, for a process that root starts: a mount namespace.

Two things that access rules cannot give. A session's user gets at its files though a directory above them is
closed to all but root: that directory is covered by an empty one, and only what is needed is bound into it.
And shared places become private ones: /tmp, /dev/shm, and a /proc that shows nobody else's processes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from orchestrator.isolation import kernel

_NEW_MOUNTS, _NEW_IPC = 0x00020000, 0x08000000
_NO_SUID, _NO_DEVICES, _NO_EXEC = 2, 4, 8
_BIND, _RECURSIVE, _SLAVE = 4096, 16384, 1 << 19
_SHARED_MEMORY = "size=256m,mode=1777"
"""Four times what a container gets by default: browsers run out of 64 MB."""


def enter(covers: Sequence[str], keep: Sequence[str], temporary: str, accounts: str) -> None:
    """Go into a view of one's own.

    ``covers`` are directories to be seen empty but for the paths in ``keep`` that lie below them; /tmp is one
    of them, and seen as ``temporary``. ``accounts`` is seen as /etc/passwd. All paths are absolute.
    """
    umask = os.umask(0o022)
    kernel.unshare(_NEW_MOUNTS | _NEW_IPC)
    # Slave: what the host mounts or unmounts later happens here too, and nothing of ours happens there.
    kernel.mount("none", "/", None, _RECURSIVE | _SLAVE)
    _bind(os.open(accounts, os.O_PATH | os.O_CLOEXEC), "/etc/passwd")
    hidden = [path for path in keep if any(is_below(path, directory) for directory in covers)]
    held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in hidden]
    private = os.open(temporary, os.O_PATH | os.O_CLOEXEC)
    for directory in covers:
        _cover(directory, private if directory == "/tmp" else None)
    for path, fd in held:
        _bind(fd, path)
    os.umask(umask)


def hide_others() -> None:
    """In the view that was entered: a /proc without others' processes, and shared memory of one's own."""
    kernel.mount("proc", "/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXEC, "hidepid=2")
    if os.access("/dev/shm", os.F_OK):
        kernel.mount("tmpfs", "/dev/shm", "tmpfs", _NO_SUID | _NO_DEVICES, _SHARED_MEMORY)


def show(file: str, place: str, *, fresh: bool) -> None:
    """Have ``file`` seen at ``place``, a file too or a link to one; ``fresh`` makes a view for it first."""
    if fresh:
        kernel.unshare(_NEW_MOUNTS)
        kernel.mount("none", "/", None, _RECURSIVE | _SLAVE)
    kernel.mount(file, os.path.realpath(place), None, _BIND)


def is_below(path: str, directory: str) -> bool:
    """
    >>> is_below("/a/b", "/a"), is_below("/ab", "/a"), is_below("/a", "/a"), is_below("/a", "/")
    (True, False, False, True)
    """
    return path != directory and path.startswith(directory.rstrip("/") + "/")


def _cover(directory: str, by: int | None) -> None:
    if by is not None:
        kernel.mount(f"/proc/self/fd/{by}", directory, None, _BIND)
    else:
        kernel.mount("tmpfs", directory, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")


def _bind(source: int, target: str) -> None:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        _make_directories(target)
    elif not os.access(target, os.F_OK):
        _make_directories(target.rpartition("/")[0])
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    kernel.mount(f"/proc/self/fd/{source}", target, None, _BIND | _RECURSIVE)


def _make_directories(path: str) -> None:
    if path and not os.access(path, os.F_OK):
        _make_directories(path.rpartition("/")[0])
        os.mkdir(path, 0o755)  # noqa: PTH102 - the launcher starts without pathlib
