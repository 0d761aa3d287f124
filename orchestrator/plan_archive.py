"""What a plan takes of a directory, as an archive: the one that every backend is given, whatever its way in.

The plan says what comes along. ``rules`` leave out what a person builds, installs and caches, but never a
file that the history knows: git would take it for deleted in the copy. What is in a history comes along by
the plan's word alone, for a branch may well be called ``tmp`` or ``fix.log``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from orchestrator.archive import Archive, archive_directory
from orchestrator.git_history import GIT, stage_git_history
from orchestrator.plan import LaunchPlan
from orchestrator.spool import Spool
from protocol.exclusions import Exclusions

NO_RULES = Exclusions.nothing()

_GIT_SECONDS = 60.0
"""To list what is tracked: 0.1 s for a hundred thousand files."""


@dataclass(frozen=True)
class PlannedContent:
    """What stays behind of a plan's directory."""

    plan: LaunchPlan
    rules: Exclusions
    tracked: frozenset[str] = frozenset()
    """What the history knows, with the directories above."""
    always: Exclusions = NO_RULES
    """Left out whether tracked or not."""

    def excludes_entry(self, path: str, is_directory: bool = False) -> bool:
        """Whether ``path`` does, where the directories above it do not.

        >>> from orchestrator.plan import WorkspaceSpec, launch_plan
        >>> plan = launch_plan(WorkspaceSpec(copy_cwd=True, user_cwd=Path("/")), copy_git=False)
        >>> content = PlannedContent(plan, Exclusions.default(), frozenset({".vscode", ".vscode/tasks.json"}))
        >>> [content.excludes_entry(path) for path in (".vscode", ".vscode/tasks.json", ".vscode/x", "a.log")]
        [False, False, True, True]
        >>> content.excludes_entry(".git"), content.excludes_entry("lib/.git/refs/heads/fix.log")
        (True, False)
        """
        if not self.plan.takes(path):
            return True
        if GIT in path.split("/"):
            return False
        if path in self.tracked:
            return self.always.excludes_entry(path, is_directory)
        # The whole path: a directory may have been entered for one tracked file in it.
        return self.rules.excludes(path, is_directory) or self.always.excludes_entry(path, is_directory)


def plan_archive(
    plan: LaunchPlan,
    rules: Exclusions,
    always: Exclusions = NO_RULES,
    spool: Spool | None = None,
    contents: Mapping[str, bytes] = MappingProxyType({}),
) -> Archive:
    """Pack what the plan takes of its directory, each with its own mode. Blocks.

    ``contents`` stand in for those of plain files.

    Links that lead out of the directory, sockets and devices are left out and named. Raises what
    ``archive_directory`` does.
    """
    workspace = plan.workspace_plan
    tracked = tracked_paths(workspace.host_path) if workspace.copies_git else frozenset()
    with _history(plan) as grafts:
        content = PlannedContent(plan, rules, tracked, always)
        return archive_directory(
            workspace.host_path,
            content,
            lenient=True,
            own_modes=True,
            grafts=grafts,
            contents=contents,
            spool=spool,
        )


@contextmanager
def _history(plan: LaunchPlan) -> Iterator[dict[str, Path]]:
    """What stands in for a ``.git`` that only points somewhere; nothing where it is simply there."""
    if not plan.git_history.layers:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="workspace-history-") as staged:
        stage_git_history(plan.git_history, Path(staged) / GIT)
        yield {GIT: Path(staged) / GIT}


def tracked_paths(directory: Path) -> frozenset[str]:
    """What git has in its index of ``directory``, with the directories above; nothing where git is missing.

    Git is only asked: it takes no lock, and runs nothing that the repository's configuration names.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-c", "safe.directory=*", "ls-files", "--cached", "-z"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    files = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return frozenset(with_parents(files))


def with_parents(files: list[str]) -> set[str]:
    """
    >>> sorted(with_parents(["a/b/c", "a/d"]))
    ['a', 'a/b', 'a/b/c', 'a/d']
    """
    return {*files, *(str(above) for file in files for above in PurePosixPath(file).parents if above.name)}
