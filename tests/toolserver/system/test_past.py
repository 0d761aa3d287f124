"""Plans: carried out on a naive model, they always lead to what was wanted, and touch nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Conflict
from toolserver.system.past import ABSENT, DIRECTORY, State, directories_above, plan, same, untouched

NAMES = st.sampled_from("abc")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.sampled_from([State(0o100644, 1, b"x"), State(0o100755, 1, b"x"), State(0o120777, 1, b"t")])
DIRECTORIES = st.sampled_from([DIRECTORY, State(0o040700)])
TREES = st.dictionaries(PATHS, FILES | DIRECTORIES, max_size=8)


def grown(tree: dict[str, State]) -> dict[str, State]:
    """The tree, with the directories that it needs."""
    whole = dict(tree)
    for path in tree:
        for above in directories_above(path):
            if not whole.get(above, ABSENT).is_directory:
                whole[above] = DIRECTORY
    return whole


def carried_out(now: dict[str, State], wanted: dict[str, State]) -> dict[str, State]:
    """By a naive model of the swap: whatever leaves takes along all that is below it."""
    made = plan(now, wanted)
    tree = dict(now)
    for path, leaves, arrives in made.changes:
        assert leaves == (path in tree)
        tree = {each: state for each, state in tree.items() if each != path and not within(each, path)}
        if arrives:
            tree |= {each: state for each, state in made.arriving.items() if within(each, path)}
    for path, (before, after) in made.modes.items():
        assert tree[path].mode & 0o777 == before
        tree[path] = State(tree[path].mode & ~0o777 | after)
    return tree


def within(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


@given(TREES.map(grown), TREES.map(grown))
def test_a_whole_tree_becomes_the_other(now: dict[str, State], other: dict[str, State]) -> None:
    wanted = other | {path: ABSENT for path in now if path not in other}
    assert carried_out(now, wanted) == other


@given(TREES.map(grown), TREES)
def test_what_is_not_named_stays(now: dict[str, State], some: dict[str, State]) -> None:
    after = carried_out(now, some)
    for path, state in grown(some).items():
        if path in some:
            assert same(after.get(path, ABSENT), state) or any(
                some.get(above, DIRECTORY).exists and not some.get(above, DIRECTORY).is_directory
                for above in directories_above(path)
            )
    for path, state in now.items():
        named = [each for each in grown(some) if within(path, each) or within(each, path)]
        if not named:
            assert after[path] == state


@given(TREES.map(grown))
def test_what_is_as_wanted_needs_nothing(tree: dict[str, State]) -> None:
    assert plan(tree, tree).is_empty


def test_a_directory_stays_with_what_nobody_knows_in_it() -> None:
    now = {"a": DIRECTORY, "a/b": State(0o100644, 1, b"x")}
    made = plan(now, {"a": ABSENT, "a/b": ABSENT}, ["a/node_modules"])
    assert [change.path for change in made.changes] == ["a/b"]
    with pytest.raises(Conflict, match="'a' is a directory now"):
        plan(now, {"a": State(0o100644, 1, b"y"), "a/b": ABSENT}, ["a/node_modules"])


def test_a_file_whose_content_is_not_kept_is_the_same_only_untouched() -> None:
    large = State(0o100644, 9, None, (1, 2, 3))
    assert same(large, large)
    assert untouched(large, State(0o100644, 9, None, (1, 2, -3)))
    assert not same(large, State(0o100644, 9, None, (1, 2, 4)))
