"""Processes of this host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes

MARKER, VALUE = "WORKSPACE_TEST_MARKER", f"here-{os.getpid()}"
"""Of this run alone: processes are looked for by it on the whole machine, where other runs may be."""
MARKED = f"{MARKER}={VALUE}"
WAIT_SECONDS = 60
SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


@pytest.fixture
def marked() -> Iterator[subprocess.Popen[bytes]]:
    """A process with ``MARKED`` in its environment, in a session of its own."""
    env = {**os.environ, MARKER: VALUE}
    with subprocess.Popen(SLEEP, env=env, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_is_found_by_its_marker(marked: subprocess.Popen[bytes]) -> None:
    assert processes.members(MARKED) == {marked.pid}
    assert processes.members(MARKED[:-1]) == set()


def test_a_process_is_found_while_it_becomes_another_program(tmp_path: Path) -> None:
    """For an instant the kernel shows no environment then; this one does nothing else."""
    program = tmp_path / "again"
    program.write_text('#!/bin/sh\nexec "$0"\n')
    program.chmod(0o755)
    with subprocess.Popen([program], env={**os.environ, MARKER: VALUE}) as process:
        try:
            missed = [look for look in range(2000) if not processes.has_marker(process.pid, MARKED)]
        finally:
            process.kill()
    assert missed == []


def test_a_process_is_found_by_its_session(marked: subprocess.Popen[bytes]) -> None:
    assert processes.members("NO=1", marked.pid) == {marked.pid}


def test_a_process_is_itself_only_with_its_start_time(marked: subprocess.Popen[bytes]) -> None:
    seen = processes.look_up(marked.pid)
    assert seen is not None
    assert processes.is_running(marked.pid, seen.started)
    assert not processes.is_running(marked.pid, seen.started + 1)


def test_a_zombie_does_not_run(marked: subprocess.Popen[bytes]) -> None:
    seen = processes.look_up(marked.pid)
    marked.kill()
    while (now := processes.look_up(marked.pid)) and now.alive:
        time.sleep(0.01)
    assert now is not None
    assert seen is not None
    assert not processes.is_running(marked.pid, seen.started)
    assert processes.members(MARKED) == set()


async def test_killing_goes_on_until_nobody_is_left(marked: subprocess.Popen[bytes]) -> None:
    killed, left = await processes.kill_all(lambda: processes.members(MARKED), WAIT_SECONDS)
    assert (killed, left) == (1, set())


async def test_who_cannot_be_killed_is_told() -> None:
    killed, left = await processes.kill_all(lambda: {2**22 + 1}, 0.05)
    assert (killed, left) == (0, {2**22 + 1})


def test_we_never_belong_to_what_we_end() -> None:
    assert os.getpid() not in processes.members("NO=1", os.getsid(0))
