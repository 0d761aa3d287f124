"""The same workspace without ``await``: each method runs the asynchronous one to its end.

``Workspace`` and ``LocalWorkspace`` know nothing of their own; what a method does is said in
``asynchronous``. One that was not closed is closed when it is collected, or when the interpreter ends.
"""

from __future__ import annotations

import builtins
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.backends import Properties
from orchestrator.workspace.asynchronous import COMMAND_SECONDS, AsyncWorkspace, HostPath, WorkPath
from orchestrator.workspace.local import AsyncLocalWorkspace
from orchestrator.workspace.loop import LoopThread
from orchestrator.workspace.results import CommandResult, FileOperationResult, GitChange, GitDiff
from protocol.messages.base import Answer, Request
from protocol.messages.edits import EditAnswer
from protocol.messages.files import ListAnswer, ReadAnswer, WriteAnswer
from protocol.messages.search import SearchAnswer


class Workspace:
    """One workspace. A method's arguments, answers and errors are those of ``AsyncWorkspace``."""

    def __init__(self, workspace: AsyncWorkspace, thread: LoopThread | None = None) -> None:
        self._async = workspace
        self._thread = thread or LoopThread()
        self._closing = weakref.finalize(self, _close, self._thread, workspace)

    @classmethod
    def create(
        cls,
        template: str,
        *,
        backend: str = "local",
        user: str = "default",
        data_dir: HostPath | None = None,
        keep_files: bool = True,
    ) -> Workspace:
        """A running session from a template, a directory (a copy) or a save; ``close`` ends it."""
        thread = LoopThread()
        made = AsyncWorkspace.create(
            template, backend=backend, user=user, data_dir=data_dir, keep_files=keep_files
        )
        try:
            return Workspace(thread.run(made), thread)
        except BaseException:
            thread.close()
            raise

    def __enter__(self) -> Self:
        self._thread.run(self._async.connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that runs in it. Twice is no error."""
        self._closing()

    def pause(self) -> None:
        """End everything that runs in it, and keep every file."""
        self._thread.run(self._async.pause())

    def resume(self) -> None:
        """Go on after ``pause``."""
        self._thread.run(self._async.resume())

    @property
    def client(self) -> BlockingClient:
        """Every operation of the tool server: ``workspace.client.processes()``."""
        return BlockingClient(self._thread, self._async)

    @property
    def properties(self) -> Properties:
        """What is kept apart from what."""
        return self._async.properties

    @property
    def preview_url(self) -> str | None:
        """Where its dev server answers, once one runs."""
        return self._async.preview_url

    @property
    def session_id(self) -> str | None:
        """Its session; None when it is none, as in place."""
        return self._async.session_id

    def execute_command(
        self,
        command: str,
        cwd: WorkPath | None = None,
        timeout: float | None = COMMAND_SECONDS,
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> CommandResult:
        """Run a line of bash to its end, in ``cwd``, at most ``timeout`` seconds."""
        return self._thread.run(self._async.execute_command(command, cwd, timeout, env=env, stdin=stdin))

    def call(self, request: Request) -> Answer:
        """Ask for any operation, by its request."""
        return self._thread.run(self._async.call(request))

    def file_upload(self, source_path: HostPath, destination_path: WorkPath) -> FileOperationResult:
        """Copy a file of this machine into the workspace."""
        return self._thread.run(self._async.file_upload(source_path, destination_path))

    def file_download(self, source_path: WorkPath, destination_path: HostPath) -> FileOperationResult:
        """Copy a file of the workspace to this machine."""
        return self._thread.run(self._async.file_download(source_path, destination_path))

    def read(self, path: WorkPath, start_line: int | None = None, end_line: int | None = None) -> ReadAnswer:
        """A file, or some lines of it, with its hash."""
        return self._thread.run(self._async.read(path, start_line, end_line))

    def read_text(self, path: WorkPath) -> str:
        """A file's text."""
        return self._thread.run(self._async.read_text(path))

    def read_bytes(self, path: WorkPath) -> bytes:
        """A file's bytes."""
        return self._thread.run(self._async.read_bytes(path))

    def write(self, path: WorkPath, content: str | bytes, *, expected_hash: str | None = None) -> WriteAnswer:
        """Create or replace a file."""
        return self._thread.run(self._async.write(path, content, expected_hash=expected_hash))

    def edit(
        self,
        path: WorkPath,
        old_text: str,
        new_text: str,
        *,
        replace_all: bool = False,
        expected_hash: str | None = None,
    ) -> EditAnswer:
        """Replace the one place where ``old_text`` stands."""
        return self._thread.run(
            self._async.edit(path, old_text, new_text, replace_all=replace_all, expected_hash=expected_hash)
        )

    def search(
        self,
        pattern: str,
        path: WorkPath = ".",
        *,
        literal: bool = False,
        glob: Sequence[str] | str = (),
        max_matches: int | None = None,
    ) -> SearchAnswer:
        """Lines that match."""
        return self._thread.run(
            self._async.search(pattern, path, literal=literal, glob=glob, max_matches=max_matches)
        )

    def list(self, path: WorkPath = ".", depth: int = 1) -> ListAnswer:
        """A directory's entries."""
        return self._thread.run(self._async.list(path, depth))

    def git_changes(self, path: WorkPath = ".") -> builtins.list[GitChange]:
        """What differs from the last commit."""
        return self._thread.run(self._async.git_changes(path))

    def git_diff(self, path: WorkPath) -> GitDiff:
        """A file as it is, and as the last commit has it."""
        return self._thread.run(self._async.git_diff(path))


class LocalWorkspace(Workspace):
    """A directory of this machine, worked on where it is: see ``AsyncLocalWorkspace``.

    with LocalWorkspace(working_dir="/srv/project") as workspace:
        print(workspace.execute_command("ls", timeout=5).stdout)
    """

    def __init__(
        self,
        working_dir: str | os.PathLike[str] | None = None,
        *,
        base_dir: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``base_dir`` is another spelling of ``working_dir``."""
        local = AsyncLocalWorkspace(working_dir, base_dir=base_dir, environment=environment)
        super().__init__(local)
        self.working_dir: Path = local.working_dir


class BlockingClient:
    """The client's operations, each waited for; ``.stream`` is a context manager that is iterated."""

    def __init__(self, thread: LoopThread, workspace: AsyncWorkspace) -> None:
        self._thread = thread
        self._workspace = workspace

    def __getattr__(self, operation: str) -> BlockingVerb:
        return BlockingVerb(self._thread, self._workspace, operation)


class BlockingVerb:
    """One operation, to be called with its request's fields as keywords."""

    def __init__(self, thread: LoopThread, workspace: AsyncWorkspace, operation: str) -> None:
        self._thread = thread
        self._workspace = workspace
        self._operation = operation

    def __call__(self, **fields: Any) -> Any:
        """The operation's answer."""

        async def asked() -> Any:
            return await getattr(await self._workspace.connect(), self._operation)(**fields)

        return self._thread.run(asked())

    def stream(self, **fields: Any) -> BlockingStream:
        """The same, with its events."""

        async def asked() -> Any:
            return getattr(await self._workspace.connect(), self._operation).stream(**fields)

        return BlockingStream(self._thread, self._thread.run(asked()))


class BlockingStream:
    """One request under way. Leaving early cancels it on the tool server."""

    def __init__(self, thread: LoopThread, stream: Any) -> None:
        self._thread = thread
        self._stream = stream

    def __enter__(self) -> Self:
        self._thread.run(self._stream.__aenter__())
        return self

    def __exit__(self, *raised: Any) -> None:
        self._thread.run(self._stream.__aexit__(*raised))

    def __iter__(self) -> Iterator[Any]:
        while (event := self._thread.run(_next(self._stream))) is not None:
            yield event

    def result(self) -> Any:
        """The answer."""
        return self._thread.run(self._stream.result())


async def _next(stream: Any) -> Any:
    return await anext(stream, None)


def _close(thread: LoopThread, workspace: AsyncWorkspace) -> None:
    if thread.is_here():  # collected by the loop's own thread, which cannot wait for itself
        threading.Thread(target=_close, args=(thread, workspace), name="workspace-close").start()
        return
    try:
        if thread.started:
            thread.run(workspace.close())
    finally:
        thread.close()
