"""Where the history of a directory lies, and how it becomes whole in a copy.

``.git`` may be a directory, and then it travels like any other. It may also be a file (a linked worktree, a
submodule) or a link: it points at a place that no copy has. Then the history is layers of directories
elsewhere, from which one that stands alone is put together:

    linked worktree    what all worktrees share (objects, refs, config ...), then the worktree's own
    any other          the directory that is pointed at

``find_git_history`` reads, ``stage_git_history`` writes into a directory of the caller's; the rest is pure.
Nothing is changed in the repository itself.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import InvalidRequest

GIT = ".git"

_SHARED = frozenset(
    "branches common config description hooks info lfs logs lost-found objects packed-refs refs remotes "
    "rr-cache shallow svn".split()
)
"""What the worktrees of a repository share of its top. All else there is the main worktree's own, as HEAD."""
_NOT_SHARED = frozenset("logs/HEAD info/sparse-checkout refs/bisect refs/rewritten refs/worktree".split())
"""Within what is shared, what is the main worktree's own all the same."""
_BOUND = frozenset("commondir gitdir locked worktrees".split())
"""What ties a worktree to its place."""
_AT_HOME = "[core]\n\tbare = false\n\tworktree = ..\n"
"""For the end of a config, where it outdoes what came before. A path in it starts at the git directory."""
_REPAIR = "`git worktree repair`, run in the main worktree, may help"


@dataclass(frozen=True)
class GitLayer:
    """One directory of history."""

    directory: Path
    shared: bool = False
    """Only what worktrees share is taken of it."""

    def takes(self, path: str) -> bool:
        """Whether ``path``, relative to the directory, goes along.

        >>> [GitLayer(Path("r"), shared=True).takes(path) for path in ("refs/heads", "HEAD", "logs/HEAD")]
        [True, False, False]
        >>> [GitLayer(Path("w")).takes(path) for path in ("HEAD", "index.lock", "commondir", "logs/HEAD")]
        [True, False, False, True]
        """
        top, _, below = path.partition("/")
        if top.endswith(".lock") and not below:
            return False  # of a git at work on the host; nobody would ever remove it in the copy
        return (top in _SHARED and path not in _NOT_SHARED) if self.shared else top not in _BOUND


@dataclass(frozen=True)
class GitHistory:
    """The layers of a ``.git`` that is elsewhere, in the order of copying. None: nothing to put together."""

    layers: tuple[GitLayer, ...] = ()


def find_git_history(host_path: Path) -> GitHistory:
    """What ``host_path/.git`` points at; no layers where it is a directory, or where there is none.

    Raises InvalidRequest when a copy would have a broken history, with the reason and the way out.
    """
    git = host_path / GIT
    if not os.path.lexists(git):
        return GitHistory()
    if git.is_dir() and not git.is_symlink():
        _refuse_borrowed(git)
        return GitHistory()
    target = git.resolve() if git.is_dir() else _pointed_at(git)
    if not (target / "HEAD").is_file():
        raise _broken(git, f"points at {target}, where there is no repository", _REPAIR)
    layers = _layers(git, target)
    _refuse_borrowed(layers[0].directory)
    return GitHistory(layers)


def stage_git_history(history: GitHistory, target: Path) -> None:
    """Put the layers together in ``target``, the copy's ``.git``. Blocks; raises OSError."""
    for layer in history.layers:
        shutil.copytree(layer.directory, target, symlinks=True, dirs_exist_ok=True, ignore=_ignore(layer))
    for name in ("config", "config.worktree"):
        config = target / name
        if config.is_file():
            text = config.read_bytes()
            config.write_bytes(text + (b"" if text.endswith(b"\n") else b"\n") + _AT_HOME.encode())


def pointer_target(text: str) -> str | None:
    """What the content of a ``.git`` file points at; None when it is no such content.

    >>> pointer_target("gitdir: ../main/.git/worktrees/w\\n"), pointer_target("ref: x")
    ('../main/.git/worktrees/w', None)
    """
    key, found, value = text.rstrip("\r\n").partition("gitdir: ")
    return value if found and value and not key else None


def _pointed_at(git: Path) -> Path:
    try:
        pointed = pointer_target(git.read_text(errors="surrogateescape"))
    except OSError as error:
        raise _broken(git, f"cannot be read ({error.strerror})", "make it readable") from error
    if pointed is None:
        raise _broken(git, "is a file that names no repository", _REPAIR)
    return (git.parent / pointed).resolve()


def _layers(git: Path, target: Path) -> tuple[GitLayer, ...]:
    common_file = target / "commondir"
    if not common_file.is_file():
        return (GitLayer(target),)
    common = (target / common_file.read_text(errors="surrogateescape").strip()).resolve()
    if not (common / "objects").is_dir():
        raise _broken(git, f"is a worktree of {common}, where there is no repository", _REPAIR)
    if (common / "reftable").is_dir():
        why = "is a worktree of a repository with reftables, which cannot be put together"
        raise _broken(git, why, "copy the main worktree")
    return (GitLayer(common, shared=True), GitLayer(target))


def _refuse_borrowed(repository: Path) -> None:
    alternates = repository / "objects/info/alternates"
    if alternates.is_file() and alternates.read_bytes().strip():
        raise _broken(
            repository,
            f"borrows objects from another repository, by {alternates}",
            "run `git repack -a -d`, then remove that file",
        )


def _broken(git: Path, why: str, fix: str) -> InvalidRequest:
    return InvalidRequest(f"{git} {why}: {fix}; or copy without the history, by --no-git", path=str(git))


def _ignore(layer: GitLayer) -> Callable[[str, list[str]], set[str]]:
    def ignored(directory: str, names: list[str]) -> set[str]:
        below = Path(directory)
        return {
            name
            for name in names
            if not (layer.takes(str((below / name).relative_to(layer.directory))) and _copyable(below / name))
        }

    return ignored


def _copyable(path: Path) -> bool:
    """Not so a socket, as a git that watches files leaves one."""
    mode = path.lstat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
