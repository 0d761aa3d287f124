"""The calling thread is tied to what commands may do, for good; they are started from it and inherit it.

Landlock, filters, capabilities, ``no_new_privs`` and users are each thread's own in Linux. So one thread of
the daemon gives up what commands are not to have, and the rest of the daemon stays as it is: starting a
command costs no program in between, and all commands are in one domain, in which they may signal each other.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import protocol
from protocol.landlock import MIN_ABI
from toolserver.system import call_filter, domain, kernel
from toolserver.system.domain import Facts, Places, Property, User, Wish

_CAP_SYS_PTRACE = 19
_TAKEN = (2, 9, 16, 17, _CAP_SYS_PTRACE, 20, 21, 22, 24, 25, 27, 32, 33, 34, 38, 39, 40)
"""Capabilities of root that reach past every rule here: CAP_DAC_READ_SEARCH, LINUX_IMMUTABLE, SYS_MODULE,
SYS_RAWIO, SYS_PTRACE, SYS_PACCT, SYS_ADMIN, SYS_BOOT, SYS_RESOURCE, SYS_TIME, MKNOD, MAC_OVERRIDE, MAC_ADMIN,
SYSLOG, PERFMON, BPF, CHECKPOINT_RESTORE. Left are those for files and users: packages can be installed."""
_TOOLS = "/tools"
"""Where the image has the daemon and what it needs."""
_TOP = tuple(
    f"/{name}" for name in "bin dev etc home lib lib64 mnt nix opt proc run sbin srv sys tmp usr var".split()
)
"""Below ``/``, where that cannot be listed."""
_SYSTEM = frozenset(("/", "/usr", "/usr/local"))
"""A Python that is the system's: its packages are installed by commands, too."""


class SeparationMissing(Exception):
    """What was asked for is not to be had; the daemon does not start."""


@dataclass(frozen=True)
class Reached:
    """What was asked for, and what became of it."""

    wish: Wish
    tier: Wish
    properties: tuple[Property, ...]
    groups_kept: bool = False
    """Whether commands are kept from the files of control groups, and so cannot leave theirs."""


NOTHING_DONE = Reached(Wish.NONE, Wish.NONE, domain.properties(Wish.NONE, Facts(), Places()))


@dataclass(frozen=True)
class Separation:
    """What commands are to be kept from."""

    wish: Wish
    places: Places
    user: User | None = None

    def enter(self, *, hidden: bool) -> Reached:
        """Tie the calling thread; raises SeparationMissing. ``hidden``: the daemon's memory is closed."""
        root = os.geteuid() == 0
        facts = Facts() if self.wish is Wish.NONE else self._tie(root, hidden)
        held = domain.properties(self.wish, facts, self.places)
        if lacking := domain.missing(self.wish, held):
            raise SeparationMissing(
                f"{domain.VARIABLE}={self.wish.value} cannot be had here: "
                + "; ".join(f"{each.name}: {each.why}" for each in lacking)
                + f"; or set {domain.VARIABLE}=auto, and take what there is"
            )
        return Reached(self.wish, domain.tier(self.wish, facts, held), held, facts.abi >= MIN_ABI)

    def _tie(self, root: bool, hidden: bool) -> Facts:
        """In the only order that works: rights go while there are some, the filter comes last."""
        traces = root and not _without_rights()
        places = domain.separable(_with_kernel(_with_devices(self.places) if root else self.places))
        abi = kernel.landlock_abi()
        landlock = kernel.Ruleset(abi) if abi >= MIN_ABI else None
        if landlock is not None:
            for kind, path in domain.rules(places, _children):
                landlock.allow(kind, path)
        if self.user is not None:
            kernel.become(self.user.uid, self.user.gid)
        kernel.no_new_privileges()
        if landlock is not None:
            landlock.restrict()
            landlock.close()
        return Facts(
            abi=abi,
            filter=_filtered(),
            root=root,
            traces=traces,
            user=self.user,
            dumpable=not hidden,
        )


def places_of(
    hidden: Iterable[Path],
    root: Path,
    shown: Iterable[Path],
    lent: Iterable[Path],
    environ: Mapping[str, str],
) -> Places:
    """Where the daemon's things are, and where people work."""
    prefix = os.path.realpath(sys.prefix)
    kept = [_TOOLS] if os.path.isdir(_TOOLS) else []
    kept += [prefix] if prefix not in _SYSTEM else []
    kept += [os.path.dirname(protocol.__file__), os.path.dirname(os.path.dirname(__file__))]
    free = [str(root), environ.get("HOME", ""), environ.get("TMPDIR") or "/tmp"]
    return Places(
        hidden=tuple(os.path.realpath(each) for each in hidden),
        shown=tuple(os.path.realpath(each) for each in shown),
        kept=tuple(sorted({os.path.realpath(each) for each in kept})),
        lent=(*_TOP, *(os.path.realpath(each) for each in lent)),
        free=tuple(sorted({os.path.realpath(each) for each in free if each.startswith("/")})),
    )


def _without_rights() -> bool:
    """Give up root's rights that reach past every rule; whether nobody can trace."""
    for capability in _TAKEN:
        try:
            if kernel.may_gain(capability):
                kernel.give_up(capability)
        except OSError:
            continue  # an older kernel does not know it, or we may not
    kernel.hand_no_rights_on()
    return not kernel.may_gain(_CAP_SYS_PTRACE)


def _with_devices(places: Places) -> Places:
    """Root reads disks past every rule on files, so these are out of reach too."""
    try:
        seen = [(entry.path, entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir("/dev")]
    except PermissionError:
        return places  # Root is refused a list by a domain around it alone: that lends devices, and no disk.
    disks = [path for path, mode in seen if stat.S_ISBLK(mode)]
    return replace(places, hidden=(*places.hidden, *disks))


def _with_kernel(places: Places) -> Places:
    """Control groups are files, and one of them ends or freezes all who are in it: whoever may write it, as
    root and as a user who was given his own, needs no signal. The rest of /sys is the machine's, too."""
    return replace(places, kept=(*places.kept, "/sys", *control_groups(_mounts())))


def control_groups(mountinfo: str) -> list[str]:
    """Where they are, of either version, out of /proc/self/mountinfo.

    >>> control_groups("30 23 0:26 / /groups rw shared:4 - cgroup2 g rw\\n31 23 0:27 / /a rw - ext4 b rw")
    ['/groups']
    """
    lines = [line.partition(" - ") for line in mountinfo.splitlines()]
    return [mount.split()[4] for mount, _, kind in lines if kind.partition(" ")[0] in ("cgroup", "cgroup2")]


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""


def _children(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _filtered() -> bool:
    machine = os.uname().machine
    if not call_filter.is_known(machine) or not kernel.has_filters():
        return False
    try:
        kernel.filter_calls(call_filter.filter_for(machine, os.getpid(), threading.get_native_id()))
    except OSError:
        return False
    return True
