"""edit through the door: all or nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.builder import Http, Json, tree_of


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
