"""The command line of bubblewrap, and what it says of the process that it started. Pure, but for one file.

Everything is new inside: processes, mounts, IPC, host name, control groups; the system is read-only, and only
what is listed is there at all. The network is the one that it is started in. Nothing here dies with its
parent, for a daemon outlives the orchestrator: instead the daemon is the first process of its namespace, by
which it is known, and whose end is everybody's end there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FIXED = (
    "--unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --hostname workspace --as-pid-1".split()
)
_SHARED_BYTES = 256 << 20
"""Of /dev/shm, as in a view (``view.py``)."""
_INFORMATION = ("--info-fd", "3")


@dataclass(frozen=True)
class Inside:
    """What there is. All paths are absolute, and the same inside as outside."""

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    temporary: str
    """Is /tmp as well."""
    shown: Mapping[str, str]
    """Where a file is seen, and which."""
    directory: str
    """The working directory."""
    becomes_another: bool
    """It starts as root and becomes another user inside."""
    root: bool


def options(inside: Inside) -> list[str]:
    """All words between the program and ``--``."""
    rights = ["CAP_SETUID", "CAP_SETGID"] if inside.becomes_another else []
    users = [] if inside.root else ["--unshare-user"]
    return [
        *_FIXED,
        *users,
        *_INFORMATION,
        *(word for right in rights for word in ("--cap-add", right)),
        # First, for the data directory may be below it.
        *("--bind", inside.temporary, "/tmp"),
        # By itself it would make them for root only.
        *(word for path in _above([*inside.readable, *inside.writable]) for word in ("--dir", path)),
        *(word for path in sorted(inside.readable) for word in ("--ro-bind-try", path, path)),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(_SHARED_BYTES), "--tmpfs", "/dev/shm"),
        *(word for path in inside.writable for word in ("--bind", path, path)),
        *(word for place, file in inside.shown.items() for word in ("--ro-bind", file, place)),
        *("--remount-ro", "/", "--chdir", inside.directory),
    ]


def _above(paths: Sequence[str]) -> list[str]:
    """The directories on the way, but for those in or below one of the paths, which come with it.

    >>> _above(["/usr", "/usr/lib/x", "/srv/a/b"])
    ['/srv', '/srv/a']
    """
    ways = {str(parent) for path in paths for parent in Path(path).parents} - {"/"}
    return sorted(each for each in ways if not any(Path(each).is_relative_to(path) for path in paths))


def child(file: Path) -> int | None:
    """The process id, on this host, of what it started; None as long as it has not said so."""
    try:
        return int(json.loads(file.read_bytes())["child-pid"])
    except (OSError, ValueError, KeyError):
        return None
