"""Control groups that hold a command, with all that it starts, to its limits: made before it and born in.

The law: a command is in its group before its first instruction, so nothing that it starts is ever outside.

    version 1   the thread that starts programs sits in the next one's group, and they are born where it is
    version 2   the kernel gives birth into a group that is named (CLONE_INTO_CGROUP, by glibc 2.39 or newer)

To move a thread takes the kernel some milliseconds. So the next group is made while the last command runs,
on a thread of its own, and only a start right after another one waits for that. Where groups cannot be had,
it is told why, and the kernel's resource limits have to do (``bounds``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from protocol.errors import Unavailable
from toolserver.system import group_files
from toolserver.system.cgroups import Cgroups, own_name, remove_left_behind
from toolserver.system.delegation import Delegation, NotDelegated
from toolserver.system.group_files import Wanted, Write
from toolserver.system.limit_group import Group, write_text
from toolserver.system.spawn import births_into_groups

_PATIENCE_SECONDS = 10.0
"""For a group to be made: a thousand times what it takes on a busy machine."""
_LEAVING_SECONDS, _PAUSE_SECONDS = 2.0, 0.01
"""A thread has ended for us a moment before it has for the kernel: its group is busy until then."""

log = logging.getLogger("toolserver.processes")


class LimitGroups:
    """The groups of one daemon's commands. ``next`` and ``given`` are the spawning thread's to call."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.version = 0
        """Of the kernel's control groups; 0 when none are used."""
        self.missing: dict[str, str] = {}
        """Of the controllers that are wanted: why one cannot be had."""
        self._spawner = 0
        self._bases: dict[str, Path] = {}
        self._delegation: Delegation | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._next: Future[Group] | None = None
        self._sitting: Group | None = None
        self._given: list[Group] = []
        self._lock = threading.Lock()

    @property
    def works(self) -> bool:
        """Whether commands have groups."""
        return bool(self._bases)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to hold commands to."""
        return bool(self._wanted.controllers)

    @property
    def used(self) -> bool:
        """Whether there are any of commands that have ended."""
        return any(each.over for each in self._given)

    def holds(self, controller: str) -> bool:
        """Whether this limit is held to by groups."""
        return controller in self._bases

    def open(self, cgroups: Cgroups, spawner: int, mountinfo: str, cgroup: str) -> None:
        """Find out, by doing it, what there is for what is wanted. Blocks for some milliseconds.

        ``spawner`` is the id of the thread that starts programs; the others are the files of /proc/self.
        """
        wanted = self._wanted.controllers
        if not wanted:
            return
        self._spawner = spawner
        own = group_files.own_groups(mountinfo, cgroup)
        if any(name in own for name in wanted):
            self._open_first({name: own[name] for name in wanted if name in own})
        elif cgroups.base is not None:
            self._open_second(cgroups.base, wanted)
        for name in wanted:
            if name not in self._bases:
                self.missing.setdefault(name, "this system has no control groups that may be written here")
        if self._bases:
            self._worker = ThreadPoolExecutor(1, "limits")
            self._prepare()

    def next(self) -> Group:
        """The group in which a program that is started now will be; raises Unavailable when there is none."""
        assert self._next is not None
        if self._next.done() and self._next.exception():
            self._prepare()  # what was in the way a while ago may be gone
        try:
            return self._next.result(_PATIENCE_SECONDS)
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                "commands are to have limits (TOOL_SERVER_COMMAND_...), and the next one's control group "
                f"cannot be made: {error}"
            ) from None

    def given(self, group: Group) -> None:
        """A program was started in it: the next one gets another."""
        with self._lock:
            self._given.append(group)
        self._prepare()

    def soon(self, group: Group, write: Write) -> None:
        """Change a group, on the thread that may wait."""
        assert self._worker is not None
        self._worker.submit(_tried, group, write)

    def tidy(self) -> None:
        """Remove those of commands that have ended, once nobody is in them."""
        with self._lock:
            given = list(self._given)
        gone = {id(each) for each in given if each.over and each.remove()}
        with self._lock:
            self._given = [each for each in self._given if id(each) not in gone]

    def close(self) -> None:
        """Remove them all. The thread that starts programs has ended."""
        if self._worker is not None:
            self._worker.shutdown()
        spare = [self._next.result()] if self._next is not None and not self._next.exception() else []
        left, deadline = [*self._given, *spare], time.monotonic() + _LEAVING_SECONDS
        while (left := [each for each in left if not each.remove()]) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        if self._delegation is not None:
            self._delegation.close()
        elif self.version == 1:
            for base in dict.fromkeys(self._bases.values()):
                with contextlib.suppress(OSError):
                    base.rmdir()

    def give_up(self, why: str) -> None:
        """There are none after all. Called by the thread that starts programs, which may be in one."""
        if self.version == 1:
            for base in self._bases.values():
                with contextlib.suppress(OSError):
                    write_text(base.parent / "tasks", str(self._spawner))
        self.close()
        self.missing, self.version = dict.fromkeys(self._wanted.controllers, why), 0
        self._bases, self._delegation, self._given = {}, None, []

    def _prepare(self) -> None:
        assert self._worker is not None
        self._next = self._worker.submit(self._made)

    def _made(self) -> Group:
        name = secrets.token_hex(8)
        group = Group(self.version, {each: base / name for each, base in self._bases.items()})
        try:
            for directory in dict.fromkeys(group.directories.values()):
                directory.mkdir()
            group.write(group_files.before(self.version, self._wanted))
            if self.version == 1:
                self._move_into(group)
            else:
                group.descriptor = os.open(
                    group.directories[next(iter(self._bases))], os.O_RDONLY | os.O_CLOEXEC
                )
            self._settle(group)
        except BaseException:
            # The thread may be in it already: then it goes when the next one is made.
            group.over = True
            with self._lock:
                self._given.append(group)
            raise
        return group

    def _move_into(self, group: Group) -> None:
        """The thread goes there, out of the last one if it was in there."""
        if self._sitting is not None:
            _hold(self._sitting, group_files.leaving(self.version, self._wanted))
        # Where processes are counted first: until it is out it has a place there that is the command's.
        counted_first = sorted(group.directories, key=lambda controller: controller != "pids")
        for directory in dict.fromkeys(group.directories[each] for each in counted_first):
            write_text(directory / "tasks", str(self._spawner))

    def _settle(self, group: Group) -> None:
        """The thread is out of the last one now, if it was in there."""
        last, self._sitting = self._sitting, group
        if last is not None:
            last.let_go()
            _hold(last, group_files.after(self.version, self._wanted))

    def _open_first(self, own: Mapping[str, Path]) -> None:
        name = own_name()
        for controller, directory in own.items():
            remove_left_behind(directory)
            base = directory / name
            try:
                base.mkdir(exist_ok=True)
                probe = Group(1, {controller: base / "probe"})
                probe.directories[controller].mkdir()
                try:
                    limit = self._only(controller)
                    probe.write([*group_files.before(1, limit), *group_files.leaving(1, limit)])
                    probe.write(group_files.after(1, limit))
                    write_text(probe.directories[controller] / "tasks", str(self._spawner))
                    write_text(base / "tasks", str(self._spawner))
                finally:
                    probe.remove()
                self._bases[controller] = base
            except OSError as error:
                self.missing[controller] = _why(error)
                with contextlib.suppress(OSError):
                    base.rmdir()
        self.version = 1 if self._bases else 0

    def _open_second(self, base: Path, wanted: list[str]) -> None:
        if not births_into_groups():
            why = "the C library cannot start programs in a control group; glibc 2.39 and newer can"
            self.missing = dict.fromkeys(wanted, why)
            return
        try:
            delegation = Delegation.of(base, wanted)
        except (NotDelegated, OSError) as error:
            self.missing = dict.fromkeys(wanted, _why(error))
            return
        self._delegation, self.version = delegation, 2
        self._bases = dict.fromkeys(delegation.controllers, base)
        self.missing = dict.fromkeys(
            set(wanted) - set(self._bases), "the control group that the tool server is in was not given it"
        )

    def _only(self, controller: str) -> Wanted:
        wanted = self._wanted
        return Wanted(
            wanted.memory_bytes if controller == "memory" else 0,
            wanted.processes if controller == "pids" else 0,
            wanted.cpus if controller == "cpu" else 0,
        )


def try_out(groups: LimitGroups, start: Callable[[Group], int]) -> None:
    """Start something in a group, and wait for it; where that fails there are none, and it is told why."""
    try:
        group = groups.next()
        os.waitpid(start(group), 0)
    except Exception as error:
        groups.give_up(str(error))
    else:
        group.over = True
        groups.given(group)


def _hold(group: Group, writes: list[Write]) -> None:
    """Have it these limits; one whose command has ended may be gone as soon as nobody sits in it."""
    try:
        group.write(writes)
    except OSError:
        if not group.over:
            raise


def _tried(group: Group, write: Write) -> None:
    try:
        group.write([write])
    except OSError as error:
        log.info("control group", extra={"data": {"file": write.file, "refused": str(error)}})


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} may not be written ({error.strerror})"
    return str(error)
