"""A directory's history, whole in a copy: told by git itself."""

# Runs without pytest too, hence unittest's own assertions.
# ruff: noqa: PT009, PT027

from __future__ import annotations

import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from orchestrator.git_history import find_git_history, stage_git_history
from protocol.errors import InvalidRequest

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.org",
    "GIT_CEILING_DIRECTORIES": tempfile.gettempdir(),
}


def git(directory: Path, *arguments: str) -> str:
    """What git prints; raises when it fails."""
    # Without the upkeep that newer ones go on with after a commit: its lock comes and goes in what is copied.
    command = ["git", "-c", "protocol.file.allow=always", "-c", "maintenance.auto=false", *arguments]
    done = subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def copied(source: Path, target: Path) -> Path:
    """A copy as a backend makes it: the content, and ``.git`` from where the history is."""
    history = find_git_history(source)
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    if history.layers:
        stage_git_history(history, target / ".git")
    elif (source / ".git").is_dir():
        shutil.copytree(source / ".git", target / ".git", symlinks=True)
    return target


class AHistory(unittest.TestCase):
    def setUp(self) -> None:
        if shutil.which("git", path=ENVIRONMENT["PATH"]) is None:
            self.skipTest("git is not installed: its histories cannot be made")
        self._temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self._temporary.cleanup)
        self.place = Path(self._temporary.name).resolve()
        self.main = self.place / "main"
        self.main.mkdir()
        git(self.main, "init", "-q", "-b", "trunk")
        self.commit(self.main, "a.txt", "one\n")

    def commit(self, directory: Path, name: str, content: str) -> None:
        (directory / name).write_text(content)
        git(directory, "add", name)
        git(directory, "commit", "-q", "-m", f"change {name}")

    def same(self, source: Path, copy: Path) -> None:
        """The copy stands alone: nothing of ``source`` is needed, and git says the same of both."""
        questions = (
            ("log", "--format=%H %s"),
            ("status", "--porcelain", "--branch"),
            ("branch", "--list", "--format=%(refname) %(objectname)"),
            ("stash", "list"),
            ("reflog", "--format=%H"),
        )
        told = [git(source, *question) for question in questions]
        self.place.joinpath("main").rename(self.place / "hidden")
        try:
            self.assertEqual([git(copy, *question) for question in questions], told)
            git(copy, "fsck", "--strict")
            self.assertEqual(git(copy, "rev-parse", "--show-toplevel"), str(copy))
            self.commit(copy, "new.txt", "made in the copy\n")
        finally:
            self.place.joinpath("hidden").rename(self.main)

    def test_a_directory_travels_as_it_is(self) -> None:
        self.assertEqual(find_git_history(self.main).layers, ())
        self.same(self.main, copied(self.main, self.place / "copy"))

    def test_where_there_is_none_there_is_nothing_to_do(self) -> None:
        (self.place / "plain").mkdir()
        self.assertEqual(find_git_history(self.place / "plain").layers, ())

    def test_a_worktrees_target_comes_along_with_its_branch_its_index_and_its_changes(self) -> None:
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "-b", "topic", str(tree))
        self.commit(tree, "b.txt", "two\n")
        (tree / "b.txt").write_text("put aside\n")
        git(tree, "stash", "-q")
        (tree / "b.txt").write_text("staged\n")
        git(tree, "add", "b.txt")
        (tree / "a.txt").write_text("not staged\n")
        (tree / "c.txt").write_text("not known\n")
        self.commit(self.main, "main-only.txt", "of another branch\n")
        self.same(tree, copied(tree, self.place / "copy"))
        copy = self.place / "copy"
        self.assertEqual(git(copy, "rev-parse", "--abbrev-ref", "HEAD"), "topic")
        self.assertIn("put aside", git(copy, "stash", "show", "-p"))
        self.assertEqual(git(copy, "worktree", "list", "--porcelain").count("worktree "), 1)

    def test_a_worktree_with_a_head_of_no_branch_and_settings_of_its_own(self) -> None:
        git(self.main, "config", "extensions.worktreeConfig", "true")
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "--detach", str(tree))
        git(tree, "config", "--worktree", "workspace.mark", "of the tree")
        git(self.main, "config", "--worktree", "workspace.mark", "of main")
        self.same(tree, copied(tree, self.place / "copy"))
        self.assertEqual(git(self.place / "copy", "config", "workspace.mark"), "of the tree")

    def test_a_worktree_of_a_bare_repository_is_not_bare_in_the_copy(self) -> None:
        git(self.place, "clone", "-q", "--bare", str(self.main), str(self.place / "bare.git"))
        tree = self.place / "tree"
        git(self.place / "bare.git", "worktree", "add", "-q", str(tree), "trunk")
        self.same(tree, copied(tree, self.place / "copy"))

    def test_a_submodules_target_comes_along(self) -> None:
        outer = self.place / "outer"
        outer.mkdir()
        git(outer, "init", "-q", "-b", "trunk")
        git(outer, "submodule", "-q", "add", str(self.main), "inner")
        self.assertTrue((outer / "inner/.git").is_file())
        copy = copied(outer / "inner", self.place / "copy")
        self.same(outer / "inner", copy)

    def test_a_separate_git_directory_and_a_link_to_one_come_along(self) -> None:
        tree = self.place / "tree"
        tree.mkdir()
        git(tree, "init", "-q", "-b", "trunk", "--separate-git-dir", str(self.place / "elsewhere"))
        self.commit(tree, "b.txt", "two\n")
        self.same(tree, copied(tree, self.place / "copy"))
        (tree / ".git").unlink()
        (tree / ".git").symlink_to(self.place / "elsewhere")
        self.same(tree, copied(tree, self.place / "second"))

    def test_a_lock_of_a_git_at_work_stays_behind(self) -> None:
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "-b", "topic", str(tree))
        (self.main / ".git/worktrees/tree/index.lock").touch()
        (self.main / ".git/packed-refs.lock").touch()
        self.assertEqual(list((copied(tree, self.place / "copy") / ".git").rglob("*.lock")), [])

    def test_nothing_of_the_repository_is_changed(self) -> None:
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "-b", "topic", str(tree))
        config = (self.main / ".git/config").read_bytes()
        copied(tree, self.place / "copy")
        self.assertEqual((self.main / ".git/config").read_bytes(), config)
        self.assertEqual(git(tree, "status", "--porcelain"), "")

    def test_a_target_that_is_gone_is_an_error_that_says_so(self) -> None:
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "-b", "topic", str(tree))
        shutil.rmtree(self.main)
        with self.assertRaisesRegex(InvalidRequest, "where there is no repository: `git worktree repair`"):
            find_git_history(tree)

    def test_a_worktree_whose_repository_is_gone_is_an_error_that_says_so(self) -> None:
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "-b", "topic", str(tree))
        shutil.rmtree(self.main / ".git/objects")
        with self.assertRaisesRegex(InvalidRequest, r"is a worktree of .*/main/.git, where there is no"):
            find_git_history(tree)

    def test_a_file_that_names_nothing_is_an_error_that_says_so(self) -> None:
        tree = self.place / "tree"
        tree.mkdir()
        for content in ("", "gitdir:\n", "ref: refs/heads/trunk\n", "see gitdir: /x\n"):
            (tree / ".git").write_text(content)
            with self.subTest(content=content), self.assertRaisesRegex(InvalidRequest, "names no repository"):
                find_git_history(tree)

    def test_objects_borrowed_from_elsewhere_are_an_error_that_names_the_fix(self) -> None:
        borrower = self.place / "borrower"
        git(self.place, "clone", "-q", "--shared", str(self.main), str(borrower))
        with self.assertRaisesRegex(InvalidRequest, "run `git repack -a -d`, then remove that file"):
            find_git_history(borrower)
        git(borrower, "repack", "-q", "-a", "-d")
        (borrower / ".git/objects/info/alternates").unlink()
        self.same(borrower, copied(borrower, self.place / "copy"))

    def test_a_worktree_beside_reftables_is_an_error_that_names_the_way_out(self) -> None:
        tree = self.place / "tree"
        git(self.main, "worktree", "add", "-q", "-b", "topic", str(tree))
        (self.main / ".git/reftable").mkdir()
        with self.assertRaisesRegex(InvalidRequest, "copy the main worktree"):
            find_git_history(tree)


if __name__ == "__main__":
    unittest.main()
