"""The host, asked what it offers. Starts nothing and changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from orchestrator.isolation import landlock, seccomp
from orchestrator.isolation.identity import FIRST_GROUP, FIRST_USER, GROUPS, USERS
from orchestrator.isolation.tiers import Facts
from orchestrator.isolation.view import is_below

_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID, _SYS_ADMIN = 0, 1, 3, 5, 6, 7, 21
_FOR_USERS = (_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID)


def look(needs: Iterable[Path], data: Path) -> Facts:
    """The facts. A session's own user would have to read ``needs``, and to pass what is above ``data``.

    The data directory's own mode is ours to set.
    """
    known = [path for path in needs if path.exists()]
    root = os.geteuid() == 0
    rights = _capabilities(Path("/proc/self/status").read_text())
    ids = _is_mapped("uid", FIRST_USER, USERS) and _is_mapped("gid", FIRST_GROUP, GROUPS)
    return Facts(
        abi=landlock.abi(),
        filter=seccomp.is_known(os.uname().machine),
        root=root,
        users=root and ids and all(rights >> number & 1 for number in _FOR_USERS),
        views=bool(rights >> _SYS_ADMIN & 1),
        closed=closed([*known, data]),
        unreadable=tuple(str(path) for path in known if not _readable_by_all(path)),
    )


def closed(paths: Iterable[Path]) -> tuple[str, ...]:
    """The outermost directories above ``paths`` that other users may not pass."""
    above = {str(parent.resolve()) for path in paths for parent in path.parents if parent.exists()}
    return outermost(path for path in above if not _open_to_all(Path(path), 0o1))


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """
    >>> outermost(["/root/x", "/root", "/srv"])
    ('/root', '/srv')
    """
    every = sorted(set(paths))
    return tuple(path for path in every if not any(is_below(path, other) for other in every))


def _readable_by_all(path: Path) -> bool:
    return _open_to_all(path, 0o5 if path.is_dir() else 0o4)


def _open_to_all(path: Path, wanted: int) -> bool:
    return stat.S_IMODE(path.stat().st_mode) & wanted == wanted


def _capabilities(status: str) -> int:
    """
    >>> _capabilities("Name: x\\nCapEff:\\t0000000000000003\\n")
    3
    """
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1], 16) for line in lines if line[:1] == ["CapEff:"]), 0)


def _is_mapped(kind: str, first: int, count: int) -> bool:
    """Whether these ids mean anything here: in a user namespace most do not."""
    lines = (line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines())
    return any(int(inside) <= first and first + count <= int(inside) + int(n) for inside, _, n in lines)
