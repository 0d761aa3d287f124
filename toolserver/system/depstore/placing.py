"""A tree of packages becomes a workspace's, in one step: made beside the root, then renamed into it.

What was there before goes the other way, and is removed when the new one is in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from protocol.paths import RESERVED
from toolserver.system.copying import held
from toolserver.system.depstore.spares import Spares
from toolserver.system.depstore.store import Found
from toolserver.system.depstore.unfolding import shares_blocks, unfold, unfold_carried
from toolserver.system.directories import DIRECTORY
from toolserver.system.removal import remove_trash, trash_name
from toolserver.system.swap import can_rename

TREE = "node_modules"
_AREA = "dependencies"


def place(found: Found, root: int, root_path: str, state: Path, spares: Sequence[Spares] = ()) -> str:
    """Put the packages of ``found`` into the root, and say by what means. Blocks.

    Raises CorruptPack, OSError; then the root is as it was.
    """
    try:
        return _place(found, root, root_path, state, spares)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    # The state directory is on another mount: then in the root's own reserved directory.
    with contextlib.suppress(FileExistsError):
        os.mkdir(RESERVED, 0o700, dir_fd=root)
    try:
        return _place(found, root, root_path, Path(f"/proc/self/fd/{root}") / RESERVED, spares)
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(RESERVED, dir_fd=root)


def _place(found: Found, root: int, root_path: str, beside: Path, spares: Sequence[Spares]) -> str:
    with _area(beside) as area:
        if not can_rename(area, root):
            raise OSError(errno.EXDEV, "is on another mount", str(beside))
        means = _made(found, area, root_path, spares)
        with contextlib.suppress(FileNotFoundError):
            os.rename(TREE, trash_name(), src_dir_fd=root, dst_dir_fd=area)
        os.rename(TREE, TREE, src_dir_fd=area, dst_dir_fd=root)
    return means


def _made(found: Found, area: int, root_path: str, spares: Sequence[Spares]) -> str:
    """The tree, in ``area``; by which means, fastest first."""
    if any(each.take(found.key, area, TREE) for each in spares):
        if found.index.root == root_path:
            with held(os.open(TREE, DIRECTORY, dir_fd=area)) as target:
                unfold_carried(found.fd, found.index, target, root_path)
        return "spare tree"
    os.mkdir(TREE, 0o755, dir_fd=area)
    with held(os.open(TREE, DIRECTORY, dir_fd=area)) as target:
        shares = shares_blocks(found.fd, target)
        unfold(found.fd, found.index, target, root_path, shares=shares)
    return "shared blocks" if shares else "parallel copy"


@contextlib.contextmanager
def _area(beside: Path) -> Iterator[int]:
    """An empty directory for one placing; whatever is in it at the end goes."""
    name = f"{_AREA}-{secrets.token_hex(8)}"
    with held(os.open(beside, DIRECTORY)) as above:
        os.mkdir(name, 0o700, dir_fd=above)
        try:
            with held(os.open(name, DIRECTORY, dir_fd=above)) as area:
                yield area
        finally:
            # Trash by its name from here on: a kill in between leaves it to the next start.
            trash = trash_name()
            os.rename(name, trash, src_dir_fd=above, dst_dir_fd=above)
            remove_trash(above)


def remove_litter(state: Path) -> None:
    """What a killed placing has left beside the root."""
    with contextlib.suppress(FileNotFoundError), held(os.open(state, DIRECTORY)) as above:
        for name in os.listdir(above):
            if name.startswith(f"{_AREA}-"):
                os.rename(name, trash_name(), src_dir_fd=above, dst_dir_fd=above)
        remove_trash(above)
