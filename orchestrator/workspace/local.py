"""``AsyncLocalWorkspace``: a directory of this machine, worked on where it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.workspace.asynchronous import AsyncWorkspace
from orchestrator.workspace.inplace import InPlace, made_directory
from protocol.errors import InvalidRequest


class AsyncLocalWorkspace(AsyncWorkspace):
    """``working_dir`` as a workspace, in place: no copy is made, and closing removes nothing of it.

    Making one makes the directory and nothing else; the tool server starts with the first use. Nothing keeps
    its commands from the rest of what this user may do (``properties``): for people who should not trust each
    other, take sessions, by ``AsyncWorkspace.create`` or ``WorkspaceHost``.
    """

    def __init__(
        self,
        working_dir: str | os.PathLike[str] | None = None,
        *,
        base_dir: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``base_dir`` is another spelling of ``working_dir``.

        Commands get PATH, HOME, the language and proxies of this process, not the rest of its environment,
        which may hold keys; ``environment`` is added. Raises InvalidRequest for what is no directory.
        """
        directory = made_directory(one_of(working_dir, base_dir))
        super().__init__(InPlace(directory, os.environ, environment or {}))
        self.working_dir: Path = directory


def one_of(
    working_dir: str | os.PathLike[str] | None, base_dir: str | os.PathLike[str] | None
) -> str | os.PathLike[str]:
    """The one that was given; raises InvalidRequest unless exactly one was.

    >>> one_of("/w", None)
    '/w'
    """
    given = [each for each in (working_dir, base_dir) if each is not None and os.fspath(each)]
    if len(given) != 1:
        raise InvalidRequest("name one directory, by working_dir; base_dir is another name for it")
    return given[0]
