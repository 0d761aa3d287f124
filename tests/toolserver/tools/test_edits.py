"""edit through the door: all or nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.builder import Http, Json, running, tree_of


def change(path: str, old: str, new: str, **more: object) -> Json:
    return {"path": path, "oldText": old, "newText": new, **more}


async def test_an_edit_answers_with_diff_counts_and_hash(http: Http, root: Path) -> None:
    (root / "a").write_text("one\ntwo\n")
    answer = await http.ok("edit", **change("a", "two", "2"))
    assert (root / "a").read_text() == "one\n2\n"
    assert answer["diff"] == "--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    assert (answer["replacements"], answer["hash"]) == (1, (await http.ok("read", path="a"))["hash"])
    assert answer["files"][0]["path"] == "a"


async def test_no_match_names_the_line_that_is_near_and_changes_nothing(http: Http, root: Path) -> None:
    (root / "a").write_text("if x:\n\treturn 1\n")
    refused = await http.refused("edit", **change("a", "    return 1", "return 2"))
    assert (refused.status, refused.code) == (422, "no_match")
    assert refused.message == (
        "old text does not occur in 'a'; on line 2 it differs only in spaces or line ends, "
        "copy it exactly from there"
    )
    assert (root / "a").read_text() == "if x:\n\treturn 1\n"


async def test_two_matches_name_their_lines_and_change_nothing(http: Http, root: Path) -> None:
    (root / "a").write_text("x\ny\nx\n")
    refused = await http.refused("edit", **change("a", "x", "z"))
    assert (refused.status, refused.code) == (422, "ambiguous_match")
    assert refused.message == "old text is in 'a' 2 times, on lines 1, 3; add context or set replaceAll"
    assert refused.details == {"path": "a", "lines": [1, 3], "count": 2}
    assert (root / "a").read_text() == "x\ny\nx\n"


async def test_all_matches_are_replaced_when_asked(http: Http, root: Path) -> None:
    (root / "a").write_text("x\ny\nx\n")
    assert (await http.ok("edit", **change("a", "x", "z"), replaceAll=True))["replacements"] == 2
    assert (root / "a").read_text() == "z\ny\nz\n"


async def test_a_batch_whose_second_edit_fails_leaves_the_first_untouched(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    (root / "b").write_text("two")
    before = {name: (root / name).stat().st_mtime_ns for name in "ab"}
    refused = await http.refused("edit", edits=[change("a", "one", "1"), change("b", "three", "3")])
    assert (refused.code, refused.details["path"]) == ("no_match", "b")
    assert tree_of(root) == {"a": b"one", "b": b"two"}
    assert {name: (root / name).stat().st_mtime_ns for name in "ab"} == before


async def test_a_batch_goes_over_several_files_in_order(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    (root / "b").write_text("x")
    answer = await http.ok(
        "edit", edits=[change("a", "one", "two"), change("b", "x", "y"), change("a", "two", "three")]
    )
    assert tree_of(root) == {"a": b"three", "b": b"y"}
    assert [(each["path"], each["replacements"]) for each in answer["files"]] == [("a", 2), ("b", 1)]
    assert (answer["replacements"], answer["hash"]) == (3, None)


async def test_two_names_of_one_file_are_one_file(http: Http, root: Path) -> None:
    (root / "dir").mkdir()
    (root / "dir" / "a").write_text("one two")
    (root / "link").symlink_to("dir/a")
    (root / "dirlink").symlink_to(root / "dir")
    await http.ok(
        "edit",
        edits=[
            change("dir/a", "one", "1"),
            change("link", "two", "2"),
            change("/app/dirlink/a", "1 2", "done"),
        ],
    )
    assert (root / "dir" / "a").read_text() == "done"
    assert (root / "link").is_symlink()


async def test_edits_at_once_through_two_names_lose_nothing(http: Http, root: Path) -> None:
    (root / "a").write_text("".join(f"<{n}>" for n in range(20)))
    (root / "link").symlink_to("a")
    await asyncio.gather(
        *(http.ok("edit", **change("link" if n % 2 else "a", f"<{n}>", f"[{n}]")) for n in range(20))
    )
    assert (root / "a").read_text() == "".join(f"[{n}]" for n in range(20))


async def test_a_dry_run_changes_nothing(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    answer = await http.ok("edit", **change("a", "one", "two"), dryRun=True)
    assert answer["diff"].endswith("+two\n\\ No newline at end of file\n")
    assert (root / "a").read_text() == "one"


async def test_an_expected_hash_is_that_before_the_first_edit(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    hash = (await http.ok("read", path="a"))["hash"]
    edits = [change("a", "one", "two", expectedHash=hash), change("a", "two", "three", expectedHash=hash)]
    await http.ok("edit", edits=edits)
    refused = await http.refused("edit", **change("a", "three", "four"), expectedHash=hash)
    assert (refused.status, refused.code) == (409, "conflict")
    assert (root / "a").read_text() == "three"


REFUSED = [
    ("missing", "not_found", "there is nothing at 'missing'; 'list' shows what there is"),
    ("dir", "not_a_file", "'dir' is a directory; name a file in it, or use 'list'"),
    ("bin", "not_a_file", "'bin' is not text; replace it whole with 'write'"),
    ("../x", "outside_workspace", "'../x' is outside the workspace; use a path below its root"),
    ("out", "outside_workspace", "'out' leads outside the workspace over a link"),
    ("fifo", "not_a_file", "'fifo' is neither a file nor a directory, so it has no content to read"),
]


@pytest.mark.parametrize(("path", "code", "message"), REFUSED)
async def test_what_is_no_text_file_is_refused(
    http: Http, root: Path, path: str, code: str, message: str
) -> None:
    (root / "good").write_text("x")
    (root / "dir").mkdir()
    (root / "bin").write_bytes(b"a\0b")
    (root / "out").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo")
    refused = await http.refused("edit", edits=[change("good", "x", "y"), change(path, "a", "b")])
    assert (refused.code, refused.message) == (code, message)
    assert (root / "good").read_text() == "x"


async def test_line_ends_and_marks_are_kept(http: Http, root: Path) -> None:
    (root / "a").write_bytes("\ufeffone\r\ntwo\r\n".encode())
    await http.ok("edit", **change("a", "two", "2"))
    assert (root / "a").read_bytes() == "\ufeffone\r\n2\r\n".encode()


async def test_an_edit_may_not_make_a_file_too_large(http: Http, root: Path) -> None:
    (root / "a").write_text("x" * 2000)
    refused = await http.refused("edit", **change("a", "x", "y" * 10_000), replaceAll=True)
    assert (refused.code, refused.details["limit"]) == ("too_large", "maxWriteBytes")
    assert (root / "a").read_text() == "x" * 2000


async def test_a_large_edit_delays_nobody(http: Http, root: Path) -> None:
    """Its diff is of the kind that takes long: many lines that all changed and are all alike."""
    (root / "a").write_text("x = 1;\n" * 60_000 + "last\n")
    big = asyncio.create_task(http.ok("edit", **change("a", "x = 1;", "x = 22;"), replaceAll=True))
    answered = 0
    while not big.done():
        await http.ok("stat", path=".")
        answered += 1
    assert (await big)["replacements"] == 60_000
    assert answered > 3


async def test_a_patch_of_several_files_that_fails_half_way_changes_nothing(http: Http, root: Path) -> None:
    """Peers leave the first files patched and say so."""
    (root / "a").write_text("one\n")
    (root / "b").write_text("two\n")
    added = "*** Add File: c\n+3\n"
    patch = f"*** Begin Patch\n*** Update File: a\n-one\n+1\n{added}*** Update File: b\n-2\n+x\n*** End Patch"
    refused = await http.refused("edit", patch=patch)
    assert (refused.code, refused.details["patchLine"]) == ("no_match", 8)
    assert tree_of(root) == {"a": b"one\n", "b": b"two\n"}


async def test_a_disk_that_refuses_the_last_file_gets_the_first_ones_back(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    (root / "dir").mkdir()
    (root / "dir" / "b").write_text("two")
    immutable = await asyncio.to_thread(_mount_read_only, root / "dir")
    if not immutable:
        pytest.skip("no directory can be made read-only for root here")
    try:
        refused = await http.refused("edit", edits=[change("a", "one", "1"), change("dir/b", "two", "2")])
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(root / "dir")], check=True)
    assert refused.code in ("forbidden", "conflict")
    assert tree_of(root) == {"a": b"one", "dir": None, "dir/b": b"two"}


def _mount_read_only(directory: Path) -> bool:
    for options in (["--bind"], ["-o", "remount,ro,bind"]):
        command = ["mount", *options, str(directory), str(directory)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return False
    return True


PATCH = """*** Begin Patch
*** Update File: src/a.py
*** Move to: src/b.py
@@ def f():
-    return 1
+    return 2
*** Add File: new/c
+made
*** Delete File: old
*** End Patch"""


async def test_a_patch_changes_moves_makes_and_deletes_in_one_request(http: Http, root: Path) -> None:
    (root / "src").mkdir()
    (root / "src/a.py").write_text("def f():\n    return 1\n")
    (root / "src/a.py").chmod(0o755)
    (root / "old").write_text("goes\n")
    answer = await http.ok("edit", patch=PATCH)
    assert tree_of(root) == {
        "new": None,
        "new/c": b"made\n",
        "src": None,
        "src/b.py": b"def f():\n    return 2\n",
    }
    assert (root / "src/b.py").stat().st_mode & 0o777 == 0o755
    told = {each["path"]: (each["action"], each["movedFrom"]) for each in answer["files"]}
    assert told == {"src/b.py": ("moved", "src/a.py"), "new/c": ("created", None), "old": ("deleted", None)}
    assert [(each["rung"], each["lines"]) for each in answer["edits"]] == [("exact", [2]), ("exact", [1])]
    assert [each["hash"] is None for each in answer["files"]] == [False, False, True]


async def test_a_unified_diff_is_taken_and_is_what_an_answer_tells(http: Http, root: Path) -> None:
    (root / "a").write_text("1\n2\n")
    planned = await http.ok(
        "edit",
        edits=[
            change("a", "2", "two"),
            {"op": "create", "path": "b", "content": "new\n"},
            {"op": "move", "path": "a", "to": "d/c"},
        ],
        dryRun=True,
    )
    assert tree_of(root) == {"a": b"1\n2\n"}
    await http.ok("edit", patch=planned["diff"])
    assert tree_of(root) == {"b": b"new\n", "d": None, "d/c": b"1\ntwo\n"}


async def test_of_two_agents_the_second_is_refused_with_the_fresh_content(http: Http, root: Path) -> None:
    """Peers let the second overwrite what the first wrote."""
    (root / "a").write_text("one\ntwo\n")
    hash = (await http.ok("read", path="a"))["hash"]
    first = await http.ok("edit", **change("a", "one", "1"), expectedHash=hash)
    refused = await http.refused("edit", **change("a", "two", "2"), expectedHash=hash)
    assert (refused.status, refused.code) == (409, "conflict")
    assert refused.details["hash"] == first["hash"]
    assert refused.details["content"] == "1\ntwo\n"
    assert refused.details["diff"].endswith(" 1\n-two\n+2\n")
    await http.ok("edit", **change("a", "two", "2"), expectedHash=refused.details["hash"])
    assert (root / "a").read_text() == "1\n2\n"


async def test_a_conflict_in_one_file_changes_no_other(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    (root / "b").write_text("two")
    edits = [change("a", "one", "1"), change("b", "two", "2", expectedHash="sha256:stale")]
    assert (await http.refused("edit", edits=edits)).code == "conflict"
    assert tree_of(root) == {"a": b"one", "b": b"two"}


async def test_a_file_expected_not_to_be_there_is_a_conflict_when_it_is(http: Http, root: Path) -> None:
    create = {"op": "create", "path": "a", "content": "x", "overwrite": True}
    await http.ok("edit", **create, expectedHash="")
    assert (await http.refused("edit", **create, expectedHash="")).code == "conflict"


@pytest.mark.parametrize(
    "edit",
    [
        {"op": "create", "path": "../out", "content": "x"},
        {"op": "move", "path": "a", "to": "out/x"},
        {"op": "delete", "path": "out/x"},
        {"patch": "*** Begin Patch\n*** Add File: out/y\n+1\n*** End Patch"},
        {"patch": "--- /dev/null\n+++ b/../../y\n@@ -0,0 +1 @@\n+1\n"},
        {"patch": "--- a/out/x\n+++ b/out/x\n@@ -1 +1 @@\n-theirs\n+ours\n"},
    ],
)
async def test_no_kind_of_edit_leaves_the_workspace(
    http: Http, root: Path, tmp_path: Path, edit: dict[str, str]
) -> None:
    (tmp_path / "x").write_text("theirs\n")
    (root / "a").write_text("one")
    (root / "out").symlink_to(tmp_path)
    assert (await http.refused("edit", **edit)).code == "outside_workspace"
    assert tree_of(tmp_path) == {"x": b"theirs\n"}
    assert (root / "a").read_text() == "one"


async def test_a_link_itself_is_neither_moved_nor_deleted_by_an_edit(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    (root / "link").symlink_to("a")
    refused = await http.refused("edit", op="delete", path="link")
    assert refused.message == "'link' is a link; use 'move' or 'remove' for the link itself"


async def test_mode_is_kept(http: Http, root: Path) -> None:
    (root / "a").write_text("one")
    (root / "a").chmod(0o751)
    await http.ok("edit", **change("a", "one", "two"))
    assert (root / "a").stat().st_mode & 0o777 == 0o751


def test_a_daemon_that_starts_after_a_kill_takes_back_what_was_half_done(tmp_path: Path) -> None:
    kept = ".workspace-core.0123456789abcdef~"
    half = {"a": "new", kept: "old", "b": "not yet"}
    (tmp_path / "root").mkdir()
    for name, text in half.items():
        (tmp_path / "root" / name).write_text(text)
    journal = [1, [[1, b"a", b".workspace-core.0000000000000000~", kept.encode()]], []]
    (tmp_path / "state" / "edits").mkdir(parents=True)
    (tmp_path / "state" / "edits" / "0").write_bytes(msgspec.msgpack.encode(journal))
    with running(tmp_path) as daemon:
        assert tree_of(daemon.root) == {"a": b"old", "b": b"not yet"}


@pytest.mark.parametrize(
    "edit",
    [
        {"file_path": "a", "old_string": "one", "new_string": "1"},
        {"command": "str_replace", "path": "a", "old_str": "one", "new_str": "1"},
        {"edits": [{"path": "a", "search": "one", "replace": "1", "replace_all": True}]},
        {"path": "a", "old_str": "one", "new_str": "1", "expected_replacements": 1},
    ],
)
async def test_the_names_that_agents_know_are_taken(http: Http, root: Path, edit: Json) -> None:
    (root / "a").write_text("one\n")
    await http.ok("edit", **edit)
    assert (root / "a").read_text() == "1\n"


async def test_a_field_under_two_names_is_refused(http: Http, root: Path) -> None:
    refused = await http.refused("edit", path="a", old_str="one", oldText="two", newText="")
    assert (refused.code, refused.details["field"]) == ("invalid_request", "old_str")
