"""Sessions: begun, started again. Each start is made under a lease; one that fails leaves nothing.

The registry is written before a sandbox is made, so a crash at any point leaves a record by which the rest is
found.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, replace

import msgspec

from orchestrator.backends import Backend, Guest, Launch
from orchestrator.keys import KeyRing
from orchestrator.leases import Purpose
from orchestrator.paths import UserId, WorkspaceId
from orchestrator.plan import KeptPlan, LaunchPlan
from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish, choose, is_free
from orchestrator.records import SessionRecord
from orchestrator.rescuing import rescued
from orchestrator.save_store import SaveStore
from orchestrator.session_creating import Creating
from orchestrator.session_finding import sandbox_of
from orchestrator.session_states import Event, State, after
from orchestrator.session_values import PortWishes
from orchestrator.spool import Spool
from protocol.errors import (
    Busy,
    Conflict,
    InvalidRequest,
    NoSpace,
    ToolError,
    Unavailable,
)
from protocol.routes import DEFAULT_DEV_PORT, DEFAULT_PORT


@dataclass(frozen=True)
class _First:
    """What a session is begun with, and never started again with."""

    plan: LaunchPlan | None
    content: Spool | None
    lock: str


class Starting(Creating):
    """The part of ``Sessions`` that starts."""

    async def begin(
        self,
        user: UserId,
        template: str,
        wishes: PortWishes,
        backend: str,
        plan: LaunchPlan | None = None,
        content: Spool | None = None,
        *,
        workspace: WorkspaceId | None = None,
        lock: str = "",
    ) -> SessionRecord:
        """A session with a running sandbox, empty but for ``content``, in state ``initializing``.

        Of a new workspace, unless one of the user's is named. ``lock``: what its packages are guessed by. The
        session is this orchestrator's until it is ``ready``, or ended.

        A port that another program takes meanwhile gives way to the wish's next one. Raises Busy when there
        is none, and whatever the backend raises; then nothing is left.
        """
        first = _First(plan, content, lock)
        while True:
            try:
                return await self._begin(user, template, wishes, backend, workspace, first)
            except Busy as error:
                others = wishes.without(error.details.get("lostPort"))
                if others is None:
                    raise
                wishes = others

    async def ensure_running(self, user: UserId, session_id: str) -> SessionRecord:
        """The session, with a tool server that answers: as it is, or started on its kept files.

        Raises Conflict where its files are in a save alone: that has to be sent in, which ``resume`` does.
        """
        record = await self.get(user, session_id)
        if record.state is State.RUNNING and (await self._seen(record)).alive:
            return record
        if not self.keeps_files(record) and await asyncio.to_thread(self._has_saves, record):
            raise Conflict(
                f"the files of {session_id} are in a save: start it by `workspace resume {session_id}`, for "
                f"it would be empty otherwise",
                sessionId=session_id,
            )
        return await self.ready(await self.restart(record))

    async def restart(self, record: SessionRecord, wishes: PortWishes | None = None) -> SessionRecord:
        """A session that is over, or whose sandbox died, has one again, in state ``initializing``.

        On the files that it left where its backend keeps them, else empty: ``properties.keeps_files`` says
        whether content is to be sent in. Ports are those it had, or the next free ones. Raises Conflict when
        it runs, Busy when somebody else is at work on it; when it fails, it is stopped as before.
        """
        while True:
            wishes = wishes or self.wishes_of(record)
            try:
                return await self._restart(record, wishes)
            except Busy as error:
                others = wishes.without(error.details.get("lostPort"))
                if others is None:
                    raise
                record, wishes = await self.get(record.user_id, record.session_id), others

    async def ready(self, record: SessionRecord) -> SessionRecord:
        """All is in place: from now on what is in it is somebody's work, and it is nobody's to start."""
        return await self._leasing.move(record.session_id, Event.READY, last=True, has_work=True)

    def wishes_of(self, record: SessionRecord) -> PortWishes:
        """The ports that it had, so that addresses which people hold stay good; or the next free ones."""
        return PortWishes(
            tool=Wish(record.tool_port or DEFAULT_PORT, TOOL_PORTS),
            dev=Wish(record.dev_port or DEFAULT_DEV_PORT, DEV_PORTS),
        )

    async def _begin(
        self,
        user: UserId,
        template: str,
        wishes: PortWishes,
        backend: str,
        workspace: WorkspaceId | None,
        first: _First,
    ) -> SessionRecord:
        driver = self._backends[backend]
        if first.content is not None and not driver.properties.makes_images:
            raise InvalidRequest(f"the backend {backend!r} makes no images; send the content in instead")
        if workspace is not None:
            await asyncio.to_thread(self._admit_workspace, user, workspace)

        def chosen(taken: frozenset[int]) -> SessionRecord:
            record = self._new_record(user, template, backend, workspace)
            kept = KeptPlan.of(first.plan) if first.plan else None
            return msgspec.structs.replace(record, plan=kept, **_ports(wishes, taken))

        # A thread goes on when nobody waits for it any more: what it adds is to be taken away again.
        adding = asyncio.create_task(self._leasing.add(chosen))
        guest = None
        try:
            record = await asyncio.shield(adding)
            launch = await asyncio.to_thread(self._launch_of, record)
            launch = replace(launch, plan=first.plan, content=first.content, lock=first.lock)
            guest = await driver.create(launch)
            return await self._made(record, guest)
        except BaseException:
            await asyncio.shield(self._undo(adding, driver, guest))
            raise

    async def _restart(self, record: SessionRecord, wishes: PortWishes) -> SessionRecord:
        driver = self._backends[record.backend]
        await self._admit_dead(record)

        def anew(taken: frozenset[int], record: SessionRecord) -> SessionRecord:
            fresh = {
                "token": secrets.token_urlsafe(32),
                "guest": None,
                "reason": "",
                "created": record.created,
            }
            return msgspec.structs.replace(record, **fresh, **_ports(wishes, taken))

        clean = record.state is State.STOPPED
        if not clean:
            await self._rescue(record, driver)
        # A thread goes on when nobody waits for it any more: the move that it makes is to be taken back.
        claiming = asyncio.create_task(
            self._leasing.claim(record.session_id, Purpose.START, Event.RESUME, anew)
        )
        try:
            record = await asyncio.shield(claiming)
            if not clean:  # what is left of the earlier run
                await driver.destroy(sandbox_of(record), keep_files=driver.properties.keeps_files)
            existing = driver.properties.keeps_files
            launch = await asyncio.to_thread(self._launch_of, record)
            guest = await driver.create(replace(launch, existing=existing))
            return await self._made(record, guest)
        except BaseException:
            await asyncio.shield(self._back_to_stopped(claiming, driver))
            raise

    async def _rescue(self, record: SessionRecord, driver: Backend) -> None:
        """What is left of the earlier run goes; what only that holds is saved first, or this raises."""
        with self._leasing.ending(record.session_id):
            # Only of what has failed: else somebody is at work on it, who would lose the lease to us.
            await self._leasing.claim(record.session_id, Purpose.STOP, seen=State.ERROR)
            try:
                await rescued(driver, record, SaveStore(self._paths))
            finally:
                await asyncio.shield(self._leasing.release(record.session_id))

    async def _admit_dead(self, record: SessionRecord) -> None:
        """One that runs in the registry only is an error from now on, which may be resumed. Else Conflict."""
        if record.state is State.RUNNING:
            seen = await self._seen(record)
            if seen.unknown:
                raise Unavailable(seen.unknown, sessionId=record.session_id)
            if not seen.alive:
                reason = "its tool server ended without being asked"
                await self._leasing.move(record.session_id, Event.FAILED, reason=reason)
                return
        after(record.state, Event.RESUME, record.session_id)

    async def _made(self, record: SessionRecord, guest: Guest) -> SessionRecord:
        return await self._leasing.move(
            record.session_id, Event.MADE, guest=guest, tool_port=guest.tool_port, dev_port=guest.dev_port
        )

    async def _undo(self, adding: asyncio.Task[SessionRecord], driver: Backend, guest: Guest | None) -> None:
        with contextlib.suppress(ToolError):  # none was added; or: what failed first is to be read
            record = await adding
            try:
                if guest is not None:
                    await driver.destroy(guest.id)
                await self._forget(record)
            finally:  # what could not be undone is nobody's, so whoever puts in order finds it
                await self._leasing.release(record.session_id)

    async def _back_to_stopped(self, claiming: asyncio.Task[SessionRecord], driver: Backend) -> None:
        try:
            record = await claiming
        except ToolError:
            return  # it was not ours to start
        try:
            with contextlib.suppress(ToolError):  # what failed first is what a person has to know
                with contextlib.suppress(NoSpace, Unavailable):  # ending makes room on a full disk
                    await self._leasing.move(record.session_id, Event.STOP)
                keeps = driver.properties.keeps_files
                outcome = await driver.destroy(sandbox_of(record), keep_files=keeps)
                event = Event.FAILED if outcome.survivors else Event.ENDED
                await self._leasing.move(record.session_id, event, last=True, guest=None)
        finally:
            await self._leasing.release(record.session_id)

    def _launch_of(self, record: SessionRecord) -> Launch:
        return Launch(
            user_id=record.user_id,
            session_id=record.session_id,
            token=record.token,
            tool_port=record.tool_port,
            dev_port=record.dev_port,
            public_keys=tuple(key.text for key in KeyRing.open(self._paths).public_keys()),
            plan=record.plan.launch_plan() if record.plan else None,
        )


def _ports(wishes: PortWishes, taken: frozenset[int]) -> dict[str, int]:
    dev_port = choose(wishes.dev, taken, is_free, "--dev-port")
    tool_port = choose(wishes.tool, taken | {dev_port}, is_free, "--port") if wishes.tool.port else 0
    return {"tool_port": tool_port, "dev_port": dev_port}
