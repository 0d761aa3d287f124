"""What the places of a store and a workspace let one do, found out once by doing it in small.

    beside   trees are made in the state directory, for a rename leads from there into the root; else in the
             root's own reserved directory
    moves    a rename leads from a directory of spares to where trees are made
    shares   new files there can share the blocks of a pack

Each is tried at most once for a tool server's life: at its start, or at the first placing where only that has
what is needed. A placing that meets something else has it with ``correct``, and nothing is tried again. What
could not be tried, for want of room or of the right, is not known. All methods block, for a millisecond.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

from toolserver.system.copying import held
from toolserver.system.depstore.pack import PAGE
from toolserver.system.depstore.spares import Spares
from toolserver.system.depstore.store import SUFFIX, Layer, Store
from toolserver.system.depstore.unfolding import nameless, shares_blocks
from toolserver.system.directories import DIRECTORY
from toolserver.system.removal import left_where_read_only, remove_trash, trash_name
from toolserver.system.swap import can_rename

AREA = "dependencies"
"""Begins the name of a directory for one placing or trial."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Means(StrEnum):
    """How packages get into a workspace, the fastest first."""

    SPARE = "spare tree"
    SHARED = "shared blocks"
    COPY = "parallel copy"


class Way(StrEnum):
    """What is tried."""

    BESIDE = "beside"
    MOVES = "moves"
    CLONES = "clones"
    """Whether files there share blocks with one another: if not, with no pack either."""
    SHARES = "shares"


class Probe:
    """For the workspace whose root is open as ``root``. Any thread may ask."""

    def __init__(self, root: int, state: Path) -> None:
        self._root = root
        self._state = state
        self._lock = threading.RLock()
        self._known: dict[tuple[Way, Path], bool] = {}

    def look(self, store: Store, given: Spares) -> dict[str, list[Means]]:
        """Try what can be tried before a pack is asked for; by layers' names, the fastest means first.

        Those of which one cannot be sure yet are left out: a layer may hold nothing, or show its packs only
        to who knows their keys.
        """
        found: dict[str, list[Means]] = {}
        with contextlib.ExitStack() as stack:
            # Where trees are made in the root, nothing is: somebody may be putting content there.
            area = stack.enter_context(new_area(self._state)) if self.beside() else None
            for layer in store.layers:
                spares = given if layer.shared else store.spares
                moves = area is not None and spares is not None and self.moves(spares, area)
                shares = self.shares(layer, self._root if area is None else area)
                here = {Means.COPY, *found.get(layer.name, ())}
                here |= {means for means, works in ((Means.SPARE, moves), (Means.SHARED, shares)) if works}
                found[layer.name] = [means for means in Means if means in here]
        return found

    def correct(self, way: Way, place: Path) -> None:
        """It does not work, whatever a trial said."""
        with self._lock:
            if way is Way.BESIDE:
                self._known.clear()  # all else was tried where trees were made until now
            self._known[way, place] = False

    def beside(self) -> bool:
        """Whether trees are made in the state directory."""

        def attempt() -> bool:
            with new_area(self._state) as area:
                return can_rename(area, self._root)

        return self._once(Way.BESIDE, self._state, attempt)

    def moves(self, spares: Spares, area: int) -> bool:
        """Whether spares can be moved from there to ``area``; False, and not known, until there are any."""

        def attempt() -> bool:
            # The other way: what a kill leaves there is removed by who makes the next spare.
            with held(os.open(spares.directory, DIRECTORY)) as directory:
                return can_rename(area, directory)

        return self._once(Way.MOVES, spares.directory, attempt)

    def shares(self, layer: Layer, directory: int, pack: int | None = None) -> bool:
        """Whether new files in ``directory`` can share blocks with packs of that layer, as of ``pack``.

        Without an open one, False, and not known, while none can be seen.
        """
        with contextlib.ExitStack() as stack:

            def attempt() -> bool:
                source = pack if pack is not None else stack.enter_context(held(_any_pack(layer)))
                return shares_blocks(source, directory)

            return self._once(Way.CLONES, self._state, lambda: _clones(directory)) and self._once(
                Way.SHARES, layer.directory, attempt
            )

    def _once(self, way: Way, place: Path, attempt: Callable[[], bool]) -> bool:
        with self._lock:
            if (way, place) not in self._known:
                try:
                    self._known[way, place] = attempt()
                except OSError:
                    return False
            return self._known[way, place]


@contextlib.contextmanager
def new_area(beside: Path) -> Iterator[int]:
    """An empty directory for one placing or trial; whatever is in it at the end goes. Raises OSError."""
    name = f"{AREA}-{secrets.token_hex(8)}"
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


def discard_litter(beside: Path) -> None:
    """What killed ones have left there is trash from here on; before anything else is made there."""
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        held(os.open(beside, DIRECTORY)) as above,
        left_where_read_only(),
    ):
        for name in os.listdir(above):
            if name.startswith(f"{AREA}-"):
                os.rename(name, trash_name(), src_dir_fd=above, dst_dir_fd=above)


def _any_pack(layer: Layer) -> int:
    for path in layer.directory.glob(f"*{SUFFIX}"):
        return os.open(path, _READ)
    raise FileNotFoundError(errno.ENOENT, "no pack can be seen there", str(layer.directory))


def _clones(directory: int) -> bool:
    with held(nameless(directory)) as source:
        os.write(source, bytes(PAGE))
        return shares_blocks(source, directory)
