"""Where a workspace is: in a directory of the host, or in a sandbox of a session. One small interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.backends import Properties


@dataclass(frozen=True)
class Reached:
    """A tool server that answers, and how."""

    url: str
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class Place(Protocol):
    """What a workspace lives in. Not for several tasks at once: the workspace sees to that."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The workspace's root as an absolute path, in every spelling that callers know."""

    @property
    def properties(self) -> Properties:
        """What is kept apart from what."""

    @property
    def preview_url(self) -> str | None:
        """Where its dev server answers, once one runs; None when it can have none."""

    async def open(self) -> Reached:
        """A tool server for it: the one that runs, or a new one."""

    async def pause(self) -> None:
        """End everything that runs, and keep every file. ``open`` goes on from there."""

    async def close(self) -> None:
        """End everything. Bounded in time; twice is no error."""
