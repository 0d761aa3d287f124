"""Commands give way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolserver.system.priority import lower, lower_missed


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.fixture
def leader() -> Iterator[int]:
    """A program that leads a session of its own, and has started another by now."""
    line = ["sh", "-c", "sleep 1000 & echo; wait"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_a_session_gives_way_with_all_that_is_in_its_group(leader: int) -> None:
    before = own()
    lower(leader, 3)
    assert os.getpriority(os.PRIO_PGRP, leader) == min(before + 3, 19)
    assert own() == before


def test_by_nothing_nothing_is_changed(leader: int) -> None:
    assert lower(leader, 0)
    assert os.getpriority(os.PRIO_PROCESS, leader) == os.getpriority(os.PRIO_PROCESS, 0)


def test_where_processors_are_shared_by_session_the_session_gives_way(leader: int) -> None:
    group = Path(f"/proc/{leader}/autogroup")
    if not group.exists() or not group.read_text().strip():
        pytest.skip("no such groups here")
    if lower(leader, 3):
        assert group.read_text().split()[-1] == "3"


def test_who_was_missed_in_the_group_gives_way_at_the_second_look(leader: int) -> None:
    os.setpriority(os.PRIO_PROCESS, leader, min(own() + 3, 19))  # and not the one that it has started
    assert os.getpriority(os.PRIO_PGRP, leader) == own()
    lower_missed(leader, 3)
    assert os.getpriority(os.PRIO_PGRP, leader) == min(own() + 3, 19)


def test_where_nobody_was_missed_who_gives_way_by_more_keeps_it(leader: int) -> None:
    lower(leader, 3)
    os.setpriority(os.PRIO_PROCESS, leader, 19)
    lower_missed(leader, 3)
    assert os.getpriority(os.PRIO_PROCESS, leader) == 19


def test_one_that_is_gone_is_no_error() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitpid(pid, 0)
    assert lower(pid, 3)
    lower_missed(pid, 3)
