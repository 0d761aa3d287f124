"""What the author of a tool builds on: paths that were checked, and refusals in the form of everybody's.

A tool takes the caller's path through ``clean_path`` or ``resolve_path`` and never puts one together itself;
so no tool needs to know which provider it runs on. Touches no disk.

    class WordCount(WorkspaceTool):
        def run(self, path: str) -> int | ErrorBody:
            try:
                where = self.clean_path(path)
            except ToolError as error:
                return self.fail_response(error)
            ...
"""

from __future__ import annotations

from typing import Any

from orchestrator.workspace_config import GuestPath, WorkspaceConfig, project_id
from protocol.errors import ErrorBody, Internal, InvalidRequest, ToolError
from protocol.paths import WorkspacePath


class WorkspaceTool:
    """A tool at work for one project. Raises InvalidRequest for an id that is none."""

    def __init__(self, config: WorkspaceConfig, project: str) -> None:
        self.config = config
        self.project = project_id(project)

    @property
    def workspace_path(self) -> GuestPath:
        """The workspace, as the provider lays it out; several projects may share it."""
        return self.config.get_project_workspace_path(self.project)

    @property
    def project_directory(self) -> GuestPath:
        """The project's own directory, where its relative paths start."""
        return self.config.get_project_directory_path(self.project)

    def clean_path(self, path: str) -> WorkspacePath:
        """``path`` relative to the project's directory, in normal form: what operations take.

        Raises OutsideWorkspace or InvalidRequest.
        """
        return self.config.normalize_path(path, self.project)

    def resolve_path(self, path: str) -> GuestPath:
        """The absolute path: what a command's arguments take. Raises as ``clean_path`` does."""
        return self.config.resolve_path(path, self.project)

    def is_path_safe(self, path: str) -> bool:
        """Whether ``clean_path`` takes it."""
        return self.config.is_path_safe(path, self.project)

    def fail_response(self, reason: str | Exception, **details: Any) -> ErrorBody:
        """A refusal to answer with. A sentence tells of the request; a ToolError keeps its code and details.

        Any other exception is ours, and its text, which may hold what is nobody's business, stays here.

        >>> tool = WorkspaceTool(WorkspaceConfig.for_provider("docker"), "p")
        >>> tool.fail_response("there is no line 9; the file has 4", line=9).code
        'invalid_request'
        >>> tool.fail_response(KeyError("password")).message
        'WorkspaceTool failed: KeyError'
        """
        if isinstance(reason, str):
            return InvalidRequest(reason, **details).body()
        if isinstance(reason, ToolError):
            return reason.body()
        return Internal(f"{type(self).__name__} failed: {type(reason).__name__}", **details).body()
