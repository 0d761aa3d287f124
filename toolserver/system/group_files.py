"""Which files of the kernel's control groups hold a command's limits, and what they tell: without a look.

    limit                   version 1                                    version 2
    commandMemoryBytes      memory: limit_in_bytes, memsw the same       memory.max, memory.swap.max 0
    commandProcesses        pids: pids.max                               pids.max
    commandCpus             cpu: cfs_quota_us, of 0.1 s                  cpu.max

A group holds for all that is in it together, so the same number says more here than as a limit of a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.limits import Limits

CONTROLLERS = {"memory": "commandMemoryBytes", "pids": "commandProcesses", "cpu": "commandCpus"}
"""Of the kernel, and which limit each is for."""
_PERIOD_MICROSECONDS = 100_000
"""In which a quota of processor time counts: the kernel's own default."""
_PLAIN_WEIGHT, _WEIGHT_PER_STEP = 1024, 1.25
"""Of processes that are not nice, and what a step divides it by: ``sched_prio_to_weight`` in Linux."""


@dataclass(frozen=True)
class Write:
    """``text`` into the file of that name, in the group of ``controller``."""

    controller: str
    file: str
    text: str
    needed: bool = True
    """If not, it may be refused: the kernel has the file only where it has swap, or counts it."""


@dataclass(frozen=True)
class Wanted:
    """What a command may use, with all it starts; 0 for as much as there is."""

    memory_bytes: int = 0
    processes: int = 0
    cpus: float = 0

    @classmethod
    def of(cls, limits: Limits) -> Wanted:
        """What the daemon was told."""
        return cls(limits.command_memory_bytes, limits.command_processes, limits.command_cpus)

    @property
    def controllers(self) -> list[str]:
        """By which it can be had.

        >>> Wanted(memory_bytes=1 << 30, cpus=1.5).controllers
        ['memory', 'cpu']
        """
        asked = {"memory": self.memory_bytes, "pids": self.processes, "cpu": self.cpus}
        return [name for name, value in asked.items() if value]


def before(version: int, wanted: Wanted) -> list[Write]:
    """What a group has before there is anybody in it.

    Of version 1, the daemon's thread that starts programs is one of those in it meanwhile.

    >>> [(each.file, each.text) for each in before(2, Wanted(memory_bytes=9, cpus=1.5))]
    [('memory.max', '9'), ('memory.swap.max', '0'), ('cpu.max', '150000 100000')]
    >>> [(each.file, each.text) for each in before(1, Wanted(processes=9, cpus=1.5))]
    [('pids.max', '10')]
    """
    memory, processes, cpus = str(wanted.memory_bytes), wanted.processes, wanted.cpus
    writes: list[Write] = []
    if wanted.memory_bytes and version == 1:
        writes.append(Write("memory", "memory.limit_in_bytes", memory))
        writes.append(Write("memory", "memory.memsw.limit_in_bytes", memory, needed=False))
    elif wanted.memory_bytes:
        writes.append(Write("memory", "memory.max", memory))
        writes.append(Write("memory", "memory.swap.max", "0", needed=False))
    if processes:
        writes.append(Write("pids", "pids.max", str(processes + 1 if version == 1 else processes)))
    if cpus and version == 2:
        writes.append(Write("cpu", "cpu.max", f"{_quota(cpus)} {_PERIOD_MICROSECONDS}"))
    return writes


def leaving(version: int, wanted: Wanted) -> list[Write]:
    """What it has right before the daemon's thread leaves it: a place that was let go would be the command's,
    if only for a moment, and whom it starts then stays. The kernel takes a limit below what there is.

    >>> [(each.file, each.text) for each in leaving(1, Wanted(processes=9, cpus=0.5))]
    [('pids.max', '9')]
    """
    if version == 1 and wanted.processes:
        return [Write("pids", "pids.max", str(wanted.processes))]
    return []


def after(version: int, wanted: Wanted) -> list[Write]:
    """What it has once the daemon's thread has left it: that is never to wait for a command's share.

    >>> [(each.file, each.text) for each in after(1, Wanted(processes=9, cpus=0.5))]
    [('cpu.cfs_quota_us', '50000')]
    """
    if version == 1 and wanted.cpus:
        return [Write("cpu", "cpu.cfs_quota_us", str(_quota(wanted.cpus)))]
    return []


def giving_way(version: int, steps: int) -> Write:
    """So that a group gives way as a process of so many steps of nice: within it, theirs count no more.

    >>> giving_way(1, 5).text, giving_way(2, 5).file
    ('336', 'cpu.weight.nice')
    """
    if version == 1:
        return Write("cpu", "cpu.shares", str(round(_PLAIN_WEIGHT / _WEIGHT_PER_STEP**steps)))
    return Write("cpu", "cpu.weight.nice", str(steps))


def _quota(cpus: float) -> int:
    """In microseconds of each period; the kernel takes no less than 1000."""
    return max(1000, round(cpus * _PERIOD_MICROSECONDS))


def counts(read: Mapping[str, str]) -> dict[str, int]:
    """How often limits were met, by their names, out of what the files of a group say.

    >>> counts({"memory": "oom_kill_disable 0\\nunder_oom 0\\noom_kill 2", "pids": "max 0"})
    {'commandMemoryBytes': 2, 'commandProcesses': 0}
    """
    keys = {"memory": "oom_kill", "pids": "max"}
    return {CONTROLLERS[each]: _count(read.get(each, ""), key) for each, key in keys.items()}


def met(now: Mapping[str, int], before: Mapping[str, int] = {}) -> list[str]:
    """Which were met since.

    >>> met({"commandMemoryBytes": 2, "commandProcesses": 1}, {"commandProcesses": 1})
    ['commandMemoryBytes']
    """
    return [name for name, count in now.items() if count > before.get(name, 0)]


def _count(text: str, key: str) -> int:
    told = re.search(rf"^{key} ([0-9]+)$", text, re.MULTILINE)
    return int(told[1]) if told else 0


def event_file(version: int, controller: str) -> str | None:
    """Where ``counts`` has it from; None where a group only makes wait."""
    files = {"memory": "memory.oom_control" if version == 1 else "memory.events", "pids": "pids.events"}
    return files.get(controller)


def own_groups(mountinfo: str, cgroup: str) -> dict[str, Path]:
    """Our own directories by controller, from /proc/self/{mountinfo,cgroup}; version 2's has no name.

    >>> mounts = "1 2 0:3 / /cg/pids rw - cgroup c rw,pids\\n4 5 0:6 /box /cg/all rw - cgroup2 c rw"
    >>> own_groups(mounts, "8:pids:/x\\n0::/box/y\\n")
    {'pids': PosixPath('/cg/pids/x'), '': PosixPath('/cg/all/y')}
    """
    mounts: dict[str, tuple[str, str]] = {}
    for name, mount in _mounts(mountinfo):
        mounts.setdefault(name, mount)
    ours: dict[str, Path] = {}
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in mounts:
                root, point = mounts[name]
                ours[name] = _below(root, point, path)
    return ours


def _mounts(mountinfo: str) -> Iterable[tuple[str, tuple[str, str]]]:
    """Controller, and (what of the hierarchy is mounted, where)."""
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        root, point = mount.split()[3:5]
        kind, _, options = kind.partition(" ")
        if kind == "cgroup2":
            yield "", (root, point)
        elif kind == "cgroup":
            for name in options.split()[-1].split(","):
                if name in CONTROLLERS:
                    yield name, (root, point)


def _below(root: str, point: str, path: str) -> Path:
    """In a container a hierarchy is mounted from the container's own group on."""
    inside = path[len(root) :] if root != "/" and (path + "/").startswith(root + "/") else path
    return Path(point + inside)
