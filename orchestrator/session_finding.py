"""Sessions: which there are, whether they live, how they are reached and saved. Starts and ends nothing.

Every question names a user; another user's session is not there.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends import Backend, Endpoint, GuestState, guest_id
from orchestrator.leasing import Leasing
from orchestrator.paths import PathManager, UserId
from orchestrator.records import LIVE, Records, SessionRecord, WorkspaceRecord
from orchestrator.save_store import SaveStore
from orchestrator.saves import format_of
from orchestrator.saving import Saved, keep_save, save_to
from orchestrator.session_values import Seen
from protocol.errors import (
    InvalidRequest,
    NotFound,
    ToolError,
    Unavailable,
)

if TYPE_CHECKING:
    from orchestrator.client import Client


class Finding:
    """The part of ``Sessions`` that looks and asks."""

    def __init__(
        self,
        paths: PathManager,
        records: Records,
        backends: Mapping[str, Backend],
        *,
        leasing: Leasing | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._paths = paths
        self._records = records
        self._backends = backends
        self._leasing = leasing or Leasing(records)
        self._now = now
        self._stays = contextlib.ExitStack()

    @property
    def data_dir(self) -> Path:
        """Where all of it lies."""
        return self._paths.base_dir

    @property
    def paths(self) -> PathManager:
        """Where what lies."""
        return self._paths

    def keeps_files(self, record: SessionRecord) -> bool:
        """Whether the session's files stay when it ends; else only its saves do."""
        return self._backends[record.backend].properties.keeps_files

    async def get(self, user: UserId, session_id: str) -> SessionRecord:
        """The user's session. Raises NotFound, also for another user's."""
        return await asyncio.to_thread(self._records.get, user, session_id)

    async def workspaces(self, user: UserId) -> builtins.list[WorkspaceRecord]:
        """The user's workspaces, oldest first."""
        return await asyncio.to_thread(self._records.workspaces, user)

    async def list(self, user: UserId, *, stopped: bool = False) -> builtins.list[Seen]:
        """The user's sessions, oldest first. Those of a backend that cannot be asked are ``unknown``."""
        records = await asyncio.to_thread(self._records.list, user, stopped=stopped)
        names = sorted({record.backend for record in records})
        answers = await asyncio.gather(*map(self._running, names))
        running = dict(zip(names, answers, strict=True))
        return [as_seen(record, running[record.backend]) for record in records]

    async def running(self) -> builtins.list[SessionRecord]:
        """Everybody's sessions that are ready, and whose sandbox runs."""
        records = await asyncio.to_thread(self._records.running)
        names = sorted({record.backend for record in records})
        running = dict(zip(names, await asyncio.gather(*map(self._running, names)), strict=True))
        return [each for each in records if as_seen(each, running[each.backend]).alive]

    async def find(self, user: UserId, wanted: str | None) -> SessionRecord:
        """The session ``wanted``, by its id or the last part of it; without a name the only one that runs."""
        seen = await self.list(user, stopped=wanted is not None)
        if wanted is None:
            return _the_only_one(seen)
        exact = [each.record for each in seen if each.record.session_id == wanted]
        ending = [each.record for each in seen if each.record.session_id.endswith(f"_{wanted}")]
        if len(exact or ending) != 1:
            shown = wanted[:200]
            raise NotFound(
                f"no session {shown!r}; `workspace ls --all` shows which there are", sessionId=shown
            )
        return (exact or ending)[0]

    def tool_server(self, record: SessionRecord) -> Endpoint:
        """Where its tool server is reached from here."""
        return self._endpoint(record, record.tool_port)

    def dev_server(self, record: SessionRecord) -> Endpoint:
        """Where its dev server is reached from here."""
        return self._endpoint(record, record.dev_port)

    def client(self, record: SessionRecord) -> AbstractAsyncContextManager[Client]:
        """A client of its tool server."""
        if record.state not in LIVE:
            raise Unavailable(
                f"{record.session_id} is {record.state.value}; "
                f"start it again by `workspace resume {record.session_id}`",
                sessionId=record.session_id,
            )
        # websockets is a third of what a command costs to start, and most commands only look.
        from orchestrator.client import open_client

        endpoint = self.tool_server(record)
        return open_client(endpoint.url, record.token, endpoint.headers)

    async def save(
        self,
        record: SessionRecord,
        target: Path | None = None,
        *,
        with_history: bool = False,
        replaces: str | None = None,
    ) -> Saved:
        """Write the workspace's content to ``target``; with none, keep it as the workspace's newest save.

        ``with_history`` is for one that is kept: ``.git`` is in it too. ``replaces`` names an earlier save
        that goes once this one was read back.

        Raises ArchiveInvalid when what is read back is not what was packed: then older saves stay.
        """
        if target is not None and not await asyncio.to_thread(target.parent.is_dir):
            raise InvalidRequest(f"there is no directory {str(target.parent)!r}; make it first")
        form = format_of(target) if target else None
        store = SaveStore(self._paths)
        async with self.client(record) as client:
            if target is None or form is None:
                return await keep_save(client, store, record, with_history=with_history, replaces=replaces)
            return await save_to(client, target, form)

    async def remove_log(self, record: SessionRecord) -> None:
        """For good: whoever removes a workspace's files wants nothing of it left."""
        await asyncio.to_thread(self.log_path(record).unlink, missing_ok=True)

    def log_path(self, record: SessionRecord) -> Path:
        """The daemon's log, on backends that write one here."""
        return self._paths.log_path(record.user_id, record.session_id)

    async def _seen(self, record: SessionRecord) -> Seen:
        return as_seen(record, await self._running(record.backend))

    async def _running(self, backend: str) -> frozenset[str] | str:
        """The ids of its sandboxes that run, or why it could not be asked."""
        try:
            guests = await self._backends[backend].guests()
        except ToolError as error:
            return error.message
        return frozenset(guest.id for guest in guests if guest.state is GuestState.RUNNING)

    def _endpoint(self, record: SessionRecord, port: int) -> Endpoint:
        if record.guest is None:
            raise Unavailable(
                f"{record.session_id} has no sandbox yet; wait a moment", sessionId=record.session_id
            )
        return self._backends[record.backend].endpoint(record.guest, port)

    async def _forget(self, record: SessionRecord) -> None:
        keep = await asyncio.to_thread(self._has_saves, record)
        await asyncio.to_thread(self._records.remove, record.session_id, keep_workspace=keep)
        self._leasing.dropped(record.session_id)

    def _has_saves(self, record: SessionRecord) -> bool:
        directory = self._paths.saves_dir(record.user_id, record.workspace_id)
        return directory.is_dir() and any(not each.name.startswith(".") for each in directory.iterdir())


def as_seen(record: SessionRecord, running: frozenset[str] | str) -> Seen:
    """By the sandboxes that run, or by why nobody knows."""
    if isinstance(running, str):
        return Seen(record, alive=False, unknown=running)
    return Seen(record, sandbox_of(record) in running)


def sandbox_of(record: SessionRecord) -> str:
    """The id of its sandbox, whether there is one or not."""
    return guest_id(record.user_id, record.session_id)


def _the_only_one(seen: list[Seen]) -> SessionRecord:
    running = [each.record for each in seen if each.alive]
    if len(running) > 1:
        names = ", ".join(record.session_id for record in running)
        raise InvalidRequest(f"{len(running)} sessions run: say which of {names}")
    if running:
        return running[0]
    if dead := [each.record.session_id for each in seen if each.state == "dead"]:
        raise NotFound(
            f"no session runs; {dead[-1]} is dead, start it again by `workspace resume {dead[-1]}`"
        )
    raise NotFound("no session runs; start one by `workspace up TEMPLATE`")
