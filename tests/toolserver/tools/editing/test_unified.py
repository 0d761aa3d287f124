"""Unified diffs: beside GNU patch in both directions, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ToolError
from protocol.messages.edits import AppliedEdit, Edit, Rung
from protocol.paths import WorkspacePath
from toolserver.tools.diff import created_diff, deleted_diff, moved_diff, unified_diff
from toolserver.tools.editing.changes import acts_of, plan
from toolserver.tools.editing.steps import steps

Tree = dict[str, str]


def patched(tree: Tree, patch: str) -> tuple[Tree, list[AppliedEdit]]:
    acts = acts_of(steps(Edit(patch=patch)))
    names = {raw: WorkspacePath(raw) for act in acts for raw in act.paths}
    before = {WorkspacePath(path): text.encode() for path, text in tree.items()}
    planned = plan(acts, names, before)
    return {path: file.content.decode() for path, file in planned.after.items()}, planned.applied


def gnu(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here to compare with")
    return found


texts = st.lists(
    st.sampled_from(["a\n", "b\n", "c\n", "}\n", "\n", "a\r\n", "- x\n", "-- y\n"]), max_size=25
).map("".join)
ends = st.sampled_from(["", "last", "last\n"])


@settings(max_examples=60, deadline=None)
@given(texts, ends, texts, ends, st.sampled_from([0, 1, 3]))
def test_what_gnu_diff_writes_leads_to_what_gnu_patch_makes(
    tmp_path_factory: pytest.TempPathFactory, old: str, end: str, new: str, new_end: str, context: int
) -> None:
    place, old, new = tmp_path_factory.mktemp("gnu"), old + end, new + new_end
    (place / "a").write_bytes(old.encode())
    (place / "b").write_bytes(new.encode())
    command = [gnu("diff"), f"-U{context}", "--label", "a/f", "--label", "b/f", "a", "b"]
    diff = subprocess.run(command, cwd=place, check=False, capture_output=True).stdout.decode()
    if diff:
        assert patched({"f": old}, diff)[0] == {"f": new}
    shutil.rmtree(place)


@settings(max_examples=60, deadline=None)
@given(texts, ends, texts, ends)
def test_gnu_patch_takes_what_an_answer_tells(
    tmp_path_factory: pytest.TempPathFactory, old: str, end: str, new: str, new_end: str
) -> None:
    place, old, new = tmp_path_factory.mktemp("gnu"), old + end, new + new_end
    (place / "f").write_bytes(old.encode())
    if diff := unified_diff("f", old, new):
        command = [gnu("patch"), "-p1", "--binary", "--silent", "--no-backup-if-mismatch"]
        subprocess.run(command, cwd=place, input=diff.encode(), check=True, env={"POSIXLY_CORRECT": "1"})
        # Without it, patch takes a file that became empty away.
        assert (place / "f").read_bytes().decode() == new
        assert patched({"f": old}, diff)[0] == {"f": new}
    shutil.rmtree(place)


NAMES = ["x", "dir/x", "with space", 'quo"te', "back\\slash", "tab\there", "new\nline", "ünï", "--- x"]


@pytest.mark.parametrize("name", NAMES)
def test_files_come_and_go_and_move_under_any_name(name: str, tmp_path: Path) -> None:
    assert patched({}, created_diff(name, "1\n"))[0] == {name: "1\n"}
    assert patched({name: "1\n"}, deleted_diff(name, "1\n"))[0] == {}
    assert patched({name: "1\n"}, unified_diff(name, "1\n", "2\n"))[0] == {name: "2\n"}
    assert patched({name: "1\n"}, moved_diff(name, "to", "1\n", "2\n"))[0] == {"to": "2\n"}
    assert patched({"from": "1\n"}, moved_diff("from", name, "1\n", "1\n"))[0] == {name: "1\n"}
    if "\n" not in name:
        command = [gnu("patch"), "-p1", "--silent"]
        subprocess.run(command, cwd=tmp_path, input=created_diff(name, "1\n").encode(), check=True)
        assert (tmp_path / name).read_text() == "1\n"


def test_empty_files_come_and_go() -> None:
    assert patched({}, created_diff("x", ""))[0] == {"x": ""}
    assert patched({"x": ""}, deleted_diff("x", ""))[0] == {}


OLD = "".join(f"{n}\n" for n in range(1, 21))
HUNK = "@@ -9,3 +9,3 @@\n 9\n-10\n+ten\n 11\n"
HEAD = "--- a/f\n+++ b/f\n"


def test_a_hunk_that_has_shifted_is_found_and_its_offset_told() -> None:
    after, (applied,) = patched({"f": "0\n0\n" + OLD}, HEAD + HUNK)
    assert after == {"f": "0\n0\n" + OLD.replace("10\n", "ten\n")}
    assert (applied.offset, applied.fuzz, applied.rung, applied.lines) == (2, 0, Rung.EXACT, [11])


def test_context_that_is_wrong_at_its_edge_is_told_as_fuzz() -> None:
    after, (applied,) = patched({"f": OLD.replace("9\n", "nine\n", 1)}, HEAD + HUNK)
    assert after["f"].count("ten") == 1
    assert (applied.offset, applied.fuzz) == (0, 1)


def test_a_hunk_with_a_number_is_put_there_although_its_text_is_elsewhere_too() -> None:
    text = "x\ny\n" * 5
    after, _ = patched({"f": text}, HEAD + "@@ -5,2 +5,2 @@\n x\n-y\n+z\n")
    assert after == {"f": "x\ny\nx\ny\nx\nz\nx\ny\nx\ny\n"}


def test_a_hunk_that_is_not_where_it_says_must_be_in_one_place_only() -> None:
    with pytest.raises(ToolError, match="is in 'f' 5 times, on lines 1, 3, 5, 7, 9") as caught:
        patched({"f": "x\ny\n" * 5}, HEAD + "@@ -40,2 +40,2 @@\n x\n-y\n+z\n")
    assert caught.value.code == "ambiguous_match"


def test_a_head_without_numbers_is_taken() -> None:
    assert patched({"f": "1\n2\n"}, HEAD + "@@ @@\n-2\n+two\n")[0] == {"f": "1\ntwo\n"}


def test_a_diff_whose_line_ends_were_changed_on_the_way_fits_either_file() -> None:
    diff = (HEAD + "@@ -1,2 +1,2 @@\n 1\n-2\n+two\n").replace("\n", "\r\n")
    for ending in ("\n", "\r\n"):
        assert patched({"f": f"1{ending}2{ending}"}, diff)[0] == {"f": f"1{ending}two{ending}"}


def test_git_s_modes_are_set() -> None:
    acts = acts_of(steps(Edit(patch="diff --git a/f b/f\nold mode 100644\nnew mode 100755\n")))
    planned = plan(acts, {"f": WorkspacePath("f")}, {WorkspacePath("f"): b""})
    assert planned.after[WorkspacePath("f")].mode == 0o755


def test_text_around_the_diffs_means_nothing() -> None:
    mail = "From: me\n\nSubject\n---\n f | 2 +-\n\n" + HEAD + "@@ -1 +1 @@\n-1\n+2\n-- \n2.39\n\n"
    assert patched({"f": "1\n"}, mail)[0] == {"f": "2\n"}


BAD = [
    ("no diff at all", "hello\n", "invalid_request", "neither a unified diff nor"),
    ("a hunk alone", HUNK, "invalid_request", "a hunk without '--- a/PATH'"),
    ("cut short", HEAD + HUNK.removesuffix(" 11\n"), "invalid_request", "tells of 3 old and 3 new lines"),
    ("too many lines", HEAD + HUNK + " 12\n", "invalid_request", "it has 4 and 4 or more"),
    ("no hunk", HEAD, "invalid_request", "'@@ -1,3 +1,4 @@' was expected"),
    ("nothing changes", HEAD + "@@ -1 +1 @@\n 1\n", "invalid_request", "neither removes nor adds"),
    ("a line without a mark", HEAD + "@@ @@\n-1\nx\n", "invalid_request", "begins with neither"),
    ("binary", "diff --git a/f b/f\nBinary files a/f and b/f differ\n", "invalid_request", "binary changes"),
    ("copies", "diff --git a/f b/g\ncopy from f\ncopy to g\n", "invalid_request", "copies and binary"),
    (
        "a link",
        "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n",
        "invalid_request",
        "links cannot",
    ),
    ("not there", "--- a/g\n+++ b/g\n@@ -1 +1 @@\n-1\n+2\n", "not_found", "there is nothing at 'g'"),
    ("there", "--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+1\n", "already_exists", "'f' is there already"),
    ("other text", HEAD + "@@ -1 +1 @@\n-x\n+y\n", "no_match", "line 3 of the patch does not occur in 'f'"),
    (
        "deletes less",
        "--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n",
        "no_match",
        "more lines than the patch deletes",
    ),
]


@pytest.mark.parametrize(
    ("patch", "code", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_diff_that_cannot_be_applied_is_refused(patch: str, code: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        patched({"f": OLD}, patch)
    assert caught.value.code == code
    assert message in caught.value.message
