"""From a source to a page that answers: archive, sandbox, extract, install, dev server.

One function puts the rooms in a row and tells an observer how far it is. If a stage fails, or is cancelled,
the session is ended and its files, which are only a copy, are removed. One failure is tried again: a dev
server that lost its port to another program between the choice and the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from orchestrator.client import Client, load_http
from orchestrator.following import Following
from orchestrator.packing import Packed, packed, planned
from orchestrator.paths import UserId, WorkspaceId
from orchestrator.plan import LaunchPlan
from orchestrator.records import SessionRecord
from orchestrator.sessions import PortWishes, Sessions
from orchestrator.spares import lock_digest
from orchestrator.templates import Source
from orchestrator.units import count_text, size_text
from protocol.errors import DevServerFailed, ToolError
from protocol.messages.archives import InjectAnswer
from protocol.messages.base import Log
from protocol.messages.devserver import DevState, Progress, Start, StartAnswer, Step
from protocol.templates import Template


class Stage(enum.Enum):
    """What happens, in order; the values are shown."""

    ARCHIVE = "archive"
    SANDBOX = "tool server"
    EXTRACT = "extract"
    INSTALL = "install"
    DEV_SERVER = "dev server"


class Observer(Protocol):
    """Who is told. Called on the event loop: it must not block."""

    def began(self, stage: Stage) -> None:
        """It is under way."""

    def said(self, stage: Stage, text: str) -> None:
        """A tool printed this while it worked: pieces of text, not always whole lines."""

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        """It is done; ``note`` says what came of it."""

    def skipped(self, stage: Stage, note: str) -> None:
        """It was not needed."""

    def remark(self, text: str) -> None:
        """Something that a person should know."""


class Stages:
    """Times the stages, and tells the observer."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._begun = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def under_way(self, stage: Stage) -> Iterator[Callable[[str], None]]:
        """Around a stage; what it yields is called with the note when the stage is done."""
        self.began(stage)
        begun = time.monotonic()
        yield lambda note: self.ended(stage, note, time.monotonic() - begun)

    def began(self, stage: Stage) -> None:
        self.observer.began(stage)

    def ended(self, stage: Stage, note: str, seconds: float) -> None:
        self.seconds[stage.value] = seconds
        self.observer.ended(stage, note, seconds)

    def total(self) -> dict[str, float]:
        """All of them, and ``total``."""
        return {**self.seconds, "total": time.monotonic() - self._begun}

    def take(self, event: Progress | Log) -> None:
        """What the tool server tells of its own stages."""
        if isinstance(event, Log):
            stage = Stage.DEV_SERVER if event.source == "dev_server" else Stage.INSTALL
            self.observer.said(stage, event.text)
        elif event.step is not Step.EXTRACT:  # that one was over before
            stage = Stage.INSTALL if event.step is Step.INSTALL else Stage.DEV_SERVER
            if event.state == "started":
                self.began(stage)
            elif event.state == "done":
                self.ended(stage, "", (event.duration_ms or 0.0) / 1000)
            elif event.state == "skipped":
                self.observer.skipped(stage, event.message)


@dataclass(frozen=True)
class Ready:
    """A workspace that answers."""

    record: SessionRecord
    tool_server_url: str
    preview_url: str | None
    """None when the workspace has no dev server."""
    injected: InjectAnswer | None
    """None when its content came in an image of its own."""
    started: StartAnswer
    seconds: dict[str, float]
    """Per stage, and ``total``."""


async def launch(  # noqa: PLR0913 - one for each thing that may be wished
    sessions: Sessions,
    user: UserId,
    source: Source,
    wishes: PortWishes,
    observer: Observer,
    backend: str,
    plan: LaunchPlan | None = None,
    *,
    derived_image: bool = False,
    workspace: WorkspaceId | None = None,
    keep_first: bool = False,
    begun: Callable[[SessionRecord], None] = lambda record: None,
) -> Ready:
    """Bring a workspace up; raises the first stage's error, and then nothing is left of it.

    ``plan``: ``packing.planned`` for this source, else made here. ``derived_image``: its content is in an
    image of its own and not sent in. ``workspace``: a new one, if left out. ``keep_first``: what came of the
    source is kept as the workspace's first save. ``begun`` is told the session as soon as there is one; of
    one that is ready at the moment in which it is cancelled, the files are kept.
    """
    stages = Stages(observer)
    plan = plan or planned(source)
    with stages.under_way(Stage.ARCHIVE) as done:
        archive = await asyncio.to_thread(packed, source, sessions.data_dir, plan)
        done(archive.note)
    for remark in archive.remarks:
        observer.remark(remark)
    content = archive.spool() if derived_image else None
    lock = await asyncio.to_thread(lock_digest, source.path)
    sent = None if derived_image else archive

    async def begin(wishes: PortWishes) -> SessionRecord:
        with stages.under_way(Stage.SANDBOX) as done:
            record = await sessions.begin(
                user, source.name, wishes, backend, plan, content, workspace=workspace, lock=lock
            )
            begun(record)
            for remark in other_ports(record, wishes):
                observer.remark(remark)
            done(sessions.tool_server(record).url)
        return record

    # The tool server needs a quarter of a second to start, and so does what the archive is sent by.
    loading = asyncio.create_task(asyncio.to_thread(load_http))
    record = await begin(wishes)
    async with _ended_when_it_fails(sessions, record):
        await loading
    try:
        return await _bring_up(sessions, record, source, sent, stages, keep_first)
    except DevServerFailed as error:
        others = wishes.without(record.dev_port)
        if others is None or not lost_its_port(error):
            raise
    observer.remark(f"port {record.dev_port} was taken by another program meanwhile: once more, on another")
    return await _bring_up(sessions, await begin(others), source, sent, stages, keep_first)


async def _bring_up(
    sessions: Sessions,
    record: SessionRecord,
    source: Source,
    archive: Packed | None,
    stages: Stages,
    keep_first: bool,
) -> Ready:
    """The session gets its content and its dev server; when that fails, it is ended."""
    async with _ended_when_it_fails(sessions, record):
        async with sessions.client(record) as client:
            injected = await inject(client, archive, stages)
            started = await start(sessions, client, source.template, record, stages)
        if keep_first:
            await _keep_first(sessions, record, stages.observer)
        record = await sessions.ready(record)
    return Ready(
        record=record,
        tool_server_url=sessions.tool_server(record).url,
        preview_url=preview_of(sessions, record, started),
        injected=injected,
        started=started,
        seconds=stages.total(),
    )


@contextlib.asynccontextmanager
async def _ended_when_it_fails(sessions: Sessions, record: SessionRecord) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(ToolError):  # what failed first is what a person has to know
            await asyncio.shield(_undone(sessions, record))
        raise


async def _undone(sessions: Sessions, record: SessionRecord) -> None:
    """From when it is written down as ready, somebody may work in it: then its files are kept."""
    now = await sessions.get(record.user_id, record.session_id)
    await sessions.end(now, keep_files=now.has_work)


async def _keep_first(sessions: Sessions, record: SessionRecord, observer: Observer) -> None:
    """The workspace comes up whatever becomes of it: that is only told."""
    try:
        await sessions.save(record)
    except (ToolError, OSError) as error:
        observer.remark(f"its first save could not be kept: {error}")


async def inject(
    client: Client, archive: Packed | None, stages: Stages, otherwise: str = "it is in the image"
) -> InjectAnswer | None:
    """Send the content in; with none, ``otherwise`` says where it is."""
    if archive is None:
        stages.observer.skipped(Stage.EXTRACT, otherwise)
        return None
    with stages.under_way(Stage.EXTRACT) as done:
        injected = await client.put_archive(archive.chunks(), digest=archive.digest)
        done(f"{count_text(injected.files, 'file')}, {size_text(injected.content_bytes)}")
    return injected


_TAKEN = re.compile(r"EADDRINUSE|address already in use|port \d+ is (already )?(in use|taken)", re.IGNORECASE)


def lost_its_port(error: DevServerFailed) -> bool:
    """Whether a dev server failed because something else listens on its port.

    >>> lost_its_port(DevServerFailed("it ended", output=["Error: listen EADDRINUSE: 127.0.0.1:4321"]))
    True
    >>> lost_its_port(DevServerFailed("it ended", output=["SyntaxError: address"]))
    False
    """
    lines = error.details.get("output")
    return any(
        _TAKEN.search(str(line)) for line in (error.message, *(lines if isinstance(lines, list) else []))
    )


def other_ports(record: SessionRecord, wishes: PortWishes) -> Iterator[str]:
    """A port other than the wished one is said aloud: somebody may be looking at the wrong page."""
    for what, wished, given in (
        ("tool server", wishes.tool.port, record.tool_port),
        ("dev server", wishes.dev.port, record.dev_port),
    ):
        if wished not in (0, given):
            yield f"port {wished} is taken: the {what} gets {given}"


async def start(
    sessions: Sessions, client: Client, template: Template, record: SessionRecord, stages: Stages
) -> StartAnswer:
    """Install what it needs and start its dev server; by another socket where this client's breaks."""
    # The session's own port, for template.json only says which one is liked best.
    dev = msgspec.structs.replace(template.dev_request(), port=record.dev_port)
    following = Following(Start(install=template.install_request(), dev=dev), stages.take)
    return await following.to_its_end(client, lambda: sessions.client(record))


def preview_of(sessions: Sessions, record: SessionRecord, started: StartAnswer) -> str | None:
    """Where its page is; None when it has no dev server."""
    return f"{sessions.dev_server(record).url}/" if started.dev.state is DevState.READY else None
