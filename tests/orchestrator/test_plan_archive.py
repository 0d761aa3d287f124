"""What of a person's own directory a plan takes along, told by git itself where a history is in it."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from orchestrator.plan import LaunchPlan, WorkspaceSpec, launch_plan
from orchestrator.plan_archive import NO_RULES, plan_archive, tracked_paths
from protocol.errors import InvalidRequest
from protocol.exclusions import Exclusions
from tests.unit.test_git_history import ENVIRONMENT, git

pytestmark = pytest.mark.skipif(
    shutil.which("git", path=ENVIRONMENT["PATH"]) is None, reason="git is not installed"
)


def write(directory: Path, *paths: str) -> None:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit, and files that only this machine has any use for."""
    project = tmp_path / "my project"
    write(project, "a.txt", ".vscode/settings.json", "dist/kept.js", ".gitignore")
    git(project, "init", "-q", "-b", "trunk")
    git(project, "add", "-f", ".")
    git(project, "commit", "-q", "-m", "one")
    write(project, ".vscode/mine.json", "dist/made.js", "node_modules/x/index.js", ".env", "new.txt")
    return project


def plan_of(directory: Path, *, copy_git: bool = True) -> LaunchPlan:
    return launch_plan(WorkspaceSpec(copy_cwd=True, user_cwd=directory), copy_git=copy_git)


def unpacked(plan: LaunchPlan, target: Path, always: Exclusions = NO_RULES) -> Path:
    archive = plan_archive(plan, Exclusions.default(), always)
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        tar.extractall(target, filter="tar")
    return target


def names(directory: Path) -> set[str]:
    found = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(".git/")}


def test_nothing_that_git_tracks_looks_deleted_in_the_copy(project: Path, tmp_path: Path) -> None:
    copy = unpacked(plan_of(project), tmp_path / "copy")
    assert names(copy) == {"a.txt", ".vscode/settings.json", "dist/kept.js", ".gitignore", "new.txt"}
    assert git(copy, "status", "--porcelain") == "?? new.txt"
    assert git(copy, "log", "--format=%s") == "one"


def test_what_the_directorys_own_template_leaves_out_stays_out(project: Path, tmp_path: Path) -> None:
    copy = unpacked(plan_of(project), tmp_path / "copy", NO_RULES.with_rules(["/dist"]))
    assert "dist/kept.js" not in names(copy)


def test_without_the_history_only_the_rules_count(project: Path, tmp_path: Path) -> None:
    copy = unpacked(plan_of(project, copy_git=False), tmp_path / "copy")
    assert names(copy) == {"a.txt", ".gitignore", "new.txt"}
    assert not (copy / ".git").exists()


def test_a_branch_may_be_called_like_something_that_is_left_out(project: Path, tmp_path: Path) -> None:
    for branch in ("fix.log", "node_modules", "dist", "tmp/x"):
        git(project, "branch", branch)
    copy = unpacked(plan_of(project), tmp_path / "copy")
    assert git(copy, "branch", "--format=%(refname:short)") == git(
        project, "branch", "--format=%(refname:short)"
    )


def test_a_lock_of_a_git_at_work_and_other_worktrees_stay_here(project: Path, tmp_path: Path) -> None:
    git(project, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    write(project, ".git/index.lock")
    copy = unpacked(plan_of(project), tmp_path / "copy")
    git(copy, "switch", "-q", "side")  # not "already used by worktree"
    assert git(copy, "worktree", "list").count("\n") == 0


def test_a_worktree_brings_its_history_along_whole(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(staging))
    side = tmp_path / "side"
    git(project, "worktree", "add", "-q", "-b", "side", str(side))
    write(side, "b.txt")
    git(side, "add", "b.txt")
    git(side, "commit", "-q", "-m", "two")
    head = git(side, "rev-parse", "HEAD")
    copy = unpacked(plan_of(side), tmp_path / "copy")
    assert (copy / ".git").is_dir()
    shutil.rmtree(project)  # nothing of it is needed
    assert (git(copy, "rev-parse", "HEAD"), git(copy, "status", "--porcelain")) == (head, "")
    assert [*staging.iterdir()] == []


def test_a_submodule_brings_its_history_along_whole(project: Path, tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    git(above, "init", "-q")
    git(above, "submodule", "add", "-q", str(project), "lib")
    copy = unpacked(plan_of(above / "lib"), tmp_path / "copy")
    assert git(copy, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git(copy, "status", "--porcelain") == ""


def test_modes_links_empty_directories_and_strange_names_come_along(tmp_path: Path) -> None:
    project = tmp_path / "p"
    write(project, "run.sh", "secret", "da is/t köstlich.txt")
    (project / "run.sh").chmod(0o750)
    (project / "secret").chmod(0o600)
    (project / "empty").mkdir(mode=0o700)
    (project / "link").symlink_to("run.sh")
    copy = unpacked(plan_of(project), tmp_path / "copy")
    modes = {path.name: oct(path.lstat().st_mode & 0o777) for path in copy.iterdir()}
    assert (modes["run.sh"], modes["secret"]) == ("0o750", "0o600")
    assert (modes["empty"], (copy / "link").readlink()) == ("0o700", Path("run.sh"))
    assert (copy / "da is/t köstlich.txt").is_file()


def test_a_history_that_cannot_come_along_is_told_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / ".git").write_text("gitdir: /gone\n")
    with pytest.raises(InvalidRequest, match=r"points at /gone, where there is no repository.*--no-git"):
        plan_of(tmp_path)
    assert plan_archive(plan_of(tmp_path, copy_git=False), Exclusions.default()).files == 1


def test_where_git_knows_nothing_nothing_is_tracked(tmp_path: Path) -> None:
    assert tracked_paths(tmp_path / "gone") == frozenset()
