"""git_changes and git_diff on real repositories, whatever the files are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from orchestrator import LocalWorkspace
from orchestrator.workspace import GitChange, GitChangeStatus, GitDiff
from protocol.errors import NotAFile, NotFound, OutsideWorkspace

ADDED, DELETED, MOVED, UPDATED = (
    GitChangeStatus.ADDED,
    GitChangeStatus.DELETED,
    GitChangeStatus.MOVED,
    GitChangeStatus.UPDATED,
)
ODD = "ü ☃\n'\"\\t*?.txt"
"""What git would put into quotes, and a shell would take apart."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorkspace]:
    home = tmp_path_factory.mktemp("home")
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    # Whatever whoever runs the tests has configured: quotes, colours, hidden untracked files.
    (home / ".gitconfig").write_text(
        "[core]\nquotePath = true\n[status]\nshowUntrackedFiles = no\nrenames = false\n[color]\nui = always\n"
    )
    directory = tmp_path_factory.mktemp("shared")
    with LocalWorkspace(directory, environment={**names, "HOME": str(home)}) as workspace:
        yield workspace


@pytest.fixture
def workspace(shared: LocalWorkspace) -> LocalWorkspace:
    done = shared.execute_command("find . -mindepth 1 -delete; git init -q")
    assert done.exit_code == 0, done.stderr
    return shared


def commit(workspace: LocalWorkspace, directory: str = ".") -> None:
    done = workspace.execute_command("git add -A && git commit -qm x --allow-empty", directory)
    assert done.exit_code == 0, done.stderr


def seen(workspace: LocalWorkspace, path: str = ".") -> list[tuple[GitChangeStatus, str, str | None]]:
    found = workspace.git_changes(path)
    return [
        (each.status, str(each.path), str(each.original_path) if each.original_path else None)
        for each in found
    ]


def test_every_kind_of_change_is_told_once(workspace: LocalWorkspace) -> None:
    for name in ("changed", "staged", "gone", "gone-staged", "moved", "back", "mode"):
        workspace.write(name, f"the content of {name}, long enough to be known again\n")
    commit(workspace)
    workspace.write("changed", "new")
    workspace.write("staged", "new")
    workspace.write("dir/new", "new")
    workspace.execute_command("git add staged; rm gone; git rm -q gone-staged; git mv moved dir/there")
    workspace.execute_command("git rm -q --cached back; chmod +x mode; echo > fresh; git add fresh; rm fresh")
    assert seen(workspace) == [
        (UPDATED, "back", None),
        (UPDATED, "changed", None),
        (ADDED, "dir/new", None),
        (MOVED, "dir/there", "moved"),
        (DELETED, "gone", None),
        (DELETED, "gone-staged", None),
        (UPDATED, "mode", None),
        (UPDATED, "staged", None),
    ]


def test_a_clean_tree_has_no_changes(workspace: LocalWorkspace) -> None:
    workspace.write("a", "a")
    commit(workspace)
    assert workspace.git_changes() == []


def test_names_are_told_as_they_are(workspace: LocalWorkspace) -> None:
    workspace.write(f"old {ODD}", "one\ntwo\nthree\n")
    workspace.write(f"kept {ODD}", "kept")
    commit(workspace)
    (workspace.working_dir / f"old {ODD}").rename(workspace.working_dir / f"new {ODD}")
    workspace.execute_command("git add -A")
    workspace.write(f"kept {ODD}", "changed")
    workspace.write(f"fresh dir/ {ODD}", "fresh")
    assert seen(workspace) == [
        (ADDED, f"fresh dir/ {ODD}", None),
        (UPDATED, f"kept {ODD}", None),
        (MOVED, f"new {ODD}", f"old {ODD}"),
    ]
    assert workspace.git_diff(f"kept {ODD}") == GitDiff("changed", "kept")
    assert workspace.git_diff(f"new {ODD}") == GitDiff("one\ntwo\nthree\n", "one\ntwo\nthree\n")


def test_a_repository_without_a_commit_has_only_new_files(workspace: LocalWorkspace) -> None:
    workspace.write("a", "a")
    workspace.write("b", "b")
    workspace.execute_command("git add b")
    assert seen(workspace) == [(ADDED, "a", None), (ADDED, "b", None)]
    assert workspace.git_diff("b") == GitDiff("b", None)


def test_ignored_files_are_no_changes(workspace: LocalWorkspace) -> None:
    workspace.write(".gitignore", "*.log\n")
    commit(workspace)
    workspace.write("x.log", "x")
    assert workspace.git_changes() == []


def test_a_conflict_is_a_change(workspace: LocalWorkspace) -> None:
    workspace.write("a", "base\n")
    commit(workspace)
    workspace.execute_command("git checkout -qb other; echo other > a; git commit -qam other")
    workspace.execute_command("git checkout -q -; echo ours > a; git commit -qam ours; git merge other")
    assert seen(workspace) == [(UPDATED, "a", None)]


def test_paths_start_at_the_workspace_wherever_the_repository_is(workspace: LocalWorkspace) -> None:
    workspace.execute_command("rm -rf .git; mkdir -p 'my repo/sub' && git -C 'my repo' init -q")
    workspace.write("my repo/sub/a", "a")
    workspace.write("my repo/b", "b")
    commit(workspace, "my repo")
    workspace.write("my repo/sub/a", "changed")
    workspace.execute_command("git mv ../b c", "my repo/sub")
    assert (
        seen(workspace, "my repo")
        == [
            (MOVED, "my repo/sub/c", "my repo/b"),
            (UPDATED, "my repo/sub/a", None),
        ][::-1]
    )
    assert ((UPDATED, "my repo/sub/a", None)) in seen(workspace, "my repo/sub")
    for change in workspace.git_changes("my repo/sub"):
        assert workspace.git_diff(change.path).modified is not None
    assert workspace.git_diff("my repo/sub/c") == GitDiff("b", "b")


def test_a_workspace_inside_a_repository_sees_its_own_part(tmp_path: Path) -> None:
    with LocalWorkspace(tmp_path) as outer:
        outer.execute_command("git init -q; git config user.email t@t; git config user.name t; mkdir part")
        outer.write("part/a", "a")
        outer.write("b", "b")
        commit(outer)
        outer.write("part/a", "changed")
        outer.write("b", "changed")
    with LocalWorkspace(tmp_path / "part") as inner:
        assert inner.git_changes() == [GitChange(UPDATED, PurePosixPath("a"))]
        assert inner.git_diff("a") == GitDiff("changed", "a")


def test_a_new_file_has_no_original_and_a_deleted_one_no_content(workspace: LocalWorkspace) -> None:
    workspace.write("dir/gone", "gone")
    commit(workspace)
    workspace.write("new", "new")
    workspace.execute_command("rm -r dir")
    assert workspace.git_diff("new") == GitDiff("new", None)
    assert workspace.git_diff("dir/gone") == GitDiff(None, "gone")


def test_a_binary_file_is_told_by_its_bytes(workspace: LocalWorkspace) -> None:
    workspace.write("a.bin", b"\xff\x00old")
    commit(workspace)
    workspace.write("a.bin", b"\xff\x00new")
    diff = workspace.git_diff("a.bin")
    assert diff == GitDiff(None, None, b"\xff\x00new", b"\xff\x00old")
    assert diff.binary


def test_content_is_whole_and_its_line_ends_are_kept(workspace: LocalWorkspace) -> None:
    old = "line\r\n" * 400_000
    workspace.write("long", old)
    commit(workspace)
    workspace.write("long", old + "more")
    assert workspace.git_diff("long") == GitDiff(old + "more", old)


def test_a_link_is_what_it_points_to(workspace: LocalWorkspace) -> None:
    workspace.execute_command("ln -s one link")
    commit(workspace)
    workspace.execute_command("ln -sfn two link")
    assert workspace.git_diff("link") == GitDiff("two", "one")


def test_what_is_no_repository_or_no_file_is_told(workspace: LocalWorkspace, tmp_path: Path) -> None:
    workspace.execute_command("mkdir dir; echo > dir/a")
    with pytest.raises(NotFound, match="neither in the workspace nor in its last commit"):
        workspace.git_diff("missing")
    with pytest.raises(NotAFile):
        workspace.git_diff("dir")
    with pytest.raises(OutsideWorkspace):
        workspace.git_changes("..")
    with LocalWorkspace(tmp_path) as plain, pytest.raises(NotFound, match="no git repository"):
        plain.git_changes()
