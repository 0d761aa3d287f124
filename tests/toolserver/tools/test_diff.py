"""Diffs: always right, and quick whatever was changed."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolserver.tools.diff import same_lines, unified_diff
from toolserver.tools.text import lines_of

HEAD = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@\n")


def patched(old: str, diff: str) -> str:
    """``old`` after ``diff``, by a patch program of a few lines that trusts nothing."""
    lines, text = lines_of(old), lines_of(diff)[2:]
    result: list[str] = []
    at = number = 0
    while number < len(text):
        found = HEAD.fullmatch(text[number])
        assert found is not None, text[number]
        start, count, new_start, new_count = (1 if part is None else int(part) for part in found.groups())
        first = start - 1 if count else start
        result += lines[at:first]
        assert len(result) == (new_start - 1 if new_count else new_start)
        at, made, number = first, len(result), number + 1
        while number < len(text) and not text[number].startswith("@@"):
            line, number = text[number], number + 1
            if number < len(text) and text[number].startswith("\\"):
                line, number = line[:-1], number + 1
            if line[0] in " -":
                assert lines[at] == line[1:]
                at += 1
            if line[0] in " +":
                result.append(line[1:])
        assert (at - first, len(result) - made) == (count, new_count)
    return "".join(result + lines[at:])


texts = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "}\n", "\n", "a\r\n"]), max_size=25).map("".join)
ends = st.sampled_from(["", "last", "last\n"])


@given(texts, ends, texts, ends)
def test_a_diff_leads_from_the_old_text_to_the_new_one(old: str, end: str, new: str, new_end: str) -> None:
    diff = unified_diff("f", old + end, new + new_end)
    assert patched(old + end, diff) == new + new_end
    assert (diff == "") == (old + end == new + new_end)


@given(st.lists(st.integers(0, 200), max_size=120), st.lists(st.integers(0, 200), max_size=120))
def test_what_is_the_same_is_the_same_and_in_order(old: list[int], new: list[int]) -> None:
    before, after = [f"{n}\n" for n in old], [f"{n}\n" for n in new]
    runs = same_lines(before, after)
    for run in runs:
        assert before[run.old : run.old + run.size] == after[run.new : run.new + run.size]
    for left, right in itertools.pairwise(runs):
        assert left.old + left.size <= right.old
        assert left.new + left.size <= right.new
        assert (left.old + left.size, left.new + left.size) != (right.old, right.new)


@given(texts, st.integers(0, 25), texts)
def test_one_insertion_is_all_that_is_shown(text: str, at: int, added: str) -> None:
    lines = lines_of(text)
    new = "".join([*lines[:at], "added once\n", *lines[at:]])
    changed = [line for line in lines_of(unified_diff("f", text, new))[2:] if line[0] in "+-"]
    assert changed == ["+added once\n"]


def test_a_diff_has_the_names_and_three_lines_of_context() -> None:
    old = "".join(f"{n}\n" for n in range(1, 10))
    assert unified_diff("src/a", old, old.replace("5", "five")) == (
        "--- a/src/a\n+++ b/src/a\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
    )


def test_nothing_changed_is_no_diff() -> None:
    assert unified_diff("a", "x\n", "x\n") == ""


DIFFED = [
    ("x\n", "y\n"),
    ("x", "x\n"),
    ("x\n", "x"),
    ("a\r\nb\r\n", "a\r\nc\r\n"),
    ("", "a\n"),
    ("a\n", ""),
    ("a\x0cb\n", "c\n"),
]


@pytest.mark.parametrize(("old", "new"), DIFFED)
def test_a_diff_is_what_patch_takes(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(old.encode())
    subprocess.run(
        ["git", "apply", "--unsafe-paths", "-p1", "-"],
        input=unified_diff("f", old, new).encode(),
        cwd=tmp_path,
        check=True,
        env={"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert (tmp_path / "f").read_bytes() == new.encode()


HARD = {
    "every second line": lambda n: (
        f"line {n} {'foo' if n % 2 else 'bar'}\n",
        f"line {n} {'qux' if n % 2 else 'bar'}\n",
    ),
    "every line": lambda n: (f"line {n}\n", f"line {n};\n"),
    "all alike": lambda n: ("x = 1;\n", "x = 22;\n"),
    "few different ones": lambda n: (f"{n % 50} foo\n", f"{n % 50} {'qux' if n % 3 else 'foo'}\n"),
    "a line more every third": lambda n: (f"{n}\n", f"{n}\n" + ("more\n" if n % 3 == 0 else "")),
    "alike, and a line more every third": lambda n: ("x\n", "x\n" + ("more\n" if n % 3 == 0 else "")),
}


@pytest.mark.parametrize("make", HARD.values(), ids=HARD.keys())
def test_a_large_change_does_not_take_the_square_of_its_lines(make: Callable[[int], tuple[str, str]]) -> None:
    """With difflib alone the first one takes twenty minutes, and a test has two."""
    pairs = [make(n) for n in range(60_000)]
    old, new = "".join(a for a, _ in pairs), "".join(b for _, b in pairs)
    assert patched(old, unified_diff("f", old, new)) == new


def test_a_block_that_moved_is_shown_as_moved() -> None:
    block = "".join(f"block {n}\n" for n in range(50))
    rest = "".join(f"rest {n}\n" for n in range(500))
    diff = unified_diff("f", block + rest, rest + block)
    assert len([line for line in lines_of(diff)[2:] if line[0] in "+-"]) == 100
