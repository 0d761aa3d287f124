"""The host side: where workspaces run, whose they are, and what they may do.

``from orchestrator import LocalWorkspace`` and the like find ``orchestrator.workspace`` when they are asked
for; importing this package loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.workspace import AsyncLocalWorkspace as AsyncLocalWorkspace
    from orchestrator.workspace import AsyncWorkspace as AsyncWorkspace
    from orchestrator.workspace import LocalWorkspace as LocalWorkspace
    from orchestrator.workspace import Workspace as Workspace
    from orchestrator.workspace import WorkspaceHost as WorkspaceHost

__all__ = ["AsyncLocalWorkspace", "AsyncWorkspace", "LocalWorkspace", "Workspace", "WorkspaceHost"]


def __getattr__(name: str) -> Any:
    """The workspace classes, loaded by the first who names one."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import workspace

    return getattr(workspace, name)
