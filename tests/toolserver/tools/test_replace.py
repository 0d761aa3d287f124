"""replace: a pattern in all files at once, over a real door."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builder import Http, tree_of


def plant(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


async def test_every_match_in_every_file_is_replaced_in_one_request(http: Http, root: Path) -> None:
    plant(root, {"a": b"foo foo\nfoo\n", "src/b": b"x\nfoo\n", "c": b"nothing\n", ".hidden": b"foo\n"})
    answer = await http.ok("replace", pattern="fo+", replacement="[$0]")
    assert tree_of(root) == {
        "a": b"[foo] [foo]\n[foo]\n",
        "src": None,
        "src/b": b"x\n[foo]\n",
        ".hidden": b"foo\n",
        "c": b"nothing\n",
    }
    assert [(each["path"], each["replacements"]) for each in answer["files"]] == [("a", 3), ("src/b", 1)]
    assert (answer["replacements"], answer["fileCount"]) == (4, 2)
    assert answer["files"][1]["diff"] == "--- a/src/b\n+++ b/src/b\n@@ -1,2 +1,2 @@\n x\n-foo\n+[foo]\n"


async def test_a_dry_run_tells_all_and_changes_nothing(http: Http, root: Path) -> None:
    plant(root, {"a": b"foo\n"})
    answer = await http.ok("replace", pattern="foo", replacement="bar", dryRun=True)
    assert (answer["replacements"], "+bar" in answer["files"][0]["diff"]) == (1, True)
    assert tree_of(root) == {"a": b"foo\n"}


async def test_a_pattern_in_no_file_is_told_as_no_file(http: Http, root: Path) -> None:
    plant(root, {"a": b"foo\n"})
    answer = await http.ok("replace", pattern="nowhere", replacement="x")
    assert answer == {"files": [], "replacements": 0, "fileCount": 0}


async def test_options_narrow_what_is_replaced(http: Http, root: Path) -> None:
    plant(root, {"a.ts": b"Foo food foo\n", "b.js": b"foo\n", "d/c.ts": b"foo\n"})
    await http.ok("replace", pattern="foo", replacement="x", glob="*.ts", word=True, caseSensitive=False)
    assert tree_of(root) == {
        "a.ts": b"x food x\n",
        "b.js": b"foo\n",
        "d": None,
        "d/c.ts": b"x\n",
    }
    await http.ok("replace", pattern="x", replacement="y", path="d/c.ts")
    await http.ok("replace", pattern="x", replacement="z", path="d")
    assert (root / "d/c.ts").read_bytes() == b"y\n"


async def test_plain_text_is_plain_on_both_sides(http: Http, root: Path) -> None:
    plant(root, {"a": b"f(.*) $1\n"})
    await http.ok("replace", pattern="f(.*)", replacement="$1 ${x} $$", kind="literal")
    assert (root / "a").read_bytes() == b"$1 ${x} $$ $1\n"


async def test_groups_and_line_ends_are_replaced(http: Http, root: Path) -> None:
    plant(root, {"a": b"one\ntwo\nthree\n"})
    await http.ok("replace", pattern=r"(?P<a>\w+)\n(two)\n", replacement="$2\n$a\n", multiline=True)
    assert (root / "a").read_bytes() == b"two\none\nthree\n"


async def test_charsets_and_marks_are_kept(http: Http, root: Path) -> None:
    utf16 = "\ufeffé foo\r\n".encode("utf-16-le")
    latin = "le déjà vu, foo\n".encode("iso-8859-1")
    plant(root, {"u8": "\ufefffoo é foo\r\n".encode(), "u16": utf16, "lat": latin})
    await http.ok("replace", pattern="foo", replacement="ü")
    assert (root / "u8").read_bytes() == "\ufeffü é ü\r\n".encode()
    assert (root / "u16").read_bytes() == "\ufeffé ü\r\n".encode("utf-16-le")
    assert (root / "lat").read_bytes() == "le déjà vu, ü\n".encode("iso-8859-1")


async def test_one_file_that_cannot_take_it_leaves_all_as_they_are(http: Http, root: Path) -> None:
    latin = "le déjà vu, foo\n".encode("iso-8859-1")
    plant(root, {"a": b"foo\n", "lat": latin, "z": b"foo\n"})
    refused = await http.refused("replace", pattern="foo", replacement="€")
    assert (refused.code, refused.details["path"]) == ("invalid_request", "lat")
    assert tree_of(root) == {"a": b"foo\n", "lat": latin, "z": b"foo\n"}


async def test_more_files_than_asked_for_change_nothing(http: Http, root: Path) -> None:
    plant(root, dict.fromkeys("abc", b"foo\n"))
    refused = await http.refused("replace", pattern="foo", replacement="x", maxFiles=2)
    assert (refused.code, refused.details) == ("too_large", {"limit": "maxEditFiles", "value": 2})
    assert tree_of(root) == dict.fromkeys("abc", b"foo\n")


async def test_binary_files_and_links_are_left_alone(http: Http, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"foo\n")
    plant(root, {"bin": b"foo\n" * 20000 + b"\0", "a": b"foo\n"})
    (root / "link").symlink_to("a")
    (root / "out").symlink_to(tmp_path / "outside")
    answer = await http.ok("replace", pattern="foo", replacement="x")
    assert [each["path"] for each in answer["files"]] == ["a"]
    assert (root / "link").is_symlink()
    assert (tmp_path / "outside").read_bytes() == b"foo\n"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pattern": "(", "replacement": ""}, "ripgrep refuses the search"),
        ({"pattern": "", "replacement": ""}, "'pattern' is empty"),
        ({"pattern": "a", "replacement": "", "kind": "glob"}, "'kind' is 'regex' or 'literal' here"),
        ({"pattern": "a", "replacement": "\0"}, "'replacement' holds a NUL character"),
        ({"pattern": "a", "replacement": "", "maxFiles": 0}, "'maxFiles' is 1 or more"),
    ],
)
async def test_what_cannot_be_searched_is_refused(
    http: Http, params: dict[str, object], message: str
) -> None:
    refused = await http.refused("replace", **params)
    assert refused.code == "invalid_request"
    assert re.search(re.escape(message), refused.message)


async def test_a_replacement_is_taken_back_as_one(http: Http, root: Path) -> None:
    plant(root, {"a": b"foo\n", "b": b"foo\n"})
    await http.ok("replace", pattern="foo", replacement="bar")
    await http.ok("undo")
    assert tree_of(root) == {"a": b"foo\n", "b": b"foo\n"}
