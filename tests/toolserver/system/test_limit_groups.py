"""Limits of a command with all that it starts, by the kernel's control groups where they may be written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from protocol.errors import Unavailable
from protocol.limits import Limits
from tests.builder import http_of, running, until
from tests.toolserver.system import tables
from toolserver.system import group_files
from toolserver.system.cgroups import Cgroups
from toolserver.system.group_files import Wanted
from toolserver.system.limit_group import Group
from toolserver.system.limit_groups import LimitGroups
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.spawn import DEVNULL, births_into_groups, spawn

MIB = 1 << 20
ENV = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
LIMITS = Limits(command_memory_bytes=96 * MIB, command_processes=24, command_cpus=0.5)


@contextlib.asynccontextmanager
async def opened(directory: Path, limits: Limits = LIMITS) -> AsyncIterator[ProcessTable]:
    async with tables.opened(directory, limits) as table:
        yield table
    assert not [each for each in table._groups._bases.values() if each.exists()]


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[ProcessTable]:
    async with opened(tmp_path) as table:
        if not all(each.means.startswith("cgroup") for each in table.held):
            pytest.skip("; ".join(each.why for each in table.held))
        yield table


async def run(table: ProcessTable, script: str, shell: str = "sh") -> Process:
    return await table.start_soon([shell, "-c", script], cwd="/", env=ENV)


async def ended(table: ProcessTable, script: str) -> Process:
    process = await run(table, script)
    await process.wait()
    return process


def wrote(process: Process) -> list[str]:
    return process.stdout.read(0, 10_000).data.decode().split()


async def test_memory_counts_for_all_that_a_command_starts_together(table: ProcessTable) -> None:
    alone = await ended(table, f"head -c {60 * MIB} /dev/zero | tail | wc -c")
    assert (wrote(alone), alone.limits_met) == ([str(60 * MIB)], [])
    # Each of the two holds as much as the one before did, and is within the limit by itself.
    hold = f"{{ head -c {60 * MIB} /dev/zero; sleep 1000; }} | tail"
    both = await run(table, f"{hold} & {hold}")
    group = both.group
    assert group is not None
    await until(lambda: group.met() == ["commandMemoryBytes"], "one of the two to be killed")
    await table.stop(both, grace_ms=0)
    assert both.limits_met == ["commandMemoryBytes"]


async def test_who_takes_too_much_memory_is_killed_and_the_limit_is_named(table: ProcessTable) -> None:
    hog = await ended(table, "exec tail /dev/zero")
    assert hog.exit is not None
    assert (hog.exit.signal, hog.limits_met) == ("SIGKILL", ["commandMemoryBytes"])
    # The next one has a group of its own, in which nothing has happened yet.
    after = await ended(table, "true")
    assert after.exit is not None
    assert (after.exit.code, after.limits_met) == (0, [])


async def test_a_fork_bomb_stays_within_its_own_number_and_all_of_it_goes(table: ProcessTable) -> None:
    bomb = await run(table, "b() { b | b & }; b; b; b; sleep 1000", "bash")
    group = bomb.group
    assert group is not None
    await until(lambda: group.met() == ["commandProcesses"], "the bomb to meet its limit")
    assert len(await asyncio.to_thread(bomb.family)) <= LIMITS.command_processes
    assert (await ended(table, "true")).limits_met == []
    await table.stop(bomb, grace_ms=0)
    assert await asyncio.to_thread(bomb.family) == set()
    assert bomb.limits_met == ["commandProcesses"]


async def test_as_many_processes_as_the_limit_says(tmp_path: Path) -> None:
    """Also right after the start, while the daemon's own thread is just leaving the group."""
    async with opened(tmp_path, Limits(command_processes=1)) as table:
        if not table.held[0].means.startswith("cgroup"):
            pytest.skip(table.held[0].why)
        for _ in range(2):
            process = await ended(table, "(:) && echo two")
            assert wrote(process) == []
            assert process.limits_met == ["commandProcesses"]


async def test_processor_time_is_given_out_by_share(table: ProcessTable, tmp_path: Path) -> None:
    # So small a share that a busy machine, too, gives more.
    async with opened(tmp_path / "small", Limits(command_cpus=0.02)) as small:
        busy = await run(small, "while :; do :; done")
        assert busy.group is not None
        told = busy.group.directories["cpu"] / "cpu.stat"
        await until(lambda: "nr_throttled 0" not in told.read_text(), "the command to be held back")
        await small.stop(busy, grace_ms=0)


async def test_commands_cannot_be_in_a_group_of_the_daemons(table: ProcessTable) -> None:
    own = Path("/proc/self/cgroup").read_text()
    told = wrote(await ended(table, "cat /proc/self/cgroup"))
    where = group_files.own_groups(Path("/proc/self/mountinfo").read_text(), "\n".join(told))
    ours = group_files.own_groups(Path("/proc/self/mountinfo").read_text(), own)
    for controller in ("memory", "pids", "cpu"):
        name = controller if controller in ours else ""
        assert where[name].is_relative_to(ours[name])
        assert where[name] != ours[name]


async def test_groups_are_removed_when_everybody_in_them_has_gone(table: ProcessTable) -> None:
    left = await ended(table, "sleep 1000 & echo $!")
    over = await ended(table, "true")
    assert left.group is not None
    assert over.group is not None
    gone, kept = over.group.directories.values(), left.group.directories.values()
    await until(lambda: not any(each.exists() for each in gone))
    assert all(each.exists() for each in kept)
    await table.stop(left, grace_ms=0)
    await until(lambda: not any(each.exists() for each in kept))


async def test_one_that_is_removed_as_soon_as_it_can_be_keeps_no_command_from_its_start(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by_now, after = threading.Event(), group_files.after
    prepared = table._groups._next
    assert prepared is not None
    await asyncio.to_thread(prepared.result, 60)

    def late(version: int, wanted: Wanted) -> list[group_files.Write]:
        assert ended_by_now.wait(60)
        table._groups.tidy()
        return after(version, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(group_files, "after", late)
        first = await ended(table, "true")
        ended_by_now.set()
        assert wrote(await ended(table, "echo second")) == ["second"]
    assert first.group is not None
    assert not any(each.exists() for each in first.group.directories.values())


def test_what_a_killed_daemon_left_is_removed_by_the_next(tmp_path: Path) -> None:
    own = group_files.own_groups(*Cgroups.told())
    with subprocess.Popen(["sleep", "1000"]) as child:
        # While it lives: daemons of other tests remove those of the dead, too.
        left = own.get("pids", Path("/nowhere")) / f"workspace-core-{child.pid}-0"
        try:
            (left / "one").mkdir(parents=True)
        except OSError as error:
            pytest.skip(f"control groups of version 1 may not be written here: {error}")
        finally:
            child.kill()
    groups = LimitGroups(Wanted(processes=9))
    groups.open(Cgroups(), child.pid, *Cgroups.told())
    assert not left.exists()


async def test_where_there_are_none_it_is_told_what_holds_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroups, "told", staticmethod(lambda: ("", "")))
    async with opened(tmp_path) as table:
        told = {each.name: (each.holds, each.means) for each in table.held}
        assert told["commandMemoryBytes"] == (True, "rlimit")
        assert told["commandCpus"] == (False, "none")
        assert told["commandProcesses"] == ((False, "none") if os.geteuid() == 0 else (True, "rlimit"))
        assert all("no control groups that may be written" in each.why for each in table.held)


async def test_no_command_runs_without_its_limits(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> list[group_files.Write]:
        return [group_files.Write("pids", "nothing.of.this.name", "1")]

    with monkeypatch.context() as patched:
        patched.setattr(group_files, "before", full)
        with contextlib.suppress(Unavailable):
            await ended(table, "true")  # Its group may have been ready already.
        with pytest.raises(Unavailable, match="the next one's control group cannot be made"):
            await ended(table, "true")
    assert (await ended(table, "echo again")).limits_met == []


async def test_callers_are_told(tmp_path: Path) -> None:
    few = {"TOOL_SERVER_COMMAND_MEMORY_BYTES": str(96 * MIB), "TOOL_SERVER_COMMAND_CPUS": "1.5"}
    with running(tmp_path, **few) as daemon:
        async with http_of(daemon) as http:
            limits = {each["name"]: each for each in (await http.ok("separation"))["limits"]}
            assert limits["commandCpus"]["value"] == 1.5
            if not limits["commandMemoryBytes"]["means"].startswith("cgroup"):
                pytest.skip(limits["commandMemoryBytes"]["why"])
            hog = await http.ok("command", command="tail /dev/zero", commandId="hog")
            assert hog["limitsMet"] == ["commandMemoryBytes"]
            assert hog["exitCode"] == 137
            assert (await http.ok("wait", processId="hog"))["limitsMet"] == ["commandMemoryBytes"]
            (record,) = (await http.ok("processes"))["processes"]
            assert record["limitsMet"] == ["commandMemoryBytes"]
            # A kept shell goes on, and tells it of the command that it happened to.
            shell = [await http.ok("shell", command=line) for line in ("true", "tail /dev/zero", "true")]
            assert [each["limitsMet"] for each in shell] == [[], ["commandMemoryBytes"], []]
            assert [each["exitCode"] for each in shell] == [0, 137, 0]


async def test_it_is_told_where_commands_may_leave_their_groups(tmp_path: Path) -> None:
    own = group_files.own_groups(*Cgroups.told()).get("memory")
    if own is None:
        pytest.skip("memory is not limited by version 1 here")
    told = {}
    for wish in ("auto", "none"):
        few = {"TOOL_SERVER_COMMAND_MEMORY_BYTES": str(96 * MIB), "TOOL_SERVER_SEPARATION": wish}
        (tmp_path / wish).mkdir()
        with running(tmp_path / wish, **few) as daemon:
            async with http_of(daemon) as http:
                (limit,) = (await http.ok("separation"))["limits"]
                if not limit["means"].startswith("cgroup"):
                    pytest.skip(limit["why"])
                left = await http.ok("command", command=f"echo $$ > {own}/tasks")
                told[left["exitCode"]] = "as long as it writes no control groups" in limit["why"]
    assert told in ({0: True, 1: False}, {0: True})  # the second where there is no Landlock


# Version 2 ------------------------------------------------------------------------------------------


@pytest.fixture
def second() -> Iterator[Path]:
    """A group of version 2 to begin in, with a controller to be given."""
    own = group_files.own_groups(*Cgroups.told()).get("")
    if own is None:
        pytest.skip("there are no control groups of version 2 here")
    if not (own / "cgroup.subtree_control").read_text().split():
        pytest.skip("this group of version 2 gives no controllers on")
    group = own / f"tests-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups of version 2 may not be written here: {error}")
    yield group
    group.rmdir()


DIVIDE = """
    import os, sys
    from pathlib import Path
    from toolserver.system.cgroups import Cgroups
    from toolserver.system.delegation import Delegation, NotDelegated

    own = Path(sys.argv[1])
    (own / "cgroup.procs").write_text(str(os.getpid()))
    controller = (own / "cgroup.controllers").read_text().split()[0]
    cgroups = Cgroups()
    cgroups.open()
    try:
        made = Delegation.of(cgroups.base, [controller, "nothing"])
    except NotDelegated as error:
        print(error)
    else:
        print(made.controllers == [controller])
        print((cgroups.base / "cgroup.subtree_control").read_text().split() == [controller])
        print(Path("/proc/self/cgroup").read_text().rstrip().endswith("/daemon"))
        made.close()
    cgroups.close()
    print([each.name for each in own.iterdir() if each.is_dir()], (own / "cgroup.procs").read_text().split())
    sys.stdout.flush()
    (own.parent / "cgroup.procs").write_text(str(os.getpid()))
"""


def divided(own: Path) -> list[str]:
    script = [sys.executable, "-c", textwrap.dedent(DIVIDE), str(own)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_group_that_was_given_is_divided_and_put_back_as_it_was(second: Path) -> None:
    *told, end = divided(second)
    assert told == ["True"] * 3
    assert end.startswith("[] ['")


def test_a_group_with_others_in_it_is_not_divided(second: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        (second / "cgroup.procs").write_text(str(other.pid))
        refusal, _ = divided(second)
        assert refusal.startswith(f"process {other.pid} is in the control group {second} as well: start the")
        other.kill()


@pytest.mark.skipif(not births_into_groups(), reason="this C library starts nothing in a control group")
def test_a_program_is_born_in_the_group_that_is_named(second: Path) -> None:
    descriptor = os.open(second, os.O_RDONLY)
    reading, writing = os.pipe()
    pid = spawn(["cat", "/proc/self/cgroup"], "/", ENV, DEVNULL, writing, DEVNULL, group=descriptor)
    os.close(writing)
    os.waitpid(pid, 0)
    os.close(descriptor)
    with os.fdopen(reading) as told:
        assert f"/{second.name}\n" in told.read()


def test_a_group_that_two_threads_let_go_of_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed twice, the second could be another's that has the number by then."""
    group, closed, close = Group(2, {}), list[int](), os.close

    def closing(fd: int) -> None:
        closed.append(fd)
        if len(closed) == 1:
            group.let_go()  # as the other thread does at this very moment
        close(fd)

    group.descriptor = os.open("/", os.O_RDONLY)
    opened = group.descriptor
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", closing)
        group.let_go()
    assert closed == [opened]


def test_a_group_that_goes_while_it_is_read_has_met_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    name = group_files.event_file(2, "memory")
    assert name is not None
    (tmp_path / name).write_text("oom_kill 1\n")
    group = Group(2, {"memory": tmp_path})
    assert any(group.counts().values())
    monkeypatch.setattr(os, "pread", gone)
    assert not any(group.counts().values())
