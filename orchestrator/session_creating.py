"""Sessions: created. A record, and a root where files are kept; no process, no memory, no port yet."""

from __future__ import annotations

import asyncio
import secrets

import msgspec

from orchestrator.directories import private_directory
from orchestrator.paths import UserId, WorkspaceId, new_session_id, new_workspace_id, user_id
from orchestrator.records import SessionRecord
from orchestrator.save_store import SaveStore
from orchestrator.session_finding import Finding
from orchestrator.session_states import State
from protocol.errors import AlreadyExists, NotFound


class Creating(Finding):
    """The part of ``Sessions`` that writes down new ones."""

    async def create(
        self, user: UserId, template: str, backend: str, *, workspace: WorkspaceId | None = None
    ) -> SessionRecord:
        """A session that takes no process, memory or port yet: a record, and a root where files are kept.

        It is ``stopped``; ``ensure_running`` starts it when it is first used.
        """
        driver = self._backends[backend]
        if workspace is not None:
            await asyncio.to_thread(self._admit_workspace, user, workspace)
        record = self._new_record(user, template, backend, workspace)
        record = msgspec.structs.replace(record, state=State.STOPPED, has_work=True)
        await asyncio.to_thread(self._write_down_new, record, driver.properties.keeps_files)
        return record

    def _admit_workspace(self, user: UserId, workspace: WorkspaceId) -> None:
        """The registry knows it, or it has saves: a registry that was lost costs nobody's work."""
        try:
            self._records.workspace(user, workspace)
        except NotFound:
            if not SaveStore(self._paths).saves(user, workspace):
                raise

    def _new_record(
        self, user: UserId, template: str, backend: str, workspace: WorkspaceId | None
    ) -> SessionRecord:
        now = self._now()
        return SessionRecord(
            session_id=new_session_id(now, secrets.token_bytes(4)),
            user_id=user_id(user),
            workspace_id=workspace or new_workspace_id(now, secrets.token_bytes(4)),
            backend=backend,
            template=template,
            token=secrets.token_urlsafe(32),
            tool_port=0,
            dev_port=0,
            created=now.isoformat(timespec="milliseconds"),
        )

    def _write_down_new(self, record: SessionRecord, with_root: bool) -> None:
        self._records.add(lambda _: record)
        if with_root:
            self._make_root(record)

    def _make_root(self, record: SessionRecord) -> None:
        try:
            private_directory(self._paths.workspace_dir(record.user_id, record.session_id), exist_ok=False)
        except OSError as error:
            self._records.remove(record.session_id)
            if isinstance(error, FileExistsError):
                raise AlreadyExists(f"session {record.session_id} has a directory already") from None
            raise
