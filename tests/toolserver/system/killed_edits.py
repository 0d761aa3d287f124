"""A program that kills a change of several files at every instant, and says what is there after recovery.

    python -m tests.toolserver.system.killed_edits PLACE links|copies 0|1

It forks a child for every instant: the child makes the whole change but dies right before its n-th system
call that matters; then the parent recovers and looks. With 1, the recovery is killed at its instants too.
With ``copies``, the file system knows no hard links. Prints, as JSON, for each: whether the old tree is back,
the tree, and what is left in the state directory.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from protocol.paths import WorkspacePath
from tests.trees import Directory, File, Link, Tree, described, plant
from toolserver.system import edit_journal
from toolserver.system.disk import Disk
from toolserver.system.edit_journal import Write

OLD: Tree = {
    "a": File(b"old a", 0o755),
    "deep": Directory(),
    "deep/b": File(b"old b"),
    "gone": File(b"goes"),
    "link": Link("a"),
    "moved": File(b"the same", 0o600),
    "under": File(b"is replaced by what is moved"),
    "z": File(b"is moved", 0o640),
}
NEW: Tree = {
    "a": File(b"new a", 0o755),
    "deep": Directory(),
    "deep/b": File(b"new b", 0o755),
    "deep/made": Directory(),
    "deep/made/c": File(b"new c"),
    "link": Link("a"),
    "over": Directory(),
    "over/there": File(b"the same", 0o600),
    "under": File(b"is moved", 0o640),
}
_CALLS = ("open", "link", "rename", "unlink", "mkdir", "rmdir", "write", "fsync", "fchmod")


def _path(name: str) -> WorkspacePath:
    return WorkspacePath(name)


def change(root: Path, state: Path) -> None:
    """From OLD to NEW."""
    seen = {name: (root / name).stat() for name in OLD}
    disk = Disk(root)
    edit_journal.commit(
        disk,
        state,
        [
            Write(_path("a"), b"new a", seen["a"]),
            Write(_path("deep/b"), b"new b", seen["deep/b"], 0o755),
            Write(_path("deep/made/c"), b"new c", None),
            Write(_path("gone"), None, seen["gone"]),
            Write(_path("over/there"), b"the same", None, None, _path("moved"), seen["moved"]),
            Write(_path("moved"), None, seen["moved"]),
            Write(_path("under"), b"is moved", seen["under"], 0o640, _path("z"), seen["z"]),
            Write(_path("z"), None, seen["z"]),
        ],
    )
    disk.close()


def _die_at(at: int) -> None:
    count = itertools.count()

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if next(count) == at:
                os._exit(9)
            return call(*args, **kwargs)

        return called

    for name in _CALLS:
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


def _tried(place: Path, at: int, again: int | None) -> tuple[bool, bool, list[Any]]:
    """Whether the change and its recovery died, and what is there after a recovery that lived."""
    root, state = place / f"{at}-{again}" / "root", place / f"{at}-{again}" / "state"
    root.mkdir(parents=True)
    state.mkdir()
    plant(root, OLD)
    died = _dies(at, lambda: change(root, state))
    died_again = died and again is not None and _dies(again, lambda: edit_journal.recover(root, state))
    edit_journal.recover(root, state)
    left = [str(path) for path in (state / "edits").iterdir()] if (state / "edits").exists() else []
    return died, died_again, [described(root) == OLD, repr(described(root)), left]


def _killed_once(place: Path) -> Iterator[list[Any]]:
    for at in itertools.count():
        died, _, seen = _tried(place, at, None)
        yield seen
        if not died:
            return


def _killed_twice(place: Path) -> Iterator[list[Any]]:
    for at in itertools.count(0, 7):
        died = False
        for again in itertools.count(0, 2):
            died, died_again, seen = _tried(place, at, again)
            yield seen
            if not died_again:
                break
        if not died:
            return


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def main() -> None:
    """See above."""
    place, links, twice = Path(sys.argv[1]), sys.argv[2] == "links", sys.argv[3] == "1"
    if not links:
        os.link = _no_links
    fsync = os.fsync
    os.fsync = lambda fd: None  # a kill loses nothing that was written
    print(json.dumps(list((_killed_twice if twice else _killed_once)(place))))
    os.fsync = fsync


if __name__ == "__main__":
    main()
