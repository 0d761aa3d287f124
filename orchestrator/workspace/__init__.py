"""A workspace as a Python object: commands, files and git, blocking or awaited.

    from orchestrator import LocalWorkspace

    with LocalWorkspace(working_dir="project") as workspace:
        workspace.write("notes.md", "# Notes")
        print(workspace.execute_command("wc -c notes.md", timeout=2.5).stdout)

``AsyncLocalWorkspace`` and ``AsyncWorkspace`` are the real ones, ``LocalWorkspace`` and ``Workspace`` run
them on a thread; ``WorkspaceHost`` serves many users. docs/python.md has all of it, with examples that run.
"""

from orchestrator.workspace.asynchronous import AsyncWorkspace
from orchestrator.workspace.blocking import LocalWorkspace, Workspace
from orchestrator.workspace.host import HostedWorkspace, WorkspaceHost
from orchestrator.workspace.local import AsyncLocalWorkspace
from orchestrator.workspace.results import (
    CommandResult,
    FileOperationResult,
    GitChange,
    GitChangeStatus,
    GitDiff,
)

__all__ = [
    "AsyncLocalWorkspace",
    "AsyncWorkspace",
    "CommandResult",
    "FileOperationResult",
    "GitChange",
    "GitChangeStatus",
    "GitDiff",
    "HostedWorkspace",
    "LocalWorkspace",
    "Workspace",
    "WorkspaceHost",
]
