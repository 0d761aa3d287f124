"""Which backends there are: those that installed packages name, each opened when it is first asked for.

    [project.entry-points."workspace_core.backends"]
    mine = "my_package.backend:open_backend"

``open_backend`` takes a ``Host`` and gives a ``Backend``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from orchestrator.backends import Backend, Host
from protocol.errors import InvalidRequest

GROUP = "workspace_core.backends"


class InstalledBackends(Mapping[str, Backend]):
    """By name. Asking for one that is not there raises InvalidRequest, which lists those that are."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._named = backend_names()
        self._opened: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> Backend:
        if name not in self._opened:
            if name not in self._named:
                raise InvalidRequest(
                    f"there is no backend {name!r}; there are {', '.join(self)}", backend=name
                )
            open_backend: Callable[[Host], Backend] = self._named[name].load()
            self._opened[name] = open_backend(self._host)
        return self._opened[name]

    def __contains__(self, name: object) -> bool:
        return name in self._named

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._named))

    def __len__(self) -> int:
        return len(self._named)


def backend_names() -> dict[str, EntryPoint]:
    """Every installed backend, not yet imported."""
    return {point.name: point for point in entry_points(group=GROUP)}
