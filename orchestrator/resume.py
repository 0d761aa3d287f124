"""A session that is over runs again: on its kept files, or on its workspace's latest save.

Unlike a launch it has somebody's work in it. So when packages or the dev server fail, the session is up all
the same, for whoever wants to mend them; and when it cannot be brought up, it is what it was before.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from orchestrator.launch import Observer, Stage, Stages, inject, other_ports, preview_of, start
from orchestrator.packing import Packed
from orchestrator.paths import UserId
from orchestrator.records import SessionRecord
from orchestrator.save_rules import LATEST, ContentWish, FromSave
from orchestrator.save_store import SaveStore
from orchestrator.saving import own_template
from orchestrator.session_states import State
from orchestrator.sessions import PortWishes, Sessions
from orchestrator.units import size_text
from protocol.errors import DevServerFailed, InstallFailed, NotFound, ToolError
from protocol.messages.archives import InjectAnswer
from protocol.messages.devserver import StartAnswer


@dataclass(frozen=True)
class Resumed:
    """A session that answers again."""

    record: SessionRecord
    tool_server_url: str
    preview_url: str | None
    """None when it has no dev server, or that failed."""
    injected: InjectAnswer | None
    """None when its files were where it left them."""
    problem: str
    """Why packages or the dev server failed; empty when they did not."""
    seconds: dict[str, float]
    """Per stage, and ``total``."""


async def resume(
    sessions: Sessions,
    user: UserId,
    session_id: str,
    observer: Observer,
    *,
    wishes: PortWishes | None = None,
    wish: ContentWish = LATEST,
) -> Resumed:
    """Start the user's session again; its ports are chosen anew where they are taken.

    ``wish`` says which save, on a backend that keeps no files. Raises NotFound when there is none, Conflict
    when the session runs, Busy when somebody else is at work on it.
    """
    record, stages = await sessions.get(user, session_id), Stages(observer)
    async with contextlib.AsyncExitStack() as held:
        content = None
        if record.state is State.STOPPED and not sessions.keeps_files(record):
            content = await _saved(sessions, record, wish, held)
        with stages.under_way(Stage.SANDBOX) as done:
            asked = wishes or sessions.wishes_of(record)
            record = await sessions.restart(record, asked)
            for remark in other_ports(record, asked):
                observer.remark(remark)
            done(sessions.tool_server(record).url)
        try:
            if content is None and not sessions.keeps_files(record):  # the start has saved what it still held
                content = await _saved(sessions, record, wish, held)
            return await _brought_up(sessions, record, content, stages)
        except BaseException:
            with contextlib.suppress(ToolError):  # what failed first is what a person has to know
                await asyncio.shield(sessions.put_back(record))
            raise


async def _saved(
    sessions: Sessions, record: SessionRecord, wish: ContentWish, held: contextlib.AsyncExitStack
) -> Packed:
    """The save, which nobody removes while it is ``held``."""
    store, whose = SaveStore(sessions.paths), (record.user_id, record.workspace_id)
    found = await asyncio.to_thread(store.content, *whose, wish)
    if not isinstance(found, FromSave):
        raise NotFound(
            f"{record.session_id} has left neither files nor a save; begin anew by "
            f"`workspace up {record.template}`",
            sessionId=record.session_id,
        )
    path = held.enter_context(store.held(*whose, found.name))
    return Packed(path, None, size_text(path.stat().st_size))


async def _brought_up(
    sessions: Sessions, record: SessionRecord, content: Packed | None, stages: Stages
) -> Resumed:
    async with sessions.client(record) as client:
        injected = await inject(client, content, stages, "its files are where it left them")
        template = await own_template(client)
        problem, started = "", None
        try:
            started = await start(sessions, client, template, record, stages)
        except (InstallFailed, DevServerFailed) as error:
            problem = error.message
    record = await sessions.ready(record)
    return Resumed(
        record=record,
        tool_server_url=sessions.tool_server(record).url,
        preview_url=_preview(sessions, record, started),
        injected=injected,
        problem=problem,
        seconds=stages.total(),
    )


def _preview(sessions: Sessions, record: SessionRecord, started: StartAnswer | None) -> str | None:
    return preview_of(sessions, record, started) if started else None
