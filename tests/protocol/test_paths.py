"""Which strings name a place in a workspace."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.errors import InvalidRequest, OutsideWorkspace, ToolError
from protocol.paths import RESERVED, base_name, workspace_path
from tests.builder import exactly

ROOT = "/srv/data/ws-1"

ACCEPTED = [
    ("a.txt", "a.txt"),
    ("./a//b/", "a/b"),
    ("a/../b", "b"),
    (".", "."),
    ("./", "."),
    ("a/..", "."),
    ("/app", "."),
    ("/app/", "."),
    ("/workspace/src/x", "src/x"),
    ("//app//x", "x"),
    (f"{ROOT}/x/y", "x/y"),
    (ROOT, "."),
    ("app/x", "app/x"),
    ("...", "..."),
    ("..a/b..", "..a/b.."),
    ("a b\n", "a b\n"),
    ("ü/漢", "ü/漢"),
    ("A/a", "A/a"),
    ("~/.bashrc", "~/.bashrc"),
    ("a\\..\\b", "a\\..\\b"),
    ("src/.workspace-core", "src/.workspace-core"),
    ("/app/app/x", "app/x"),
]


@pytest.mark.parametrize(("raw", "expected"), ACCEPTED)
def test_a_path_has_one_normal_form(raw: str, expected: str) -> None:
    assert workspace_path(raw, ROOT) == expected


OUTSIDE = [
    "..",
    "../x",
    "a/../../x",
    "a/b/../../../x",
    "/",
    "/etc/passwd",
    "/application/x",
    "/app/../etc/passwd",
    "/workspaces/a",
    "/srv/data/ws-10/x",
    "/srv/data",
    f"{ROOT}/../x",
    "/proc/self/environ",
]


@pytest.mark.parametrize("raw", OUTSIDE)
def test_a_path_that_leaves_is_refused(raw: str) -> None:
    with pytest.raises(OutsideWorkspace) as caught:
        workspace_path(raw, ROOT)
    assert caught.value.message == f"{raw!r} is outside the workspace; use a path below its root"
    assert caught.value.details == {"path": raw}


@pytest.mark.parametrize("raw", [RESERVED, f"./{RESERVED}/x", f"/app/{RESERVED}", f"a/../{RESERVED}/y"])
def test_the_tool_servers_own_name_is_refused(raw: str) -> None:
    with pytest.raises(OutsideWorkspace, match=r"'\.workspace-core' belongs to the tool server"):
        workspace_path(raw, ROOT)


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=exactly("a path is empty; use '.' for the workspace root")):
        workspace_path("")


@pytest.mark.parametrize("raw", ["a\0b", "\0", "../\0"])
def test_a_nul_is_refused(raw: str) -> None:
    with pytest.raises(
        InvalidRequest, match=exactly("a path holds a NUL character, which no file system takes")
    ):
        workspace_path(raw)


@pytest.mark.parametrize("raw", ["x" * 256, "a/" + "ü" * 128, "x/" * 2048 + "y"])
def test_a_name_or_path_that_no_file_system_takes_is_refused(raw: str) -> None:
    with pytest.raises(
        InvalidRequest, match=exactly("a path is too long: at most 4096 bytes, and 255 a name")
    ) as caught:
        workspace_path(raw)
    assert len(caught.value.details["path"]) <= 200


def test_the_longest_name_is_taken() -> None:
    assert workspace_path("x" * 255) == "x" * 255


pieces = st.sampled_from(["", ".", "..", "a", "b", "app", "workspace", "srv", "..."]) | st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), max_size=6
)
paths = st.lists(pieces, min_size=1, max_size=8).map("/".join)


@given(paths)
@example("/../app/x")
def test_a_checked_path_is_relative_normal_and_below_the_root(raw: str) -> None:
    try:
        path = workspace_path(raw, ROOT)
    except ToolError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert posixpath.normpath(path) == path
    assert workspace_path(path, ROOT) == path


@given(paths.filter(lambda raw: not raw.startswith("/")))
def test_a_relative_path_means_what_posix_says_or_is_refused(raw: str) -> None:
    normal = posixpath.normpath(raw) if raw else ""
    leaves = normal.split("/")[0] == ".."
    try:
        assert workspace_path(raw) == normal
        assert not leaves
    except OutsideWorkspace:
        # Also refused: a way that leaves and comes back, which only the names of the directories above allow.
        assert leaves or ".." in raw.split("/")
    except InvalidRequest:
        assert raw == ""


@given(paths)
def test_all_spellings_of_the_root_mean_the_same(raw: str) -> None:
    results = set()
    for base in ("/app/", "/workspace/", f"{ROOT}/"):
        try:
            results.add(str(workspace_path(base + raw, ROOT)))
        except ToolError as error:
            results.add(error.code)
    assert len(results) == 1


def test_the_base_name_is_the_last_component() -> None:
    assert base_name(workspace_path("a/b.txt")) == "b.txt"
    assert base_name(workspace_path("b.txt")) == "b.txt"


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="half a character"):
        workspace_path("a\ud800")
