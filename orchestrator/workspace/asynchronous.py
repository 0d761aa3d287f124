"""A workspace, awaited: commands, files and git, each with one method, on top of the tool server's client.

Here is only what each method takes and hands back: its connection and its life are in ``connected``, how a
file or an output comes whole in ``raw`` and ``output``, what git says in ``repository``.
"""

from __future__ import annotations

import asyncio
import builtins
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.workspace import output, raw, repository
from orchestrator.workspace.connected import Connected
from orchestrator.workspace.results import CommandResult, FileOperationResult, GitChange, GitDiff
from protocol.errors import InvalidRequest
from protocol.messages.base import Answer, Encoding, Request
from protocol.messages.commands import Command
from protocol.messages.edits import EditAnswer
from protocol.messages.files import Kind, ListAnswer, ReadAnswer, WriteAnswer
from protocol.messages.search import PatternKind, SearchAnswer
from protocol.paths import workspace_path

HostPath = str | os.PathLike[str]
"""A path on this machine."""
WorkPath = str | os.PathLike[str]
"""A path in the workspace: relative to its root, or absolute below it."""

COMMAND_SECONDS = 30.0
"""A command that names no timeout. Users of other workspaces expect half a minute."""
_NO_LIMIT_MS = 2**31 - 1
"""24 days. The tool server's own default of ten minutes would end what was asked to have no limit."""


class AsyncWorkspace(Connected):
    """One workspace. Every method raises the protocol's own errors (``protocol.errors``).

    Paths in it start at its root; an absolute one is taken when it lies below the root.
    """

    @classmethod
    async def create(
        cls,
        template: str,
        *,
        backend: str = "local",
        user: str = "default",
        data_dir: HostPath | None = None,
        keep_files: bool = True,
    ) -> AsyncWorkspace:
        """A running session from a template's name, a directory (a copy of it) or a save.

        Its dev server answers when this returns, if it has one. ``close`` ends the session; the files stay in
        the data directory unless ``keep_files`` is false. For many users, keep one ``WorkspaceHost``.
        """
        from orchestrator.workspace.host import create_alone

        return await create_alone(
            template, backend=backend, user=user, data_dir=data_dir, keep_files=keep_files
        )

    # -- commands ---------------------------------------------------------------------------------------

    async def execute_command(
        self,
        command: str,
        cwd: WorkPath | None = None,
        timeout: float | None = COMMAND_SECONDS,
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> CommandResult:
        """Run a line of bash to its end, in ``cwd`` (the root), at most ``timeout`` seconds (None: no limit).

        A command that the clock ended comes back with what it had written, and ``timeout_occurred``.
        Raises OutsideWorkspace for a ``cwd`` that leaves the workspace, NotFound for one that is not there.
        """
        request = Command(
            command=command,
            cwd=self.path("." if cwd is None else cwd),
            timeout_ms=milliseconds(timeout),
            env=dict(env or {}),
            stdin=stdin,
            encoding=Encoding.BASE64,
        )
        answer, stdout, stderr = await output.collected(await self.connect(), request)
        return CommandResult(
            command=command,
            exit_code=-1 if answer.exit_code is None else answer.exit_code,
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            timeout_occurred=answer.timed_out,
        )

    async def call(self, request: Request) -> Answer:
        """Ask for any operation, by its request."""
        return await (await self.connect()).call(request)

    # -- files ------------------------------------------------------------------------------------------

    async def file_upload(self, source_path: HostPath, destination_path: WorkPath) -> FileOperationResult:
        """Copy a file of this machine into the workspace: whole or not at all, and with its permission bits.

        A destination that is a directory, or ends with a slash, gets the file under its own name; what is
        missing above it is made.
        """
        source = Path(source_path)
        target = await self._target(os.fspath(destination_path), source.name)
        _, reached = await self._reach()
        answer = await raw.upload(reached, source, target)
        return FileOperationResult(str(source), answer.path, answer.size)

    async def file_download(self, source_path: WorkPath, destination_path: HostPath) -> FileOperationResult:
        """Copy a file of the workspace to this machine, by the same rules."""
        path = self.path(source_path)
        client, reached = await self._reach()
        entry = await client.stat(path=path)
        mode = entry.mode & 0o777 if entry.kind is Kind.FILE else 0o644
        target = await asyncio.to_thread(_host_target, os.fspath(destination_path), PurePosixPath(path).name)
        size = await raw.download(reached, path, target, mode)
        return FileOperationResult(path, str(target), size)

    async def read(
        self, path: WorkPath, start_line: int | None = None, end_line: int | None = None
    ) -> ReadAnswer:
        """A file of up to 10 MiB, or some lines of it, with its hash."""
        client = await self.connect()
        return await client.read(path=self.path(path), start_line=start_line, end_line=end_line)

    async def read_text(self, path: WorkPath) -> str:
        """A file's text; raises InvalidRequest when it is not UTF-8."""
        try:
            return (await self.read_bytes(path)).decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{os.fspath(path)!r} is not UTF-8 text; use read_bytes") from None

    async def read_bytes(self, path: WorkPath) -> bytes:
        """A file's bytes, of any size that memory takes."""
        _, reached = await self._reach()
        return await raw.content(reached, self.path(path))

    async def write(
        self, path: WorkPath, content: str | bytes, *, expected_hash: str | None = None
    ) -> WriteAnswer:
        """Create or replace a file of up to 10 MiB: whoever reads sees the old or the new, never half.

        With ``expected_hash`` it is refused (Conflict) unless the file has that hash; ``""``: must not exist.
        """
        client = await self.connect()
        text, encoding = output.encoded(content)
        return await client.write(
            path=self.path(path), content=text, encoding=encoding, expected_hash=expected_hash
        )

    async def edit(
        self,
        path: WorkPath,
        old_text: str,
        new_text: str,
        *,
        replace_all: bool = False,
        expected_hash: str | None = None,
    ) -> EditAnswer:
        """Replace the one place where ``old_text`` stands. Raises NoMatch, AmbiguousMatch with the lines."""
        client = await self.connect()
        return await client.edit(
            path=self.path(path),
            old_text=old_text,
            new_text=new_text,
            replace_all=replace_all,
            expected_hash=expected_hash,
        )

    async def search(
        self,
        pattern: str,
        path: WorkPath = ".",
        *,
        literal: bool = False,
        glob: Sequence[str] | str = (),
        max_matches: int | None = None,
    ) -> SearchAnswer:
        """Lines that match a regular expression, or hold a text. More options: ``client.search``."""
        client = await self.connect()
        return await client.search(
            pattern=pattern,
            path=self.path(path),
            kind=PatternKind.LITERAL if literal else PatternKind.REGEX,
            glob=glob if isinstance(glob, str) else list(glob),
            max_matches=max_matches,
        )

    async def list(self, path: WorkPath = ".", depth: int = 1) -> ListAnswer:
        """A directory's entries, ``depth`` levels down."""
        return await (await self.connect()).list(path=self.path(path), depth=depth)

    # -- git --------------------------------------------------------------------------------------------

    async def git_changes(self, path: WorkPath = ".") -> builtins.list[GitChange]:
        """What differs from the last commit below ``path``, untracked files too, sorted by path.

        Raises NotFound where there is no repository.
        """
        return await repository.changes(await self.connect(), self.path(path))

    async def git_diff(self, path: WorkPath) -> GitDiff:
        """A file as it is, and as the last commit has it. Of a moved file that is where it was then.

        Raises NotFound where there is no repository, and for a file that neither side has.
        """
        client, reached = await self._reach()
        return await repository.diff(client, reached, self.path(path))

    # -- what they share --------------------------------------------------------------------------------

    def path(self, given: WorkPath) -> str:
        """``given`` as a relative path in normal form; raises OutsideWorkspace, InvalidRequest."""
        text = os.fspath(given)
        for root in self._place.roots:
            if PurePosixPath(text).is_relative_to(root):
                return workspace_path(text, root)
        return workspace_path(text)

    async def _target(self, destination: str, name: str) -> str:
        """Where in the workspace a file called ``name`` goes."""
        path = self.path(destination)
        client = await self.connect()
        if destination.endswith("/") or path == "." or await repository.is_directory(client, path):
            if not name:
                raise InvalidRequest("the source has no name of its own; name a file")
            return self.path(f"{path}/{name}")
        return path


def milliseconds(seconds: float | None) -> int:
    """A timeout on the wire, rounded up; raises InvalidRequest.

    >>> milliseconds(0.25), milliseconds(0.0001), milliseconds(None)
    (250, 1, 2147483647)
    """
    if seconds is None:
        return _NO_LIMIT_MS
    if not seconds > 0:
        raise InvalidRequest(
            f"a timeout is a number of seconds above 0, or None, not {seconds!r}", field="timeout"
        )
    return min(_NO_LIMIT_MS, math.ceil(seconds * 1000)) if math.isfinite(seconds) else _NO_LIMIT_MS


def _host_target(destination: str, name: str) -> Path:
    path = Path(destination).expanduser()
    return path / name if destination.endswith(os.sep) or path.is_dir() else path
