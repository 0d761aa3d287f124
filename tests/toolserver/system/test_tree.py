"""Which processes belong together, read from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolserver.system import tree
from toolserver.system.tree import Proc

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Programs that are ended, by their ids, when the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, mark: str | None = None) -> subprocess.Popen[bytes]:
        env = {"PATH": os.environ["PATH"], **({} if mark is None else {tree.MARKER: mark})}
        started.append(subprocess.Popen(argv, env=env, start_new_session=True))
        return started[-1]

    yield start
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGKILL)
        each.wait()


def test_a_process_is_read_with_parent_and_session(spawn: Spawn) -> None:
    child = spawn("sleep", "1000")
    seen = tree.processes()[child.pid]
    assert (seen.parent, seen.session, seen.alive) == (os.getpid(), child.pid, True)


def test_a_program_may_have_any_name(spawn: Spawn, tmp_path: Path) -> None:
    strange = tmp_path / "x) y (z"
    strange.symlink_to("/bin/sleep")
    child = spawn(str(strange), "1000")
    assert Path(f"/proc/{child.pid}/comm").read_text() == "x) y (z\n"
    assert tree.processes()[child.pid].parent == os.getpid()


def test_an_ended_process_is_not_alive(spawn: Spawn) -> None:
    child = spawn("sleep", "1000")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not tree.processes()[child.pid].alive


def test_a_family_is_found_by_descent_session_and_mark(spawn: Spawn) -> None:
    leader = spawn("sh", "-c", "sleep 1000 & wait", mark="mine")
    marked = spawn("sleep", "1000", mark="mine")
    other = spawn("sleep", "1000", mark="other")
    while len(family := tree.family(leader.pid, "mine", leader_runs=True)) < 3:
        pass
    assert {leader.pid, marked.pid} < family
    assert other.pid not in family


def test_a_pid_that_now_is_anothers_is_not_in_the_family(spawn: Spawn) -> None:
    """The leader has ended long ago, and its number was given to another command."""
    other = spawn("sleep", "1000", mark="other")
    assert tree.family(other.pid, "mine", leader_runs=False) == set()


def test_what_is_not_below_us_is_never_in_a_family() -> None:
    assert tree.family(1, "mine", leader_runs=True) == set()
    assert os.getpid() not in tree.family(os.getpid(), "mine", leader_runs=True)


def test_descent_goes_all_the_way_down() -> None:
    table = {pid: Proc(pid, parent, 0, "S", 0) for pid, parent in [(2, 1), (3, 2), (4, 3), (5, 1), (6, 9)]}
    assert tree.descendants(1, table) == {2, 3, 4, 5}
    assert tree.descendants(6, table) == set()


def test_signals_reach_who_is_there(spawn: Spawn) -> None:
    child, gone = spawn("sleep", "1000"), spawn("true")
    gone.wait()
    assert tree.send([child.pid, gone.pid], signal.SIGTERM) == [child.pid]
    assert child.wait() == -signal.SIGTERM


def test_a_mark_is_read_from_the_environment(spawn: Spawn) -> None:
    marked, unmarked = spawn("sleep", "1000", mark="m-1"), spawn("sleep", "1000")
    assert (tree.marker_of(marked.pid), tree.marker_of(unmarked.pid)) == ("m-1", None)
    assert tree.marker_of(2**22 + 1) is None


def test_our_own_children_are_listed(spawn: Spawn) -> None:
    child = spawn("sleep", "1000")
    assert child.pid in set(tree.children_of_this_process())


def test_a_variable_is_erased_where_others_would_read_it() -> None:
    code = (
        "from toolserver.system.tree import erase_variable\n"
        "erase_variable('A_SECRET')\n"
        "print(open('/proc/self/environ').read().replace(chr(0), ';'))\n"
        "import subprocess; print(subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    env = {"A_SECRET": "hunter2", "A_SECRET_NOT": "kept", "PATH": os.environ["PATH"]}
    told = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert "A_SECRET_NOT=kept" in told
    assert "hunter2" not in told.splitlines()[0]
