"""Before a request of ours changes paths, what they are is kept; so that it can be taken back.

Keeping is never in the way: what cannot be kept, because it is too much or the disk is full, is told in the
log and in the list of checkpoints, and the request goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from protocol.errors import Conflict, NotFound, ToolError
from protocol.limits import Limits
from protocol.paths import ROOT, WorkspacePath
from toolserver.system.capture import Capture, TooMuch, glance, real_place
from toolserver.system.checkpoint_store import Point, Store
from toolserver.system.confinement import unconfined
from toolserver.system.disk import Disk
from toolserver.system.past import ABSENT, Identity, State, directories_above, left_alone, same, untouched

log = logging.getLogger("toolserver.checkpoints")
_NAMED_PATHS = 20
TOO_MUCH = "the old content was too much to be kept (maxUndoBytes, maxUndoEntries)"


class Keeping(Protocol):
    """``Undoing.kept``, for who changes files."""

    def __call__(
        self, request: str, cause: str, *paths: WorkspacePath, deep: bool = False, lands: bool = False
    ) -> AbstractContextManager[None]:
        """The context in which the paths change."""


class Undoing:
    """What the operations that change files go through. Methods block."""

    def __init__(self, disk: Disk, store: Store, limits: Limits) -> None:
        self._disk = disk
        self._store = store
        self._limits = limits
        self.known: Callable[[], Mapping[tuple[Identity, int], bytes]] = dict
        """Contents by identity, of who has looked at the tree already."""

    @contextlib.contextmanager
    def kept(
        self, request: str, cause: str, *paths: WorkspacePath, deep: bool = False, lands: bool = False
    ) -> Iterator[None]:
        """Around the change of ``paths``; with ``deep``, of all below them. What fails is forgotten.

        ``lands``: the first path, which may be a tree, comes to the last. A link at the end of a path counts
        as itself: resolve it first when it is to be followed.
        """
        number = self._begun(request, cause, paths, deep, lands)
        try:
            yield
        except BaseException:
            if number is not None:
                self._quietly(self._store.forget, number)
            raise
        if number is not None:
            self._quietly(self._settled, number)

    def _begun(
        self, request: str, cause: str, paths: Sequence[WorkspacePath], deep: bool, lands: bool
    ) -> int | None:
        try:
            with unconfined(), self._store.capturing():
                return self._keep(request, cause, paths, deep, lands)
        except (ToolError, OSError) as error:
            log.warning("an old state is not kept", extra={"data": {"cause": cause, "reason": str(error)}})
            return None

    def _keep(
        self, request: str, cause: str, paths: Sequence[WorkspacePath], deep: bool, lands: bool
    ) -> int | None:
        capture = self.capture(bounded=True)
        if deep:
            capture.known = self.known()
        befores: dict[str, State] = {}
        try:
            changing = paths[1:] if cause == "copy" else paths
            for path in changing:
                befores |= self._before(capture, real_place(self._disk, path), deep)
            if lands:
                befores |= self._landing(capture, paths[0], paths[-1], befores)
            capture.flush()
        except TooMuch:
            return self._store.add_partial(cause, request, {}, unkept=TOO_MUCH)
        if not befores:
            return None
        return self._store.add_partial(
            cause, request, befores, stored=capture.stored, unkept=told_unkept(befores)
        )

    def capture(self, *, bounded: bool = False) -> Capture:
        """A look at the disk, which keeps what it reads."""
        limits = self._limits
        return Capture(
            self._disk,
            self._store,
            limits.max_checkpoint_file_bytes,
            limits.max_undo_bytes if bounded else None,
            limits.max_undo_entries if bounded else None,
        )

    def _before(self, capture: Capture, path: str, deep: bool) -> dict[str, State]:
        if path == ROOT:
            return {}
        found = capture.below(path) if deep else {path: capture.state(path)}
        if not found[path].exists:
            # What is made on the way there goes again with it.
            above = {each: glance(self._disk, each) for each in directories_above(path)}
            found |= {each: state for each, state in above.items() if not state.exists}
        return found

    def _landing(
        self, capture: Capture, path: WorkspacePath, to: WorkspacePath, befores: Mapping[str, State]
    ) -> dict[str, State]:
        """What will be where a tree lands, and is not there yet."""
        source, target = real_place(self._disk, path), real_place(self._disk, to)
        names = capture.below(source, content=False)
        places = (f"{target}{each[len(source) :]}" for each in names)
        return {place: ABSENT for place in places if place not in befores}

    def _settled(self, number: int) -> None:
        with unconfined():
            self.settle(number, self._store.befores(number))

    def settle(self, number: int, befores: Mapping[str, State]) -> None:
        """The change has happened: note what these paths are now, and make room for the next."""
        afters = {path: glance(self._disk, path) for path in befores}
        if befores and all(untouched(before, afters[path]) for path, before in befores.items()):
            self._store.forget(number)  # it has changed nothing
            return
        self._store.settle(number, afters)
        if self._store.is_over():
            self._store.shrink()

    def _quietly(self, act: Callable[[int], None], number: int) -> None:
        try:
            act(number)
        except ToolError as error:
            log.warning("what a request did is not kept", extra={"data": {"reason": error.message}})

    # ---- which one comes next

    def last(self) -> Point:
        """The newest request that can be taken back. Raises NotFound, Conflict."""
        for point in reversed(self._store.points()):
            if not point.whole and point.cause not in ("undo", "redo") and not point.undone:
                return _refused_unless_kept(point)
        raise NotFound("there is nothing to undo: no request has changed files, or none is kept any more")

    def last_undo(self) -> Point:
        """The newest undo that nothing was built upon. Raises NotFound."""
        for point in reversed(self._store.points()):
            if point.whole or point.cause == "redo" or point.undone:
                continue
            if point.cause == "undo":
                return point
            break
        raise NotFound("there is nothing to redo: nothing was undone since the last edit")

    def refuse_touched(self, point: Point, states: Mapping[str, State]) -> None:
        """Raise Conflict when others have touched these paths since; ``states`` are what they are now."""
        touched = sorted(path for path, state in states.items() if self._is_touched(path, point.id, state))
        if touched:
            named = ", ".join(map(repr, touched[:_NAMED_PATHS]))
            raise Conflict(
                f"{named} changed since by other means than this tool server's requests; look at "
                "'checkpoint_diff', or say 'force'",
                paths=touched[:_NAMED_PATHS],
                count=len(touched),
            )

    def _is_touched(self, path: str, number: int, now: State) -> bool:
        touches = self._store.touches(path, number)
        for one, other in itertools.pairwise(touches):
            if one.after is not None and not left_alone(one.after, other.before):
                return True
        last = touches[-1].after if touches else None
        return last is not None and not untouched(last, now) and not same(last, now)


def told_unkept(states: Mapping[str, State]) -> str | None:
    """A sentence on what is not kept of these; None when all is."""
    unkept = sum(state.is_unkept for state in states.values())
    return f"{unkept} files are too large, or closed to the tool server" if unkept else None


def _refused_unless_kept(point: Point) -> Point:
    if point.unkept == TOO_MUCH:
        raise Conflict(
            f"the last request ({point.cause}) cannot be undone: {TOO_MUCH}; "
            "'rollback' goes to a checkpoint before it",
            checkpoint=str(point.id),
        )
    return point
