"""The index: equal to a fresh walk after whatever happened, and telling what that was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolserver.system.tree_index import Change, Look, TooMany, TreeIndex, What

CREATED, MODIFIED, DELETED, MOVED = What.CREATED, What.MODIFIED, What.DELETED, What.MOVED


@contextmanager
def index_of(root: Path, max_entries: int = 1000) -> Iterator[TreeIndex]:
    fd = os.open(root, os.O_RDONLY)
    try:
        index = TreeIndex(fd, max_entries)
        index.fill()
        yield index
    finally:
        os.close(fd)


def fresh(root: Path) -> dict[str, object]:
    with index_of(root) as index:
        return dict(index.entries)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_text("f")
    (tmp_path / "a").write_text("a")
    (tmp_path / "node_modules/p").mkdir(parents=True)
    (tmp_path / "node_modules/p/i.js").touch()
    (tmp_path / "link").symlink_to("d")
    return tmp_path


def test_it_holds_what_a_walk_finds_but_for_what_tools_fill(tree: Path) -> None:
    (tree / ".workspace-core").mkdir()
    (tree / ".workspace-core.0a~").touch()
    with index_of(tree) as index:
        assert sorted(index.entries) == ["a", "d", "d/e", "d/e/f", "link", "node_modules"]


def looked(tree: Path, act: Callable[[], object], *suspects: str, why: Look = Look.AGAIN) -> list[Change]:
    with index_of(tree) as index:
        act()
        changes = index.refresh(dict.fromkeys(suspects or ("",), why))
        if not suspects:
            assert index.entries == fresh(tree)
        return changes


def test_a_new_directory_is_told_with_all_that_is_in_it(tree: Path) -> None:
    def act() -> None:
        (tree / "n/m").mkdir(parents=True)
        (tree / "n/m/x").touch()

    assert looked(tree, act, "n") == [
        Change(CREATED, "n", True),
        Change(CREATED, "n/m", True),
        Change(CREATED, "n/m/x", False),
    ]


def test_a_directory_that_is_gone_is_told_from_below(tree: Path) -> None:
    assert looked(tree, lambda: shutil.rmtree(tree / "d"), "d") == [
        Change(DELETED, "d/e/f", False),
        Change(DELETED, "d/e", True),
        Change(DELETED, "d", True),
    ]


def test_a_write_is_told_even_when_times_and_size_stay(tree: Path) -> None:
    assert looked(tree, lambda: None, "a", why=Look.WRITTEN) == [Change(MODIFIED, "a", False)]
    assert looked(tree, lambda: None, "a") == []


def test_a_file_that_moved_is_told_once(tree: Path) -> None:
    assert looked(tree, lambda: (tree / "a").rename(tree / "d/b"), "a", "d/b") == [
        Change(MOVED, "d/b", False, "a")
    ]


def test_a_directory_that_moved_takes_its_content_along(tree: Path) -> None:
    assert looked(tree, lambda: (tree / "d").rename(tree / "b"), "d", "b") == [Change(MOVED, "b", True, "d")]


def test_what_changed_within_a_moved_directory_is_told_beside(tree: Path) -> None:
    def act() -> None:
        (tree / "d").rename(tree / "b")
        (tree / "b/e/f").unlink()
        (tree / "b/e/g").write_text("other")

    assert looked(tree, act, "d", "b") == [
        Change(DELETED, "d/e/f", False),
        Change(MOVED, "b", True, "d"),
        Change(CREATED, "b/e/g", False),
    ]


def test_a_file_replaced_by_a_rename_is_modified(tree: Path) -> None:
    def act() -> None:
        (tree / "new").write_text("a")
        (tree / "new").rename(tree / "a")

    assert looked(tree, act, "a") == [Change(MODIFIED, "a", False)]


def test_a_directory_in_place_of_a_file_is_both(tree: Path) -> None:
    def act() -> None:
        (tree / "a").unlink()
        (tree / "a").mkdir()

    assert looked(tree, act, "a") == [Change(DELETED, "a", False), Change(CREATED, "a", True)]


def test_a_file_that_came_and_went_is_not_told(tree: Path) -> None:
    assert looked(tree, lambda: None, "never", "d/never/x") == []


def test_more_than_can_be_kept_is_told(tree: Path) -> None:
    with pytest.raises(TooMany), index_of(tree, max_entries=3):
        pass


NAMES = ["a", "b", "c"]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["write", "mkdir", "remove", "move", "link"]),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    ),
    max_size=12,
)


def act_on(root: Path, act: str, path: list[str], other: list[str]) -> None:
    place, target = root.joinpath(*path), root.joinpath(*other)
    try:
        if act == "write":
            place.write_text("x" * len(other))
        elif act == "mkdir":
            place.mkdir(parents=True)
        elif act == "remove":
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        elif act == "move":
            place.rename(target)
        else:
            place.symlink_to(target)
    except OSError:
        pass


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(ACTS, max_size=4))
def test_whatever_happens_it_equals_a_fresh_walk(
    tmp_path: Path, rounds: list[list[tuple[str, list[str], list[str]]]]
) -> None:
    root = tmp_path / os.urandom(8).hex()
    root.mkdir()
    with index_of(root) as index:
        for acts in rounds:
            known = set(index.entries)
            for act in acts:
                act_on(root, *act)
            changes = index.refresh({"": Look.INTO})
            assert index.entries == fresh(root)
            assert replayed(known, changes) == set(index.entries)


def replayed(known: set[str], changes: list[Change]) -> set[str]:
    """The paths after ``changes``, for whoever only follows what is told."""
    known = set(known)
    for change in changes:
        if change.what is DELETED:
            known.discard(change.path)
        elif change.what is CREATED:
            known.add(change.path)
        elif change.what is MOVED:
            assert change.source is not None
            moving = {p for p in known if p == change.source or p.startswith(change.source + "/")}
            known -= moving
            known |= {change.path + p.removeprefix(change.source) for p in moving}
    return known
