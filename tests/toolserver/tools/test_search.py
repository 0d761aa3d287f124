"""search: what ripgrep finds when it is run by hand."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.messages.search import PatternKind, Search, Where
from tests.builder import Daemon, Http, Json, Socket, until
from toolserver.tools.ripgrep import arguments
from toolserver.tools.search import find_ripgrep

RIPGREP = find_ripgrep(os.pathsep.join((os.environ["PATH"], str(Path(sys.executable).parent))))

TREE = {
    "a.txt": "one\nTwo words here\nthree three\n",
    "src/main.ts": "const one = 1;\nfunction two() {\n  return one + one;\n}\n",
    "src/deep/x.ts": "// one-liner\n",
    "src/deep/-dash.txt": "-x --files one\n",
    "hidden/.secret": "one in a hidden file\n",
    ".env": "KEY=one\n",
    "ignored/out.js": "one ignored\n",
    ".gitignore": "ignored/\n*.log\n",
    "run.log": "one logged\n",
    "uml.txt": "käse ünë one\n😀 one\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "long.txt": "x" * 5000 + "one\n",
    "node_modules/pkg/index.js": "one in a package\n",
    ".git/config": "one in git\n",
}


@pytest.fixture
def tree(root: Path) -> Path:
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    (root / "binary").write_bytes(b"one\0two\n")
    (root / "latin.txt").write_bytes(b"caf\xe9 one\n")
    (root / "link.txt").symlink_to("a.txt")
    return root


def by_hand(tree: Path, *options: str) -> list[tuple[str, int, int]]:
    """(path, line, column in bytes) of every match, by ripgrep itself."""
    assert RIPGREP is not None
    told = subprocess.run(
        [
            RIPGREP,
            "--no-config",
            "--no-require-git",
            "--no-heading",
            "--with-filename",
            "--line-number",
            "--column",
            "--null",
            *options,
            "./",
        ],
        cwd=tree,
        capture_output=True,
        check=False,
    )
    found = []
    for line in told.stdout.split(b"\n"):
        if b"\0" in line:
            path, _, rest = line.partition(b"\0")
            number, column, *_ = rest.split(b":")
            found.append((os.fsdecode(path).removeprefix("./"), int(number), int(column)))
    return sorted(found)


def found(answer: Json) -> list[tuple[str, int]]:
    return [(each["path"], each["line"]) for each in answer["matches"]]


SAME: list[tuple[Json, list[str]]] = [
    ({"pattern": "one"}, ["-e", "one"]),
    ({"pattern": r"\bt\w+o?"}, ["-e", r"\bt\w+o?"]),
    ({"pattern": "one + one", "kind": "literal"}, ["-F", "-e", "one + one"]),
    ({"pattern": "two", "caseSensitive": False}, ["-i", "-e", "two"]),
    ({"pattern": "one", "word": True}, ["-w", "-e", "one"]),
    ({"pattern": "one", "glob": "*.ts"}, ["-e", "one", "-g", "*.ts"]),
    ({"pattern": "one", "glob": ["*.ts", "!**/deep/**"]}, ["-e", "one", "-g", "*.ts", "-g", "!**/deep/**"]),
    ({"pattern": "one", "hidden": True}, ["-e", "one", "--hidden", "-g", "!.git/"]),
    ({"pattern": "one", "ignored": True}, ["-e", "one", "--hidden", "--no-ignore", "-g", "!.git/"]),
    ({"pattern": "-x"}, ["-e", "-x"]),
    ({"pattern": "--files", "kind": "literal"}, ["-F", "-e", "--files"]),
    ({"pattern": "^$"}, ["-e", "^$"]),
    ({"pattern": "(?i)TWO"}, ["-e", "(?i)TWO"]),
    ({"pattern": "nothing like this"}, ["-e", "nothing like this"]),
    ({"pattern": "one", "types": ["ts"]}, ["--type=ts", "-e", "one"]),
    ({"pattern": "one", "maxPerFile": 1}, ["--max-count=1", "-e", "one"]),
]


@pytest.mark.parametrize(("params", "options"), SAME, ids=[json.dumps(params) for params, _ in SAME])
async def test_the_matches_are_those_of_ripgrep_by_hand(
    http: Http, tree: Path, params: Json, options: list[str]
) -> None:
    answer = await http.ok("search", **params)
    expected = by_hand(tree, *options)
    assert found(answer) == [(path, line) for path, line, _ in expected]
    assert (answer["matchCount"], answer["truncated"]) == (len(expected), False)
    assert answer["fileCount"] == len({path for path, _, _ in expected})


async def test_a_match_tells_line_column_and_text(http: Http, tree: Path) -> None:
    answer = await http.ok("search", pattern="one", glob="uml.txt")
    assert answer["matches"] == [
        {"path": "uml.txt", "line": 1, "column": 10, "text": "käse ünë one"},
        {"path": "uml.txt", "line": 2, "column": 3, "text": "😀 one"},
    ]


async def test_a_line_end_is_no_part_of_the_text(http: Http, tree: Path) -> None:
    answer = await http.ok("search", pattern="two", glob="crlf.txt")
    assert answer["matches"][0]["text"] == "two"


async def test_a_long_line_is_cut_and_told(http: Http, tree: Path) -> None:
    (match,) = (await http.ok("search", pattern="one", glob="long.txt"))["matches"]
    assert (len(match["text"]), match["textTruncated"], match["column"]) == (2048, True, 5001)


async def test_text_that_is_not_utf8_is_shown_as_far_as_it_can_be(http: Http, tree: Path) -> None:
    (match,) = (await http.ok("search", pattern="one", glob="latin.txt"))["matches"]
    assert (match["text"], match["column"]) == ("caf\ufffd one", 6)


@pytest.mark.parametrize("path", ["src", "./src/", "/app/src", "src/deep/.."])
async def test_a_search_below_a_directory_gives_paths_from_the_root(
    http: Http, tree: Path, path: str
) -> None:
    answer = await http.ok("search", pattern="one", path=path)
    assert found(answer) == [
        ("src/deep/-dash.txt", 1),
        ("src/deep/x.ts", 1),
        ("src/main.ts", 1),
        ("src/main.ts", 3),
    ]


@pytest.mark.parametrize("path", ["src/main.ts", "src/deep/-dash.txt", ".env", "ignored/out.js"])
async def test_a_search_in_one_file_is_in_that_file(http: Http, tree: Path, path: str) -> None:
    answer = await http.ok("search", pattern="one", path=path)
    assert {each["path"] for each in answer["matches"]} == {path}


async def test_a_search_in_a_linked_file_names_the_link(http: Http, tree: Path) -> None:
    assert found(await http.ok("search", pattern="one", path="link.txt")) == [("link.txt", 1)]


NAMED: list[tuple[Json, list[str]]] = [
    ({"pattern": r"\.ts$"}, ["src/deep/x.ts", "src/main.ts"]),
    ({"pattern": "deep", "kind": "literal"}, ["src/deep/-dash.txt", "src/deep/x.ts"]),
    ({"pattern": "MAIN", "caseSensitive": False}, ["src/main.ts"]),
    ({"pattern": "x", "word": True}, ["src/deep/x.ts"]),
    ({"pattern": ".", "path": "src"}, ["src/deep/-dash.txt", "src/deep/x.ts", "src/main.ts"]),
    ({"pattern": "^src/[^/]*$"}, ["src/main.ts"]),
    ({"pattern": "ts", "glob": "!**/deep/**"}, ["src/main.ts"]),
    ({"pattern": "env|secret", "hidden": True}, [".env", "hidden/.secret"]),
    ({"pattern": "env|secret"}, []),
    ({"pattern": "out"}, []),
    ({"pattern": "out", "ignored": True}, ["ignored/out.js"]),
    ({"pattern": "-dash"}, ["src/deep/-dash.txt"]),
    ({"pattern": "src/*.ts", "kind": "glob"}, ["src/main.ts"]),
    ({"pattern": "**/deep/*", "kind": "glob"}, ["src/deep/-dash.txt", "src/deep/x.ts"]),
    ({"pattern": "index", "path": "node_modules"}, ["node_modules/pkg/index.js"]),
    ({"pattern": ".", "types": ["ts"]}, ["src/deep/x.ts", "src/main.ts"]),
    ({"pattern": "main", "path": "src/main.ts"}, ["src/main.ts"]),
]


@pytest.mark.parametrize(("params", "expected"), NAMED, ids=[json.dumps(params) for params, _ in NAMED])
async def test_files_are_found_by_name(http: Http, tree: Path, params: Json, expected: list[str]) -> None:
    answer = await http.ok("search", **{"in": "names", **params})
    assert answer["matches"] == [{"path": path, "line": 0, "column": 0, "text": ""} for path in expected]


async def test_an_ignore_file_holds_without_a_repository(http: Http, root: Path) -> None:
    (root / ".gitignore").write_text("node_modules/\n")
    (root / "node_modules").mkdir()
    (root / "node_modules" / "x.js").write_text("one")
    (root / "a.js").write_text("one")
    assert found(await http.ok("search", pattern="one")) == [("a.js", 1)]
    assert found(await http.ok("search", pattern="one", path="node_modules")) == [("node_modules/x.js", 1)]


async def test_a_name_with_a_line_feed_is_one_name(http: Http, root: Path) -> None:
    (root / "two\nlines").touch()
    answer = await http.ok("search", **{"in": "names", "pattern": "two"})
    assert [each["path"] for each in answer["matches"]] == ["two\nlines"]


async def test_more_than_asked_for_is_truncated(http: Http, tree: Path) -> None:
    whole = await http.ok("search", pattern="one")
    answer = await http.ok("search", pattern="one", maxMatches=3)
    assert (len(answer["matches"]), answer["matchCount"], answer["truncated"]) == (3, 3, True)
    exact = await http.ok("search", pattern="one", maxMatches=whole["matchCount"])
    assert not exact["truncated"]


async def test_a_thousand_are_enough_when_nobody_says(http: Http, root: Path) -> None:
    (root / "many").write_text("x\n" * 1001)
    answer = await http.ok("search", pattern="x")
    assert (len(answer["matches"]), answer["truncated"]) == (1000, True)


async def test_streamed_matches_are_all_matches(http: Http, root: Path) -> None:
    (root / "many").write_text("x\n" * 950)
    *events, last = await http.stream("search", pattern="x")
    lines = [match["line"] for frame in events for match in frame["event"]["matches"]]
    assert lines == list(range(1, 951))
    assert (last["result"]["matches"], last["result"]["matchCount"]) == ([], 950)


REFUSED: list[tuple[Json, str]] = [
    ({"pattern": "("}, "ripgrep refuses the search: "),
    ({"pattern": "a\nb"}, "ripgrep refuses the search: "),
    ({"pattern": "("} | {"in": "names"}, "'pattern' is no regular expression: "),
    ({"pattern": ""}, "'pattern' is empty or holds a NUL character"),
    ({"pattern": "a\0"}, "'pattern' is empty or holds a NUL character"),
    ({"pattern": "a", "maxMatches": 0}, "'maxMatches' is above 0"),
    ({"pattern": "a", "glob": "{a"}, "ripgrep refuses the search: "),
    ({"pattern": "a", "glob": "a\0"}, "'glob' holds a NUL character"),
    (
        {"pattern": "a", "kind": "x"},
        "invalid enum value 'x' in 'kind'; known are fuzzy, glob, ",
    ),
    ({"pattern": "a", "kind": "fuzzy"}, '\'fuzzy\' is for names: say "in": "names"'),
    ({"pattern": "a", "before": 101}, "'before' and 'after' are from 0 to 100"),
    ({"pattern": "a", "types": ["nope"]}, "ripgrep refuses the search: "),
    ({"pattern": "a", "maxPerFile": 0}, "'maxPerFile' is 1 or more"),
]


@pytest.mark.parametrize(("params", "message"), REFUSED, ids=[json.dumps(params) for params, _ in REFUSED])
async def test_a_search_that_means_nothing_is_refused(
    http: Http, tree: Path, params: Json, message: str
) -> None:
    refused = await http.refused("search", **params)
    assert (refused.status, refused.code) == (400, "invalid_request")
    assert refused.message.startswith(message)


@pytest.mark.parametrize(
    ("path", "code"), [("missing", "not_found"), ("../x", "outside_workspace"), ("out", "outside_workspace")]
)
async def test_a_search_stays_in_the_workspace(http: Http, tree: Path, path: str, code: str) -> None:
    (tree / "out").symlink_to("/etc")
    assert (await http.refused("search", pattern="root", path=path)).code == code
    assert not [
        each for each in found(await http.ok("search", pattern="root:x", ignored=True)) if "out" in each[0]
    ]


async def test_a_workspaces_own_ripgrep_and_its_configuration_are_not_used(http: Http, tree: Path) -> None:
    (tree / "rg").write_text("#!/bin/sh\ntouch was-run\n")
    (tree / "rg").chmod(0o755)
    (tree / ".ripgreprc").write_text("--files\n")
    await http.ok("search", pattern="one")
    assert not (tree / "was-run").exists()


async def test_a_pattern_is_never_an_option(http: Http, tree: Path) -> None:
    for pattern in ("--pre=touch", "-f/etc/passwd", "--help"):
        answer = await http.ok("search", pattern=pattern)
        assert answer["matches"] == []


def test_the_arguments_are_closed_before_the_path() -> None:
    request = Search(pattern="-e", glob=["-x"], in_=Where.CONTENT, kind=PatternKind.REGEX)
    assert arguments(request, ".")[-5:] == ["--glob=-x", "--json", "--regexp=-e", "--", "."]


async def test_a_cancelled_search_ends_ripgrep(socket: Socket, daemon: Daemon, root: Path) -> None:
    (root / "big").mkdir()
    for number in range(200):
        (root / "big" / str(number)).write_text("y\n" * 20_000)
    # With the lines around them there is more to tell than sockets hold: it does not end before that.
    around = {"before": 100, "after": 100}
    await socket.send("1", "search", {"pattern": "(y|x)*$", "maxMatches": 100_000, **around})
    await socket.next_of("1")
    await socket.send("1", "cancel")
    _, last = await socket.end_of("1")
    assert last["error"]["code"] == "cancelled"
    await until(lambda: daemon.children() == set())
    assert (await socket.ok("processes"))["processes"] == []


async def test_a_search_that_has_enough_ends_ripgrep(http: Http, daemon: Daemon, root: Path) -> None:
    for number in range(100):
        (root / f"f{number}").write_text("y\n" * 20_000)
    answer = await http.ok("search", pattern="y", maxMatches=1)
    assert (len(answer["matches"]), answer["truncated"]) == (1, True)
    await until(lambda: daemon.children() == set())


async def test_many_searches_at_once(http: Http, tree: Path, daemon: Daemon) -> None:
    expected = found(await http.ok("search", pattern="one"))
    answers: list[Any] = await asyncio.gather(*(http.ok("search", pattern="one") for _ in range(30)))
    assert all(found(answer) == expected for answer in answers)
    await until(lambda: daemon.children() == set())


async def test_the_lines_around_a_match_are_told_with_it(http: Http, root: Path) -> None:
    (root / "a").write_text("1\n2\nx3\nx4\n5\n6\n7\nx8\n")
    answer = await http.ok("search", pattern="x", before=2, after=1)
    assert [(each["line"], each.get("before", []), each.get("after", [])) for each in answer["matches"]] == [
        (3, ["1", "2"], ["x4"]),
        (4, ["2", "x3"], ["5"]),
        (8, ["6", "7"], []),
    ]


async def test_lines_around_a_match_are_those_of_its_own_file(http: Http, root: Path) -> None:
    for name in ("a", "b", "c"):
        (root / name).write_text(f"{name} before\nx\n{name} after\n")
    matches = (await http.ok("search", pattern="^x", before=5, after=5))["matches"]
    assert [(each["before"], each["after"]) for each in matches] == [
        ([f"{name} before"], [f"{name} after"]) for name in ("a", "b", "c")
    ]


async def test_a_match_may_go_over_lines(http: Http, root: Path) -> None:
    (root / "a").write_text("0\nfoo(\n  bar\n)\nend\n")
    assert (await http.ok("search", pattern=r"foo\(\s+bar"))["matches"] == []
    (match,) = (await http.ok("search", pattern=r"foo\(\s+bar", multiline=True, after=1))["matches"]
    assert (match["line"], match["endLine"], match["text"]) == (2, 3, "foo(\n  bar")
    assert match["after"] == [")"]


async def test_names_come_by_how_well_they_fit(http: Http, root: Path) -> None:
    for name in ("src/app.ts", "src/a/p/p.ts", "docs/map.md", "README.md", "src/components/AppHeader.tsx"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    answer = await http.ok("search", **{"in": "names", "kind": "fuzzy", "pattern": "app"})
    assert [each["path"] for each in answer["matches"]] == [
        "src/app.ts",
        "src/components/AppHeader.tsx",
        "src/a/p/p.ts",
    ]
    scores = [each["score"] for each in answer["matches"]]
    assert scores == sorted(scores, reverse=True)


async def test_names_are_those_of_ripgrep_whatever_is_ignored(http: Http, root: Path) -> None:
    for name in (
        "a.log",
        "keep.log",
        "src/b.log",
        "src/keep.log",
        "out/x.ts",
        "src/out/y.ts",
        "top/z",
        "src/top/z",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / ".gitignore").write_text("*.log\n!keep.log\nout/\n/top\n# a comment\n")
    (root / "src/.gitignore").write_text("keep.log\n!out/\n")
    (root / ".ignore").write_text("!b.log\n")
    assert await names(http) == await names_by_hand(http)
    (root / ".gitignore").write_text("src/\n")
    assert await names(http) == await names_by_hand(http) == ["a.log", "keep.log", "out/x.ts", "top/z"]
    (root / ".gitignore").unlink()
    (root / "new.txt").touch()
    assert await names(http) == await names_by_hand(http)


async def names(http: Http) -> list[str]:
    answer = await http.ok("search", **{"in": "names", "pattern": "."})
    return [each["path"] for each in answer["matches"]]


async def names_by_hand(http: Http) -> list[str]:
    argv = [str(RIPGREP), "--no-config", "--no-require-git", "--files"]
    return sorted((await http.ok("command", argv=argv))["stdout"].splitlines())
