"""A program that kills a swap at every instant, and says what is there after each recovery.

    python -m tests.toolserver.system.killed PLACE replace|merge|delta beside|inside|overlay 0|1

It forks a child for every instant: the child goes through the whole swap but dies right before its n-th
change to the disk; then the parent recovers and looks. With 1, the recovery is killed at its instants too.
As on an ``overlay``, the directories of the old tree cannot be renamed, and only those.
Prints, as JSON, for each: whether the old tree is back, the tree, and what is left in the state directory.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.trees import Directory, File, Link, Tree, described, plant
from toolserver.system import swap, swap_steps
from toolserver.system.journal import Step

OLD: Tree = {
    "a": File(b"1"),
    "d": Directory(),
    "d/x": File(b"2"),
    "d/y": File(b"3", 0o755),
    "empty": Directory(0o700),
    "link": Link("a"),
    "same": Directory(),
    "same/deep": Directory(),
    "same/deep/f": File(b"old"),
    "same/deep/kept": File(b"kept"),
}
NEW: Tree = {
    "a": File(b"9"),
    "d": File(b"a file where a directory was"),
    "link": Directory(),
    "link/k": File(b"a directory where a link was"),
    "n": Directory(),
    "n/z": File(b"7"),
    "same": Directory(),
    "same/deep": Directory(),
    "same/deep/f": File(b"new"),
}

_CHANGES = ("rename", "unlink", "mkdir", "rmdir", "fchmod", "chmod")
_EVERY = 24
"""Of the swap's instants, where the recovery's are tried as well: all pairs would take too long."""


def _die_at(at: int) -> None:
    count = itertools.count()

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            if next(count) == at:
                os._exit(9)
            return call(*args, **kwargs)

        return changed

    for name in _CHANGES:
        setattr(os, name, dying(getattr(os, name)))


def _dies(at: int, work: Callable[[], object]) -> bool:
    pid = os.fork()
    if not pid:
        _die_at(at)
        work()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, 9}, "it died of something else"
    return code == 9


def _swap(root: Path, state: Path, mode: str) -> None:
    with swap.Staging(root, state) as staging:
        plant(staging.open(), NEW)
        if mode == "delta":
            staging.put(_as_a_delta)
        else:
            getattr(staging, mode)()


def _as_a_delta(root: int, new: int) -> tuple[list[Step], dict[str, tuple[int, int]]]:
    steps = [*swap_steps.leaving(root, ["empty", "same/deep/kept"]), *swap_steps.merging(root, new)]
    return steps, {"same": (0o755, 0o700)}


@contextlib.contextmanager
def _as_on_an_overlay(root: Path) -> Iterator[None]:
    """What the kernel does to directories of the layer below, which are those that are in ``root`` now."""
    directories = [place for place in root.rglob("*") if place.is_dir() and not place.is_symlink()]
    held = [os.open(place, os.O_RDONLY) for place in directories]  # so that no other gets its number
    below = {os.fstat(fd).st_ino for fd in held}
    rename = os.rename

    def renamed(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if os.stat(source, dir_fd=src_dir_fd, follow_symlinks=False).st_ino in below:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    setattr(os, "rename", renamed)  # noqa: B010 - for the type checker it is another function
    yield
    setattr(os, "rename", rename)  # noqa: B010
    for fd in held:
        os.close(fd)


def _tried(place: Path, mode: str, where: str, at: int, again: int | None) -> tuple[bool, bool, list[Any]]:
    """Whether the swap and its recovery died, and what is there after a recovery that lived."""
    root, state = place / f"{at}-{again}" / "root", place / f"{at}-{again}" / "state"
    root.mkdir(parents=True)
    plant(root, OLD)
    with _as_on_an_overlay(root) if where == "overlay" else contextlib.nullcontext():
        died, died_again = _killed(root, state, mode, at, again)
    return (
        died,
        died_again,
        [described(root) == OLD, repr(described(root)), [str(x) for x in state.iterdir()]],
    )


def _killed(root: Path, state: Path, mode: str, at: int, again: int | None) -> tuple[bool, bool]:
    died = _dies(at, lambda: _swap(root, state, mode))
    died_again = died and again is not None and _dies(again, lambda: swap.recover(root, state))
    swap.recover(root, state)
    return died, died_again


def _killed_once(place: Path, mode: str, where: str) -> Iterator[list[Any]]:
    for at in itertools.count():
        died, _, seen = _tried(place, mode, where, at, None)
        yield seen
        if not died:
            return


def _killed_twice(place: Path, mode: str, where: str) -> Iterator[list[Any]]:
    for at in itertools.count(0, _EVERY):
        died = False
        for again in itertools.count():
            died, died_again, seen = _tried(place, mode, where, at, again)
            yield seen
            if not died_again:
                break
        if not died:
            return


def main() -> None:
    """See above."""
    place, mode, where, twice = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "1"
    os.fsync = lambda fd: None  # a kill loses nothing that was written
    if where == "inside":
        swap.can_rename = lambda state, root: False
    print(json.dumps(list((_killed_twice if twice else _killed_once)(place, mode, where))))


if __name__ == "__main__":
    main()
