"""A tree of packages becomes a workspace's, in one step: made beside the root, then renamed into it.

What was there before goes the other way in the same step, and is removed then: a kill leaves one of the two.
Where the file system knows no such step there are two, and a kill between them leaves none. By what means is
known from the probe; where a means then fails that worked in small, that is told, and the next one is taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from protocol.paths import RESERVED
from toolserver.system import moving
from toolserver.system.copying import held
from toolserver.system.depstore.probing import Means, Probe, Way, new_area
from toolserver.system.depstore.spares import Spares
from toolserver.system.depstore.store import Found
from toolserver.system.depstore.unfolding import NotShared, unfold, unfold_carried
from toolserver.system.directories import DIRECTORY
from toolserver.system.removal import trash_name

TREE = "node_modules"
_NO_EXCHANGE = frozenset((errno.ENOENT, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
"""There are no packages yet, or the file system cannot have two entries change places (gVisor's, NFS)."""
_MADE_MEANWHILE = frozenset((errno.ENOTEMPTY, errno.EEXIST))
_TRIES = 10
"""Each is lost to a program that makes packages, or a cache in their place, at the same instant."""


class Placing:
    """For the workspace whose root is open as ``root`` and lies at ``root_path``."""

    def __init__(self, root: int, root_path: str, state: Path, probe: Probe) -> None:
        self._root = root
        self._root_path = root_path
        self._state = state
        self._probe = probe

    def place(self, found: Found, spares: Sequence[Spares], told: list[str]) -> Means:
        """Put the packages of ``found`` into the root, and say by what means. Blocks.

        Raises CorruptPack, OSError; then the root is as it was. ``told`` gets a sentence for each means that
        did not do what the probe said.
        """
        if self._probe.beside():
            try:
                return self._placed(found, self._state, spares, told)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            self._probe.correct(Way.BESIDE, self._state)
            told.append("packages cannot be moved from the state directory after all; they are made anew")
        with self._reserved() as beside:
            return self._placed(found, beside, spares, told)

    def _placed(self, found: Found, beside: Path, spares: Sequence[Spares], told: list[str]) -> Means:
        with new_area(beside) as area:
            means = self._made(found, area, spares, told)
            self._put(area)
        return means

    def _put(self, area: int) -> None:
        """What the root has for it so far is left in ``area``."""
        try:
            moving.rename((area, TREE), (self._root, TREE), moving.EXCHANGE)
            return
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                os.rename(TREE, trash_name(), src_dir_fd=self._root, dst_dir_fd=area)
            try:
                os.rename(TREE, TREE, src_dir_fd=area, dst_dir_fd=self._root)
                return
            except OSError as error:
                # A dev server has begun its cache there since: that goes as it would have a moment before.
                if error.errno not in _MADE_MEANWHILE:
                    raise
        os.rename(TREE, TREE, src_dir_fd=area, dst_dir_fd=self._root)

    def _made(self, found: Found, area: int, spares: Sequence[Spares], told: list[str]) -> Means:
        """The tree, in ``area``."""
        if any(self._taken(each, found.key, area, told) for each in spares):
            if found.index.root == self._root_path:
                with _tree(area) as target:
                    unfold_carried(found.fd, found.index, target, self._root_path)
            return Means.SPARE
        if self._probe.shares(found.layer, area, found.fd):
            try:
                self._unfolded(found, area, shares=True)
            except NotShared as error:
                self._probe.correct(Way.SHARES, found.layer.directory)
                told.append(f"its blocks cannot be shared after all ({error.strerror}); it is copied")
                os.rename(TREE, trash_name(), src_dir_fd=area, dst_dir_fd=area)
            else:
                return Means.SHARED
        self._unfolded(found, area, shares=False)
        return Means.COPY

    def _taken(self, spares: Spares, key: str, area: int, told: list[str]) -> bool:
        if not spares.count(key) or not self._probe.moves(spares, area):
            return False
        try:
            return spares.take(key, area, TREE)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._probe.correct(Way.MOVES, spares.directory)
            told.append(f"spare packages cannot be moved after all ({error.strerror})")
            return False

    def _unfolded(self, found: Found, area: int, *, shares: bool) -> None:
        os.mkdir(TREE, 0o755, dir_fd=area)
        with _tree(area) as target:
            unfold(found.fd, found.index, target, self._root_path, shares=shares)

    @contextlib.contextmanager
    def _reserved(self) -> Iterator[Path]:
        """The root's own, made if need be: the state directory is on another mount."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(RESERVED, 0o700, dir_fd=self._root)
        try:
            yield Path(f"/proc/self/fd/{self._root}") / RESERVED
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(RESERVED, dir_fd=self._root)


def _tree(area: int) -> contextlib.AbstractContextManager[int]:
    return held(os.open(TREE, DIRECTORY, dir_fd=area))
