"""The mark on a limit goes wherever processes go."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest

from toolserver.system import marks
from toolserver.system.marks import LimitMarks, number_of


@pytest.fixture
def worn() -> LimitMarks:
    made = LimitMarks()
    if not made.works:
        pytest.skip("this sandbox refuses the limit")
    return made


def test_a_program_has_its_number_whatever_it_does_to_session_and_environment(worn: LimitMarks) -> None:
    number = worn.new()
    with worn.handed_down(number):
        child = subprocess.Popen(["setsid", "env", "-i", "/bin/sh", "-c", "read x"], stdin=subprocess.PIPE)
    assert number_of(child.pid) == number
    assert marks._read(child.pid) == number
    child.communicate()


def test_the_daemon_wears_it_for_that_moment_only(worn: LimitMarks) -> None:
    before = resource.getrlimit(10)
    with worn.handed_down(worn.new()):
        pass
    assert resource.getrlimit(10) == before


def test_numbers_of_two_daemons_never_meet(worn: LimitMarks) -> None:
    other = LimitMarks()
    assert {worn.new() for _ in range(100)}.isdisjoint({other.new() for _ in range(100)})


def test_a_sandbox_that_refuses_the_limit_has_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    made = LimitMarks()
    assert not made.works
    with made.handed_down(made.new()):
        pass


def test_who_is_gone_has_no_number() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert number_of(child.pid) is None
    assert marks._read(child.pid) is None
    assert number_of(os.getpid()) is not None
