"""Sessions: begun, found again, ended, saved. What a session runs on is its backend's business.

The registry is written before a sandbox is made and after it is gone, so a crash at any point leaves a record
by which the rest is found and cleaned up. Files outlive a session unless somebody says that they may go.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends import Backend, Destroyed, Endpoint, Guest, GuestState, Launch, guest_id
from orchestrator.directories import private_directory
from orchestrator.paths import PathManager, UserId, new_session_id, new_workspace_id
from orchestrator.plan import LaunchPlan
from orchestrator.ports import Wish, choose, is_free, without
from orchestrator.records import LIVE, Records, SessionRecord, State
from orchestrator.saves import SavedArchive, format_of, save_name, write_save
from protocol.errors import Busy, InvalidRequest, NotFound, ToolError, Unavailable
from protocol.messages.archives import ArchiveFormat, SaveAnswer
from protocol.templates import TEMPLATE_FILE, TemplateArchive, parse_template

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

    @property
    def state(self) -> str:
        """For a person: the intended state, or ``dead`` when the sandbox is gone without being asked."""
        was_made = self.record.guest is not None and self.record.state in LIVE
        return "dead" if was_made and not self.alive else self.record.state.value


@dataclass(frozen=True)
class Saved:
    """A save, as the tool server packed it and as it lies on disk."""

    file: SavedArchive
    answer: SaveAnswer


class Sessions:
    """All sessions of one data directory."""

    def __init__(self, paths: PathManager, records: Records, backends: Mapping[str, Backend]) -> None:
        self._paths = paths
        self._records = records
        self._backends = backends

    @property
    def data_dir(self) -> Path:
        """Where all of it lies."""
        return self._paths.base_dir

    async def begin(
        self,
        user: UserId,
        template: str,
        wishes: PortWishes,
        backend: str,
        plan: LaunchPlan | None = None,
        content: bytes | None = None,
    ) -> SessionRecord:
        """A session with a running sandbox, empty but for ``content``, in state ``initializing``.

        A port that another program takes meanwhile gives way to the wish's next one. Raises Busy when there
        is none, and whatever the backend raises; then nothing is left.
        """
        while True:
            try:
                return await self._begin(user, template, wishes, backend, plan, content)
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
        content: bytes | None,
    ) -> SessionRecord:
        driver = self._backends[backend]
        if content is not None and not driver.properties.makes_images:
            raise InvalidRequest(f"the backend {backend!r} makes no images; send the content in instead")
        # A thread goes on when nobody waits for it any more: what it adds is to be taken away again.
        adding = asyncio.create_task(asyncio.to_thread(self._new_record, user, template, wishes, backend))
        guest = None
        try:
            record = await asyncio.shield(adding)
            guest = await driver.create(replace(_launch_of(record), plan=plan, content=content))
            await asyncio.to_thread(self._records.set_guest, record.session_id, guest)
            await self.mark(record, State.INITIALIZING)
            return await asyncio.to_thread(self._records.get, user, record.session_id)
        except BaseException:
            await asyncio.shield(self._undo(adding, driver, guest))
            raise

    async def mark(self, record: SessionRecord, state: State) -> None:
        """Write down how far it is."""
        await asyncio.to_thread(self._records.set_state, record.session_id, state)

    async def end(self, record: SessionRecord, *, keep_files: bool = True) -> Destroyed:
        """Stop everything of the session. Its files are kept, unless told otherwise.

        They stay where they are, or are saved first on a backend that cannot keep them; when that fails the
        session goes on and this raises. One that is over is taken too: so its files are removed later.
        Raises NoSpace or Unavailable when that cannot be written down; then it has ended all the same.
        """
        driver = self._backends[record.backend]
        keeps = keep_files and driver.properties.keeps_files
        saved = await self._last_save(record, driver) if keep_files and not keeps else None
        with contextlib.suppress(ToolError):  # the registry comes second: ending makes room on a full disk
            await self.mark(record, State.STOPPING)
        outcome = await driver.destroy(_guest_id(record), keep_files=keeps)
        await self._write_down_end(record, outcome)
        return replace(outcome, kept=str(saved.file.path)) if saved else outcome

    async def list(self, user: UserId, *, stopped: bool = False) -> list[Seen]:
        """The user's sessions, oldest first."""
        records = await asyncio.to_thread(self._records.list, user, stopped=stopped)
        names = {record.backend for record in records} & self._backends.keys()
        guests = [guest for name in names for guest in await self._backends[name].guests()]
        running = {(guest.backend, guest.id) for guest in guests if guest.state is GuestState.RUNNING}
        return [Seen(record, (record.backend, _guest_id(record)) in running) for record in records]

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
                f"{record.session_id} is {record.state.value}; start a session by `workspace up`",
                sessionId=record.session_id,
            )
        # websockets is a third of what a command costs to start, and most commands only look.
        from orchestrator.client import open_client

        endpoint = self.tool_server(record)
        return open_client(endpoint.url, record.token, endpoint.headers)

    async def save(self, record: SessionRecord, target: Path | None = None) -> Saved:
        """Write the workspace's content to ``target``, or under the data directory's ``saves``."""
        if target is None:
            directory = self._paths.saves_dir(record.user_id, record.session_id)
            target = await asyncio.to_thread(private_directory, directory) / save_name(datetime.now(UTC))
        elif not await asyncio.to_thread(target.parent.is_dir):
            raise InvalidRequest(f"there is no directory {str(target.parent)!r}; make it first")
        async with self.client(record) as client:
            return await save_to(client, target, format_of(target))

    async def _undo(self, adding: asyncio.Task[SessionRecord], driver: Backend, guest: Guest | None) -> None:
        if guest is not None:
            await driver.destroy(guest.id)
        with contextlib.suppress(ToolError):  # then no record was added
            record = await adding
            await asyncio.to_thread(self._records.remove, record.session_id)

    async def _write_down_end(self, record: SessionRecord, outcome: Destroyed) -> None:
        try:
            if outcome.survivors:
                await self.mark(record, State.ERROR)
            elif outcome.kept:
                await self.mark(record, State.STOPPED)
            else:
                await asyncio.to_thread(self._records.remove, record.session_id)
        except ToolError as error:
            if outcome.survivors:
                return  # they are the worse news, and told by whoever asked
            kept = f", its files are kept in {outcome.kept}" if outcome.kept else ""
            message = f"{record.session_id} has ended{kept}, but that is not written down: {error.message}"
            raise type(error)(message, sessionId=record.session_id) from error

    async def _last_save(self, record: SessionRecord, driver: Backend) -> Saved | None:
        """None when there is no sandbox, and so nothing to lose."""
        if _guest_id(record) not in {guest.id for guest in await driver.guests()}:
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

    def _new_record(self, user: UserId, template: str, wishes: PortWishes, backend: str) -> SessionRecord:
        now = datetime.now(UTC)

        def chosen(taken: frozenset[int]) -> SessionRecord:
            dev_port = choose(wishes.dev, taken, is_free, "--dev-port")
            tool_port = choose(wishes.tool, taken | {dev_port}, is_free, "--port") if wishes.tool.port else 0
            return SessionRecord(
                session_id=new_session_id(now, secrets.token_bytes(4)),
                user_id=user,
                workspace_id=new_workspace_id(now, secrets.token_bytes(4)),
                backend=backend,
                template=template,
                token=secrets.token_urlsafe(32),
                tool_port=tool_port,
                dev_port=dev_port,
                created=now.isoformat(timespec="milliseconds"),
            )

        return self._records.add(chosen)


async def save_to(client: Client, target: Path, form: ArchiveFormat) -> Saved:
    """Write what ``client``'s workspace holds, less what its own template.json leaves out."""
    rules = await archive_rules(client)
    async with client.save.stream(format=form, exclude=rules.exclude, include=rules.include) as stream:

        async def chunks() -> AsyncIterator[bytes]:
            async for event in stream:
                yield event.data
            await stream.result()  # raises when it broke off, and then no file gets its name

        file = await write_save(chunks(), target)
        return Saved(file, await stream.result())


async def archive_rules(client: Client) -> TemplateArchive:
    """The rules for saves in the workspace's own template.json; none when it has none, or a broken one."""
    try:
        found = await client.read(path=TEMPLATE_FILE)
        return parse_template(found.content.encode()).archive
    except ToolError:
        return TemplateArchive()


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
