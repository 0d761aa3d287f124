"""Sessions: begun, found again, ended, saved. What a session runs on is its backend's business.

The registry is written before a sandbox is made and after it is gone, so a crash at any point leaves a record
by which the rest is found and cleaned up (``reconcile``). Every move is one that ``session_states`` has, and
made under a lease, so two orchestrators never pull at one session. Files outlive a session unless somebody
says that they may go.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orchestrator.backends import Backend, Destroyed, Endpoint, Guest, GuestState, Launch, guest_id
from orchestrator.directories import private_directory
from orchestrator.leases import Purpose
from orchestrator.leasing import Leasing
from orchestrator.paths import PathManager, UserId, WorkspaceId, new_session_id, new_workspace_id
from orchestrator.plan import LaunchPlan
from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish, choose, is_free, without
from orchestrator.records import LIVE, Records, SessionRecord, WorkspaceRecord
from orchestrator.save_store import SaveStore
from orchestrator.saves import format_of
from orchestrator.saving import Saved, keep_save, save_to
from orchestrator.session_states import Event, State
from orchestrator.spool import Spool
from protocol.errors import (
    AlreadyExists,
    Busy,
    Conflict,
    InvalidRequest,
    NoSpace,
    NotFound,
    ToolError,
    Unavailable,
)
from protocol.routes import DEFAULT_DEV_PORT, DEFAULT_PORT

if TYPE_CHECKING:
    from orchestrator.client import Client


@dataclass(frozen=True)
class PortWishes:
    """The ports that a session shall have."""

    tool: Wish
    dev: Wish

    def without(self, port: object) -> PortWishes | None:
        """The same wishes, the one for ``port`` less it; None when nothing else is wished for there."""
        for name in ("dev", "tool"):
            wish: Wish = getattr(self, name)
            if (
                isinstance(port, int)
                and port in (wish.port, *wish.fallback)
                and (other := without(wish, port))
            ):
                return replace(self, **{name: other})
        return None


@dataclass(frozen=True)
class Seen:
    """A session, and whether its sandbox runs."""

    record: SessionRecord
    alive: bool
    unknown: str = ""
    """Why its backend could not be asked; then ``alive`` says nothing."""

    @property
    def state(self) -> str:
        """For a person: the intended state, or ``dead`` when the sandbox is gone without being asked."""
        if self.record.state not in LIVE or self.record.guest is None:
            return self.record.state.value
        if self.unknown:
            return "unknown"
        return self.record.state.value if self.alive else "dead"


@dataclass(frozen=True)
class PutInOrder:
    """What became of a session that its orchestrator had left half way."""

    record: SessionRecord
    """As it was found."""
    sentence: str


@dataclass(frozen=True)
class Ended:
    """What became of a session that was stopped."""

    outcome: Destroyed
    saved: Saved | None
    """None when it was not saved: told so, or nothing of it ran."""


LastLook = Callable[[], Awaitable[None]]
"""Asked right before the end; raises when the session is to go on after all."""


class Sessions:
    """All sessions of one data directory."""

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

    async def __aenter__(self) -> Sessions:
        """For an orchestrator that stays: puts in order what others left, and keeps the registry open."""
        await asyncio.to_thread(self._stays.enter_context, self._records.kept_open())
        await self.reconcile()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leasing.close()
        self._stays.close()

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

    def wishes_of(self, record: SessionRecord) -> PortWishes:
        """The ports that it had, so that addresses which people hold stay good; or the next free ones."""
        return PortWishes(
            tool=Wish(record.tool_port or DEFAULT_PORT, TOOL_PORTS),
            dev=Wish(record.dev_port or DEFAULT_DEV_PORT, DEV_PORTS),
        )

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
    ) -> SessionRecord:
        """A session with a running sandbox, empty but for ``content``, in state ``initializing``.

        Of a new workspace, unless one of the user's is named. The session is this orchestrator's until it is
        ``ready``, or ended.

        A port that another program takes meanwhile gives way to the wish's next one. Raises Busy when there
        is none, and whatever the backend raises; then nothing is left.
        """
        while True:
            try:
                return await self._begin(user, template, wishes, backend, plan, content, workspace)
            except Busy as error:
                others = wishes.without(error.details.get("lostPort"))
                if others is None:
                    raise
                wishes = others

    async def _begin(
        self,
        user: UserId,
        template: str,
        wishes: PortWishes,
        backend: str,
        plan: LaunchPlan | None,
        content: Spool | None,
        workspace: WorkspaceId | None,
    ) -> SessionRecord:
        driver = self._backends[backend]
        if content is not None and not driver.properties.makes_images:
            raise InvalidRequest(f"the backend {backend!r} makes no images; send the content in instead")
        if workspace is not None:
            await asyncio.to_thread(self._admit_workspace, user, workspace)

        def chosen(taken: frozenset[int]) -> SessionRecord:
            record = self._new_record(user, template, backend, workspace)
            return msgspec.structs.replace(record, **_ports(wishes, taken))

        # A thread goes on when nobody waits for it any more: what it adds is to be taken away again.
        adding = asyncio.create_task(self._leasing.add(chosen))
        guest = None
        try:
            record = await asyncio.shield(adding)
            guest = await driver.create(replace(_launch_of(record), plan=plan, content=content))
            return await self._made(record, guest)
        except BaseException:
            await asyncio.shield(self._undo(adding, driver, guest))
            raise

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

    async def ensure_running(self, user: UserId, session_id: str) -> SessionRecord:
        """The session, with a tool server that answers: as it is, or started on its kept files."""
        record = await self.get(user, session_id)
        if record.state is State.RUNNING and (await self._seen(record)).alive:
            return record
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
        record = await self._leasing.claim(record.session_id, Purpose.START, Event.RESUME, anew)
        try:
            if not clean:  # what is left of the earlier run
                await driver.destroy(_guest_id(record), keep_files=driver.properties.keeps_files)
            existing = driver.properties.keeps_files
            guest = await driver.create(replace(_launch_of(record), existing=existing))
            return await self._made(record, guest)
        except BaseException as error:
            await asyncio.shield(self._back_to_stopped(record, driver, str(error)))
            raise

    async def _admit_dead(self, record: SessionRecord) -> None:
        """One that runs in the registry only is an error from now on, which may be resumed."""
        if record.state is not State.RUNNING:
            return
        seen = await self._seen(record)
        if seen.unknown:
            raise Unavailable(seen.unknown, sessionId=record.session_id)
        if not seen.alive:
            reason = "its tool server ended without being asked"
            await self._leasing.move(record.session_id, Event.FAILED, reason=reason)

    async def _made(self, record: SessionRecord, guest: Guest) -> SessionRecord:
        return await self._leasing.move(
            record.session_id, Event.MADE, guest=guest, tool_port=guest.tool_port, dev_port=guest.dev_port
        )

    async def _back_to_stopped(self, record: SessionRecord, driver: Backend, why: str) -> None:
        with contextlib.suppress(ToolError):  # what failed first is what a person has to know
            await self._leasing.move(record.session_id, Event.STOP)
            keeps = driver.properties.keeps_files
            outcome = await driver.destroy(_guest_id(record), keep_files=keeps)
            event = Event.FAILED if outcome.survivors else Event.ENDED
            await self._leasing.move(record.session_id, event, last=True, guest=None)
        await self._leasing.release(record.session_id)

    async def ready(self, record: SessionRecord) -> SessionRecord:
        """All is in place: from now on what is in it is somebody's work, and it is nobody's to start."""
        return await self._leasing.move(record.session_id, Event.READY, last=True, has_work=True)

    async def stop(
        self, record: SessionRecord, *, discard: bool = False, last_look: LastLook | None = None
    ) -> Ended:
        """Save it, then end it; its files are kept as well where its backend can.

        Raises Unavailable, and leaves it running, when it cannot be saved; ``discard`` ends it all the same,
        and what was not saved is gone where files are not kept. ``last_look`` comes after the save.
        """
        return await self._end(record, keep_files=True, save=not discard, last_look=last_look)

    async def end(self, record: SessionRecord, *, keep_files: bool = True) -> Destroyed:
        """Stop everything of the session. Its files are kept, unless told otherwise.

        They stay where they are, or are saved first on a backend that cannot keep them; when that fails the
        session goes on and this raises. One that is over is taken too: so its files are removed later.
        Raises Busy while another orchestrator starts or ends it, and NoSpace or Unavailable when the end
        cannot be written down; then it has ended all the same.
        """
        driver = self._backends[record.backend]
        save = keep_files and not driver.properties.keeps_files
        return (await self._end(record, keep_files=keep_files, save=save)).outcome

    async def destroy(self, user: UserId, session_id: str) -> Destroyed:
        """End the user's session and remove its files, its record and its log."""
        record = await self.get(user, session_id)
        outcome = await self.end(record, keep_files=False)
        if not outcome.survivors:
            await self.remove_log(record)
        return outcome

    async def _end(
        self,
        record: SessionRecord,
        *,
        keep_files: bool,
        save: bool,
        last_look: LastLook | None = None,
        seen: State | None = None,
    ) -> Ended:
        driver = self._backends[record.backend]
        keeps = keep_files and driver.properties.keeps_files
        # Held while it is saved already; it is ``stopping`` only from when nothing can be lost any more.
        with contextlib.suppress(NoSpace, Unavailable):  # ending makes room on a full disk
            await self._leasing.claim(record.session_id, Purpose.STOP, seen=seen)
        try:
            saved = await self._last_save(record, driver) if save else None
            if last_look is not None:
                await last_look()
            with contextlib.suppress(NoSpace, Unavailable):
                await self._leasing.move(record.session_id, Event.STOP, discards=not keep_files)
            outcome = await driver.destroy(_guest_id(record), keep_files=keeps)
            if saved:
                outcome = replace(outcome, kept=outcome.kept or str(saved.file.path))
            await self._write_down_end(record, outcome, keep_files)
            return Ended(outcome, saved)
        finally:
            await asyncio.shield(self._leasing.release(record.session_id))

    async def put_back(self, record: SessionRecord) -> None:
        """End one that could not be brought up again; unsaved, for what it was to start on is still there."""
        await self._end(record, keep_files=True, save=False)

    async def reconcile(self) -> builtins.list[PutInOrder]:
        """Finish or undo what orchestrators that are gone have left half way, of all users.

        A start is undone: what was only a copy goes, what may be work is kept and can be resumed. An end is
        finished as it was meant. Several may do so at once.
        """
        left = await self._leasing.unattended()
        done = await asyncio.gather(*map(self._put_in_order, left))
        return [each for each in done if each is not None]

    async def _put_in_order(self, record: SessionRecord) -> PutInOrder | None:
        began = record.state is not State.STOPPING
        keep_files = record.has_work and not record.discards
        try:
            ended = await self._end(record, keep_files=keep_files, save=False, seen=record.state)
        except (Busy, Conflict, NotFound):
            return None  # somebody else is at it, or was
        except ToolError as error:
            return PutInOrder(record, f"{record.session_id} was left {record.state.value}: {error.message}")
        half = "its start was undone" if began else "its end was finished"
        kept = f", files kept in {ended.outcome.kept}" if ended.outcome.kept else ""
        return PutInOrder(record, f"{record.session_id} was left {record.state.value}: {half}{kept}")

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
        return [_as_seen(record, running[record.backend]) for record in records]

    async def running(self) -> builtins.list[SessionRecord]:
        """Everybody's sessions that are ready, and whose sandbox runs."""
        records = await asyncio.to_thread(self._records.running)
        names = sorted({record.backend for record in records})
        running = dict(zip(names, await asyncio.gather(*map(self._running, names)), strict=True))
        return [each for each in records if _as_seen(each, running[each.backend]).alive]

    async def _seen(self, record: SessionRecord) -> Seen:
        return _as_seen(record, await self._running(record.backend))

    async def _running(self, backend: str) -> frozenset[str] | str:
        """The ids of its sandboxes that run, or why it could not be asked."""
        try:
            guests = await self._backends[backend].guests()
        except ToolError as error:
            return error.message
        return frozenset(guest.id for guest in guests if guest.state is GuestState.RUNNING)

    async def find(self, user: UserId, wanted: str | None) -> SessionRecord:
        """The session ``wanted``, by its id or the last part of it; without a name the only one that runs."""
        seen = await self.list(user, stopped=wanted is not None)
        if wanted is None:
            return _the_only_one([each.record for each in seen if each.alive])
        exact = [each.record for each in seen if each.record.session_id == wanted]
        ending = [each.record for each in seen if each.record.session_id.endswith(f"_{wanted}")]
        if len(exact or ending) != 1:
            raise NotFound(
                f"no session {wanted!r}; `workspace ls --all` shows which there are", sessionId=wanted
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

    async def save(self, record: SessionRecord, target: Path | None = None) -> Saved:
        """Write the workspace's content to ``target``; with none, keep it as the workspace's newest save.

        Raises ArchiveInvalid when what is read back is not what was packed: then older saves stay.
        """
        if target is not None and not await asyncio.to_thread(target.parent.is_dir):
            raise InvalidRequest(f"there is no directory {str(target.parent)!r}; make it first")
        form = format_of(target) if target else None
        async with self.client(record) as client:
            if target is None or form is None:
                return await keep_save(client, SaveStore(self._paths), record)
            return await save_to(client, target, form)

    async def _undo(self, adding: asyncio.Task[SessionRecord], driver: Backend, guest: Guest | None) -> None:
        if guest is not None:
            await driver.destroy(guest.id)
        with contextlib.suppress(ToolError):  # then no record was added
            await self._forget(await adding)

    async def _forget(self, record: SessionRecord) -> None:
        keep = await asyncio.to_thread(self._has_saves, record)
        await asyncio.to_thread(self._records.remove, record.session_id, keep_workspace=keep)
        self._leasing.dropped(record.session_id)

    def _admit_workspace(self, user: UserId, workspace: WorkspaceId) -> None:
        """The registry knows it, or it has saves: a registry that was lost costs nobody's work."""
        try:
            self._records.workspace(user, workspace)
        except NotFound:
            if not SaveStore(self._paths).saves(user, workspace):
                raise

    def _has_saves(self, record: SessionRecord) -> bool:
        directory = self._paths.saves_dir(record.user_id, record.workspace_id)
        return directory.is_dir() and any(not each.name.startswith(".") for each in directory.iterdir())

    async def _write_down_end(self, record: SessionRecord, outcome: Destroyed, keep_files: bool) -> None:
        try:
            if outcome.survivors:
                reason = f"these processes would not end: {' '.join(map(str, outcome.survivors))}"
                await self._leasing.move(record.session_id, Event.FAILED, last=True, reason=reason)
            elif outcome.kept or (keep_files and await asyncio.to_thread(self._has_saves, record)):
                await self._leasing.move(
                    record.session_id, Event.ENDED, last=True, guest=None, reason="", has_work=True
                )
            else:
                await self._forget(record)
        except (NotFound, Conflict):
            return  # whoever ended it at the same time has written it down
        except ToolError as error:
            if outcome.survivors:
                return  # they are the worse news, and told by whoever asked
            kept = f", its files are kept in {outcome.kept}" if outcome.kept else ""
            message = f"{record.session_id} has ended{kept}, but that is not written down: {error.message}"
            raise type(error)(message, sessionId=record.session_id) from error

    async def _last_save(self, record: SessionRecord, driver: Backend) -> Saved | None:
        """None when there is no sandbox, or a dead one that leaves its files, and so nothing to lose."""
        guests = {guest.id: guest.state for guest in await driver.guests()}
        state = guests.get(_guest_id(record))
        if state is None or (state is GuestState.DEAD and driver.properties.keeps_files):
            return None
        try:
            return await self.save(record)
        except ToolError as error:
            raise Unavailable(
                f"the files of {record.session_id} would be lost with it, and could not be saved: "
                f"{error.message}; give them up by `workspace down {record.session_id} --remove`",
                sessionId=record.session_id,
            ) from error

    async def remove_log(self, record: SessionRecord) -> None:
        """For good: whoever removes a workspace's files wants nothing of it left."""
        await asyncio.to_thread(self.log_path(record).unlink, missing_ok=True)

    def log_path(self, record: SessionRecord) -> Path:
        """The daemon's log, on backends that write one here."""
        return self._paths.log_path(record.user_id, record.session_id)

    def _endpoint(self, record: SessionRecord, port: int) -> Endpoint:
        if record.guest is None:
            raise Unavailable(
                f"{record.session_id} has no sandbox yet; wait a moment", sessionId=record.session_id
            )
        return self._backends[record.backend].endpoint(record.guest, port)

    def _new_record(
        self, user: UserId, template: str, backend: str, workspace: WorkspaceId | None
    ) -> SessionRecord:
        now = self._now()
        return SessionRecord(
            session_id=new_session_id(now, secrets.token_bytes(4)),
            user_id=user,
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


def _as_seen(record: SessionRecord, running: frozenset[str] | str) -> Seen:
    if isinstance(running, str):
        return Seen(record, alive=False, unknown=running)
    return Seen(record, _guest_id(record) in running)


def _ports(wishes: PortWishes, taken: frozenset[int]) -> dict[str, int]:
    dev_port = choose(wishes.dev, taken, is_free, "--dev-port")
    tool_port = choose(wishes.tool, taken | {dev_port}, is_free, "--port") if wishes.tool.port else 0
    return {"tool_port": tool_port, "dev_port": dev_port}


def _launch_of(record: SessionRecord) -> Launch:
    return Launch(
        user_id=record.user_id,
        session_id=record.session_id,
        token=record.token,
        tool_port=record.tool_port,
        dev_port=record.dev_port,
    )


def _guest_id(record: SessionRecord) -> str:
    return guest_id(record.user_id, record.session_id)


def _the_only_one(running: list[SessionRecord]) -> SessionRecord:
    if not running:
        raise NotFound("no session runs; start one by `workspace up TEMPLATE`")
    if len(running) > 1:
        names = ", ".join(record.session_id for record in running)
        raise InvalidRequest(f"{len(running)} sessions run: say which of {names}")
    return running[0]
