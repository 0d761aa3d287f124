"""Which request touches which paths now: so that its changes can be told from what others did."""

from __future__ import annotations

from protocol.paths import is_within
from toolserver.system.tree_index import Change


class Marks:
    """Which request touches which paths now: so that what follows can be told from what others did."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, ...]] = {}
        self._over: dict[str, tuple[str, ...]] = {}
        """Requests that are done, while what they did is still to be told."""

    @property
    def any_open(self) -> bool:
        """Whether a request is at it."""
        return bool(self._open)

    def begin(self, request_id: str, paths: tuple[str, ...]) -> None:
        """The request is about to touch these and what is below them; ``"."`` is the root."""
        self._open[request_id] = paths

    def end(self, request_id: str) -> None:
        """It is done; what it did is told by the next look."""
        self._over[request_id] = self._open.pop(request_id, ())

    def forget(self) -> None:
        """What those did that are done has been told."""
        self._over.clear()

    def request_of(self, change: Change) -> str | None:
        """The request that touched it, the newest if there are several."""
        paths = [path for path in (change.path, change.source) if path is not None]
        for request_id, touched in reversed([*self._over.items(), *self._open.items()]):
            if any(is_within(path, touched) for path in paths):
                return request_id
        return None
