"""A cgroup per command: everybody in it ends at once, and nobody else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolserver.system import cgroups as cgroups_module
from toolserver.system.cgroups import Cgroups, own_cgroup, remove_left_behind


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    made = Cgroups()
    made.open()
    if not made.works:
        pytest.skip("cgroup v2 may not be written here")
    yield made
    made.close()
    assert made._base is not None
    assert not made._base.exists()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child
        child.kill()


def test_all_in_it_are_killed_at_once(cgroups: Cgroups, sleeper: subprocess.Popen[bytes]) -> None:
    assert cgroups.place("a/../b", [sleeper.pid])
    assert cgroups.members() == {sleeper.pid: "a/../b"}
    assert cgroups.kill("a/../b", {sleeper.pid})
    assert sleeper.wait() == -9
    cgroups.tidy(())
    assert cgroups.members() == {}
    assert not cgroups.used


def test_nobody_is_killed_with_somebody_who_is_not_known(
    cgroups: Cgroups, sleeper: subprocess.Popen[bytes]
) -> None:
    cgroups.place("a", [sleeper.pid])
    assert not cgroups.kill("a", set())
    assert sleeper.poll() is None


def test_one_with_somebody_in_it_stays(cgroups: Cgroups, sleeper: subprocess.Popen[bytes]) -> None:
    cgroups.place("a", [sleeper.pid])
    cgroups.tidy(())
    assert cgroups.members() == {sleeper.pid: "a"}
    sleeper.kill()
    sleeper.wait()


def test_who_is_gone_cannot_be_placed(cgroups: Cgroups) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert not cgroups.place("a", [child.pid])
    cgroups.tidy(())


def test_what_a_killed_daemon_left_is_removed(cgroups: Cgroups) -> None:
    base = cgroups._base
    assert base is not None
    with subprocess.Popen(["sleep", "1000"]) as child:
        # While it lives: daemons of other tests remove those of the dead, too.
        left = base.parent / f"workspace-core-{child.pid}-0"
        (left / "one").mkdir(parents=True)
        child.kill()
    other = Cgroups()
    other.open()
    other.close()
    assert not left.exists()
    assert base.exists()


def test_what_somebody_else_removes_meanwhile_does_not_keep_the_rest(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    left = [tmp_path / f"workspace-core-{child.pid}-{number}" for number in range(6)]
    for each in left[::2]:
        each.mkdir()
    for each in left[1::2]:
        each.touch()  # to list it fails, as it does of one that has just gone
    remove_left_behind(tmp_path)
    assert sorted(tmp_path.iterdir()) == left[1::2]


def test_where_there_are_none_nothing_is_done() -> None:
    none = Cgroups()
    assert not none.works
    assert not none.place("a", [os.getpid()])
    assert none.members() == {}
    assert not none.kill("a", {os.getpid()})
    none.close()


def test_only_version_2_counts() -> None:
    mounts = "1 2 0:3 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n4 5 0:6 / /cg rw - cgroup2 cgroup2 rw"
    assert own_cgroup(mounts, "8:pids:/x\n0::/y\n") == Path("/cg/y")
    assert own_cgroup(mounts, "8:pids:/x\n") is None


def test_one_that_is_tidied_up_while_it_is_looked_at_has_nobody_to_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Cgroups()
    made._base = tmp_path
    made.adopt("a", tmp_path / "group")
    (tmp_path / "group").mkdir()

    def last_moment(path: str) -> str:
        made.tidy(())
        return "7"

    monkeypatch.setattr(cgroups_module, "_read", last_moment)
    assert not made.kill("a", {7})
    assert not made.used
