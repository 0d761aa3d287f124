"""Many users' workspaces, for a program that serves them: each a session of one data directory.

Every call takes a user id, and another user's session does not exist for it (NotFound).
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from orchestrator.backends import Backend, Host, Properties
from orchestrator.backends.installed import InstalledBackends
from orchestrator.directories import private_directory
from orchestrator.environments import PersistentPathManager
from orchestrator.launch import Observer, Stage, launch
from orchestrator.paths import DEFAULT_USER, user_id
from orchestrator.ports import DEV_PORTS, Wish
from orchestrator.records import Records, SessionRecord
from orchestrator.resume import resume
from orchestrator.sessions import PortWishes, Seen, Sessions
from orchestrator.substitution import with_values
from orchestrator.templates import Source, find_source, template_roots
from orchestrator.toolchain import ToolchainError, find_toolchain
from orchestrator.workspace.asynchronous import AsyncWorkspace
from orchestrator.workspace.places import Reached
from protocol.routes import DEFAULT_DEV_PORT
from protocol.template_variables import Value


class Quiet:
    """An observer that tells nobody."""

    def began(self, stage: Stage) -> None:
        """Nothing."""

    def said(self, stage: Stage, text: str) -> None:
        """Nothing."""

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        """Nothing."""

    def skipped(self, stage: Stage, note: str) -> None:
        """Nothing."""

    def remark(self, text: str) -> None:
        """Nothing."""


class WorkspaceHost:
    """The workspaces of one data directory. Costs nothing until one is made.

    A program that stays uses it as a context manager: entering puts in order what a program that was killed
    left half way, and what is asked often is quicker inside.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        prefork: bool | None = None,
    ) -> None:
        """``data_dir``: DATA_DIR, else this environment's own, when left out.

        ``environ`` is os.environ unless given; backends find their settings in it. ``directory`` is where
        ``./templates`` and relative paths start: the current one unless given. ``prefork``: the local backend
        forks its tool servers from one that is loaded, for a program that begins many sessions; as
        WORKSPACE_PREFORK says when left out.
        """
        self._environ = dict(os.environ if environ is None else environ)
        if prefork is not None:
            self._environ["WORKSPACE_PREFORK"] = str(int(prefork))
        self._directory = Path.cwd() if directory is None else Path(directory).absolute()
        chosen = None if data_dir is None else Path(data_dir)
        self.paths = PersistentPathManager.from_env(self._environ, self._directory, chosen)
        self._opening = asyncio.Lock()
        self._sessions: Sessions | None = None
        self._backends: Mapping[str, Backend] = {}

    async def __aenter__(self) -> Self:
        await (await self.sessions()).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the registry. Sessions run on: closing their workspaces, or ``stop``, ends them."""
        if self._sessions is not None:
            await self._sessions.__aexit__(None, None, None)

    async def sessions(self) -> Sessions:
        """What all of it is made of, for whatever is not offered here."""
        async with self._opening:
            if self._sessions is None:
                self._sessions = await asyncio.to_thread(self._opened)
            return self._sessions

    async def create(
        self,
        template: str,
        *,
        user: str = DEFAULT_USER,
        backend: str = "local",
        keep_files: bool = True,
        observer: Observer | None = None,
        variables: Mapping[str, Value] = MappingProxyType({}),
    ) -> HostedWorkspace:
        """A running workspace from a template's name, a directory (a copy of it) or a save.

        ``variables``: what the template's own get, as text or as themselves; the others keep their defaults.
        Its dev server answers when this returns, if it has one. ``close`` ends its session; the files are
        kept in the data directory unless ``keep_files`` is false. Raises what ``workspace up`` would say.
        """
        person, sessions = user_id(user), await self.sessions()
        source = await asyncio.to_thread(self._source, template, variables)
        ready = await launch(sessions, person, source, _wishes(source), observer or Quiet(), backend)
        place = _Hosted(self, sessions, ready.record, ends=True)
        place.keep_files, place.has_page = keep_files, ready.preview_url is not None
        return HostedWorkspace(place)

    async def open(self, session: str, *, user: str = DEFAULT_USER) -> HostedWorkspace:
        """A session that runs, whoever began it. ``close`` leaves it running; ``stop`` ends it."""
        person, sessions = user_id(user), await self.sessions()
        record = await sessions.find(person, session)
        return HostedWorkspace(_Hosted(self, sessions, record, ends=False))

    async def list(self, *, user: str = DEFAULT_USER, stopped: bool = False) -> builtins.list[Seen]:
        """The user's sessions, oldest first; with ``stopped``, those that are over too."""
        return await (await self.sessions()).list(user_id(user), stopped=stopped)

    async def stop(self, session: str, *, user: str = DEFAULT_USER, keep_files: bool = True) -> None:
        """End a session and everything that runs in it."""
        person, sessions = user_id(user), await self.sessions()
        await sessions.end(await sessions.find(person, session), keep_files=keep_files)

    def properties(self, backend: str) -> Properties:
        """What that backend keeps apart on this machine. After the first ``sessions()``."""
        return self._backends[backend].properties

    def _opened(self) -> Sessions:
        self._backends = InstalledBackends(Host(self.paths, self._environ, self._tools()))
        return Sessions(self.paths, Records(self.paths.db_path("sessions")), self._backends)

    def _tools(self) -> Path | None:
        """Node, npm and ripgrep for the local backend; None when this machine has none: some need none."""
        try:
            toolchain = find_toolchain(self._environ)
        except ToolchainError:
            return None
        return toolchain.make_bin(private_directory(self.paths.tools_dir))

    def source(self, template: str) -> Source:
        """What ``create`` makes a workspace of. Blocks."""
        return find_source(template, template_roots(self._directory), self._directory)

    def _source(self, template: str, variables: Mapping[str, Value]) -> Source:
        return with_values(self.source(template), variables)


class HostedWorkspace(AsyncWorkspace):
    """A workspace that is a session. Made by ``WorkspaceHost`` only."""

    def __init__(self, place: _Hosted) -> None:
        super().__init__(place)
        self.hosted = place

    @property
    def session_id(self) -> str:
        """Its session; the same one after a pause."""
        return self.hosted.record.session_id

    @property
    def user(self) -> str:
        """Whose it is."""
        return self.hosted.record.user_id


async def create_alone(
    template: str, *, backend: str, user: str, data_dir: str | os.PathLike[str] | None, keep_files: bool
) -> HostedWorkspace:
    """One workspace, and a host for it that is closed with it."""
    host = WorkspaceHost(data_dir)
    try:
        workspace = await host.create(template, backend=backend, user=user, keep_files=keep_files)
    except BaseException:
        await host.close()
        raise
    workspace.hosted.is_only_one = True
    return workspace


class _Hosted:
    """The place of a workspace that is a session."""

    def __init__(self, host: WorkspaceHost, sessions: Sessions, record: SessionRecord, ends: bool) -> None:
        self._host = host
        self._sessions = sessions
        self.record = record
        self._ends = ends
        """Whether closing ends the session, or only lets go of it."""
        self.keep_files = True
        self.is_only_one = False
        """Nobody else uses the host, so it is closed too."""
        self.has_page = True
        """Its dev server answered when it was brought up; taken for granted of one that another began."""
        self._paused = False

    @property
    def roots(self) -> tuple[str, ...]:
        """Where the local backend has it. ``/app`` and ``/workspace`` mean the root on every backend."""
        directory = self._host.paths.workspace_dir(self.record.user_id, self.record.session_id)
        return (str(directory), str(directory.resolve()))

    @property
    def properties(self) -> Properties:
        """Those of its backend."""
        return self._host.properties(self.record.backend)

    @property
    def preview_url(self) -> str | None:
        """As seen from this machine; None when it has no dev server."""
        return f"{self._sessions.dev_server(self.record).url}/" if self.has_page else None

    async def open(self) -> Reached:
        """Its tool server; a paused session is started again first, on its files or its latest save."""
        if self._paused:
            before = self.record
            resumed = await resume(self._sessions, before.user_id, before.session_id, Quiet())
            self.record, self._paused = resumed.record, False
            self.has_page = resumed.preview_url is not None
        endpoint = self._sessions.tool_server(self.record)
        return Reached(endpoint.url, self.record.token, endpoint.headers)

    async def pause(self) -> None:
        """The session ends, and its files are kept."""
        if not self._paused:
            await self._sessions.end(self.record, keep_files=True)
            self._paused = True

    async def close(self) -> None:
        """End the session; one that is only looked at goes on."""
        if self._ends and not (self._paused and self.keep_files):
            await self._sessions.end(self.record, keep_files=self.keep_files)
        self._ends = False
        if self.is_only_one:
            await self._host.close()


def _wishes(source: Source) -> PortWishes:
    """Any free ports, of which the dev server's is the template's if it can be had."""
    return PortWishes(tool=Wish(0), dev=Wish(source.template.port or DEFAULT_DEV_PORT, DEV_PORTS))
