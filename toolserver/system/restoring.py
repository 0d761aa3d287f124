"""A plan carried out: what is to come is made beside the tree, then all of it changes places in one swap.

The swap is that of archives (see ``swap``): journalled, so that a kill leaves the old tree or the new one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protocol.errors import ToolError
from protocol.paths import WorkspacePath
from toolserver.system.checkpoint_store import Store
from toolserver.system.directories import GrowingDirectories
from toolserver.system.disk import Disk
from toolserver.system.journal import Step
from toolserver.system.moving import is_locked
from toolserver.system.past import Plan, State
from toolserver.system.swap import Staging


@contextmanager
def carried_out(plan: Plan, disk: Disk, store: Store, state: Path) -> Iterator[None]:
    """Within the context the tree is as planned; what it replaced is removed when it is left.

    Raises Damaged, NoSpace, Conflict, Busy; nothing is changed then.
    """
    with Staging(disk.root, state) as staging:
        staged = staging.open()
        _stage(plan, staged, disk, store)
        staging.change(
            [_step(disk, each.path, each.leaves, each.arrives) for each in plan.changes], plan.modes
        )
        yield


def _stage(plan: Plan, staged: Path, disk: Disk, store: Store) -> None:
    root = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    directories = GrowingDirectories(root)
    try:
        for path, state in plan.arriving.items():
            fd, name = directories.of(path)
            _make(fd, name, path, state, disk, store)
        for path, state in reversed(plan.arriving.items()):
            if state.is_directory:
                fd, name = directories.of(path)
                os.chmod(name, stat.S_IMODE(state.mode), dir_fd=fd)
    finally:
        directories.close()
        os.close(root)


def _make(fd: int, name: str, path: str, state: State, disk: Disk, store: Store) -> None:
    if state.is_directory:
        os.mkdir(name, 0o700, dir_fd=fd)
    elif stat.S_ISLNK(state.mode):
        os.symlink(os.fsdecode(state.content or b""), name, dir_fd=fd)
    else:
        data = store.get(state.content or b"", path)
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
        with os.fdopen(file, "wb") as out:
            out.write(data)
            out.flush()
            _keep_owner(disk, path, file)
            os.fchmod(file, stat.S_IMODE(state.mode))


def _keep_owner(disk: Disk, path: str, file: int) -> None:
    if os.geteuid() == 0:
        with suppress(ToolError):
            old = disk.stat(WorkspacePath(path))
            os.fchown(file, old.st_uid, old.st_gid)


def _step(disk: Disk, path: str, leaves: bool, arrives: bool) -> Step:
    mode = None
    if leaves:
        found = disk.stat(WorkspacePath(path)).st_mode
        mode = stat.S_IMODE(found) if is_locked(found) else None
    return Step(os.fsencode(path), leaves, arrives, mode)
