"""Names of programs, remembered."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolserver.system import programs
from toolserver.system.programs import Programs


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two directories of a PATH, as if they were on the system's own disk and had been there for long."""
    monkeypatch.setattr(programs, "is_settled", lambda stamp, now_ns: True)
    found = tmp_path / "first", tmp_path / "second"
    for each in found:
        each.mkdir()
    return found


def program(place: Path, name: str) -> str:
    path = place / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def looked_up(known: Programs, name: str, places: tuple[Path, ...], cwd: str = "/") -> str | None:
    return known.look_up(name, joined(places), cwd, time.time_ns())


def joined(places: tuple[Path, ...]) -> str:
    return os.pathsep.join(map(str, places))


def test_a_name_is_known_once_it_was_looked_up(places: tuple[Path, Path]) -> None:
    known, path = Programs(), program(places[1], "tool")
    assert known.known("tool", joined(places)) is None
    assert looked_up(known, "tool", places) == path
    assert known.known("tool", joined(places)) == path
    assert known.known("tool", str(places[1])) is None


def test_one_that_is_added_before_it_is_seen_at_once(places: tuple[Path, Path]) -> None:
    known = Programs()
    program(places[1], "tool")
    looked_up(known, "tool", places)
    before = places[0].stat().st_mtime_ns
    earlier = program(places[0], "tool")
    os.utime(places[0], ns=(before + 1, before + 1))  # whatever the tick of the clock
    assert known.known("tool", joined(places)) is None
    assert looked_up(known, "tool", places) == earlier


def test_one_that_may_no_longer_be_run_is_forgotten(places: tuple[Path, Path]) -> None:
    known, path = Programs(), program(places[0], "tool")
    looked_up(known, "tool", places)
    Path(path).unlink()
    assert known.known("tool", joined(places)) is None


def test_what_depends_on_the_directory_is_never_remembered(places: tuple[Path, Path]) -> None:
    known, path = Programs(), program(places[0], "tool")
    assert known.look_up("tool", "first", str(places[0].parent), time.time_ns()) == path
    assert known.known("tool", "first") is None


def test_a_directory_that_changed_just_now_is_looked_at_again(tmp_path: Path) -> None:
    known, path = Programs(), program(tmp_path, "tool")
    just_now = tmp_path.stat().st_mtime_ns
    assert known.look_up("tool", str(tmp_path), "/", just_now) == path
    assert known.known("tool", str(tmp_path)) is None


def test_no_more_is_remembered_than_the_bound(places: tuple[Path, Path]) -> None:
    known = Programs()
    for number in range(300):
        program(places[0], f"tool{number}")
    for number in range(300):
        looked_up(known, f"tool{number}", places)
    assert known.known("tool0", joined(places)) is None
    assert known.known("tool299", joined(places)) is not None


def test_two_threads_may_make_room_for_a_name_at_the_same_moment(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Raced(dict[tuple[str, str], Any]):
        """The other thread is quicker: what is looked at is gone by then."""

        def __iter__(self) -> Iterator[tuple[str, str]]:
            keys = list(self.keys())
            self.pop(keys[0])
            return iter(keys)

    monkeypatch.setattr(programs, "_MAX_REMEMBERED", 1)
    known, path = Programs(), program(places[1], "tool")
    known._remembered = Raced({("old", "/"): None})
    assert looked_up(known, "tool", places) == path
    assert known.known("tool", joined(places)) == path
