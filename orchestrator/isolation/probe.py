"""The host, asked what it offers. Starts nothing and changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.isolation import landlock, seccomp
from orchestrator.isolation.identity import FIRST_GROUP, FIRST_USER, GROUPS, USERS
from orchestrator.isolation.tiers import Facts
from orchestrator.isolation.view import is_below

_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID, _NET_ADMIN, _SYS_ADMIN = 0, 1, 3, 5, 6, 7, 12, 21
_TUNNEL = "/dev/net/tun"
_PACKAGE = "Debian, Ubuntu and Fedora have it in the package {}"
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
        no_network=no_network(root, rights),
        no_bwrap=no_bwrap(root, rights),
    )


def no_network(root: bool, rights: int) -> str:
    """Why a session cannot have a network of its own; empty when it can, as far as is seen without trying."""
    if pasta() is None:
        return f"pasta is not installed ({_PACKAGE.format('passt')})"
    if not os.access(_TUNNEL, os.R_OK | os.W_OK):
        return f"{_TUNNEL} is not there, or not for this user to open"
    if root:
        able = rights >> _SYS_ADMIN & 1 and rights >> _NET_ADMIN & 1
        why = "" if able else "root may not make network namespaces here"
    else:
        why = no_user_namespaces(_setting)
    if not why and not has_way_out(*(_text(Path("/proc/net", name)) for name in ("route", "ipv6_route"))):
        why = "this host has no default route"
    return why


def no_bwrap(root: bool, rights: int) -> str:
    """The same for bubblewrap."""
    if bwrap() is None:
        return f"bwrap is not installed ({_PACKAGE.format('bubblewrap')})"
    if root:
        return (
            "" if rights >> _SYS_ADMIN & 1 else "root may not make namespaces here, as in a plain container"
        )
    return no_user_namespaces(_setting)


def pasta() -> str | None:
    """The router in user space, an absolute path."""
    return _program("pasta")


def bwrap() -> str | None:
    """Bubblewrap, an absolute path."""
    return _program("bwrap")


def no_user_namespaces(setting: Callable[[str], str]) -> str:
    """Why nobody but root can make user namespaces, going by the kernel's settings.

    >>> no_user_namespaces(lambda name: "0" if name == "kernel/unprivileged_userns_clone" else "")
    'user namespaces are refused: set kernel.unprivileged_userns_clone=1 by sysctl, or start as root'
    >>> no_user_namespaces(lambda name: "")
    ''
    """
    refusing = (
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    )
    for name, bad, good in refusing:
        if setting(name) == bad:
            dotted = name.replace("/", ".")
            return f"user namespaces are refused: set {dotted}={good} by sysctl, or start as root"
    return ""


def has_way_out(route: str, ipv6_route: str) -> bool:
    """Whether there is a default route, out of /proc/net/route and /proc/net/ipv6_route.

    >>> has_way_out("Iface\\neth0 00000000 010200C0", ""), has_way_out("Iface", "")
    (True, False)
    """
    four = (line.split() for line in route.splitlines()[1:])
    six = (line.split() for line in ipv6_route.splitlines())
    return any(words[1:2] == ["0" * 8] for words in four) or any(
        words[:2] == ["0" * 32, "00"] and words[-1] != "lo" for words in six
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


def _program(name: str) -> str | None:
    found = shutil.which(name)
    return str(Path(found).absolute()) if found else None


def _setting(name: str) -> str:
    return _text(Path("/proc/sys", name)).strip()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


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
