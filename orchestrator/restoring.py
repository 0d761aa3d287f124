"""Back to a save: which workspace is meant, from what it is brought up again, and a running one put back.

A save exists: the newest one is restored. There is none: it is the template, and of it comes the first
save. Whatever would leave somebody's newer work behind is refused, with the ways to go on in one sentence: a
damaged save, and files of a stopped session that no save holds. Who names a save or the template gets it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from orchestrator.client import Client
from orchestrator.launch import Observer, Stages, inject, start
from orchestrator.packing import Packed
from orchestrator.paths import UserId, WorkspaceId, workspace_id
from orchestrator.records import SessionRecord
from orchestrator.save_rules import LATEST, ContentWish, FromSave, Kept
from orchestrator.save_store import SaveStore
from orchestrator.saving import Saved, own_template
from orchestrator.session_states import LIVE
from orchestrator.sessions import Seen, Sessions
from orchestrator.templates import Source, SourceKind, find_source, template_in_archive, template_roots
from orchestrator.units import size_text
from protocol.errors import Conflict, DevServerFailed, InstallFailed, InvalidRequest, NotFound
from protocol.exclusions import Exclusions

_TICK_SECONDS = 0.01
"""By so much a file system's clock may be behind the one that a save is dated by: a kernel at 100 Hz."""


@dataclass(frozen=True)
class BroughtUpFrom:
    """What a workspace is brought up from."""

    source: Source
    save: str | None
    """The save that it is; None for a template."""
    keep_first: bool
    """Whether what comes of it is to be kept as the workspace's first save."""


@dataclass(frozen=True)
class Restored:
    """What became of a running workspace."""

    save: str
    """The save that it was put back to."""
    before: Saved
    """What it held until then."""
    problem: str
    """Why its packages or its dev server failed; empty when they did not."""


async def find_workspace(sessions: Sessions, user: UserId, wanted: str) -> WorkspaceId:
    """The user's workspace of that id, whose id ends so, or which that session is of. Raises NotFound."""
    stored = await asyncio.to_thread(SaveStore(sessions.paths).workspaces, user)
    ids = {str(each.workspace_id) for each in await sessions.workspaces(user)} | set(stored)
    of_sessions = {
        str(seen.record.session_id): str(seen.record.workspace_id)
        for seen in await sessions.list(user, stopped=True)
    }
    found = meant(wanted, {**of_sessions, **{id: id for id in ids}})
    if found is None:
        shown = wanted[:200]
        raise NotFound(f"no workspace {shown!r}; `workspace saves` shows which have saves", workspace=shown)
    return workspace_id(found)


def meant(wanted: str, names: dict[str, str]) -> str | None:
    """What the name stands for, or the only thing that names with such an end stand for.

    >>> names = {"session_1_ab": "workspace_1_cd", "workspace_1_cd": "workspace_1_cd", "w_2_cd": "w_2_cd"}
    >>> meant("session_1_ab", names), meant("ab", names), meant("cd", names), meant("", names)
    ('workspace_1_cd', 'workspace_1_cd', None, None)
    """
    if wanted in names:
        return names[wanted]
    ending = {id for name, id in names.items() if wanted and name.endswith(f"_{wanted}")}
    return ending.pop() if len(ending) == 1 else None


async def brought_up_from(
    sessions: Sessions,
    user: UserId,
    workspace: WorkspaceId,
    wish: ContentWish,
    template: str | None,
    cwd: Path,
) -> BroughtUpFrom:
    """What the workspace comes back from, by ``wish``; reads the save through.

    ``template`` is for a workspace without a save; the one that it was first made from, if left out. Raises
    ArchiveInvalid for a damaged save, Conflict when it runs or has files that no save holds, NotFound.
    """
    store = SaveStore(sessions.paths)
    seen = [each for each in await sessions.list(user, stopped=True) if each.record.workspace_id == workspace]
    for each in seen:
        _refuse_running(each)
    if wish == LATEST:
        await asyncio.to_thread(_refuse_unsaved, sessions, seen, store.saves(user, workspace))
    content = await asyncio.to_thread(store.content, user, workspace, wish)
    if isinstance(content, FromSave):
        made_from = await _first_made_from(sessions, user, workspace)
        path = store.find(user, workspace, content.name)[1]
        source = await asyncio.to_thread(_source_of, path, made_from or path.name)
        return BroughtUpFrom(source, content.name, keep_first=False)
    template = template or await _first_made_from(sessions, user, workspace)
    if template is None:
        raise InvalidRequest(
            f"nothing tells what {workspace} was made from: name a template or a directory as well",
            workspace=workspace,
        )
    source = await asyncio.to_thread(find_source, template, template_roots(cwd), cwd)
    return BroughtUpFrom(source, None, content.keep_first)


async def restore_running(
    sessions: Sessions,
    user: UserId,
    workspace: WorkspaceId,
    observer: Observer,
    wish: ContentWish = LATEST,
) -> Restored:
    """Put a running workspace back to a save, with the packages and the dev server that belong to it.

    What it holds is saved first, and nothing is replaced unless that went well.
    """
    store = SaveStore(sessions.paths)
    wish = replace(wish, running=True)
    content = await asyncio.to_thread(store.content, user, workspace, wish)
    if not isinstance(content, FromSave):
        raise NotFound(f"workspace {workspace!r} has no save to go back to", workspace=workspace)
    running = [each for each in await sessions.list(user) if each.record.workspace_id == workspace]
    record = next((each.record for each in running if each.alive), None)
    if record is None:
        raise Conflict(
            f"{workspace} does not run: bring it up from that save by "
            f"`workspace up --workspace {workspace} --save {content.name}`",
            workspace=workspace,
        )
    with store.held(user, workspace, content.name) as path:
        before = await sessions.save(record)
        packed, stages = Packed(path, None, size_text(path.stat().st_size)), Stages(observer)
        async with sessions.client(record) as client:
            await inject(client, packed, stages)
            problem = await _started(sessions, client, record, stages)
    return Restored(content.name, before, problem)


async def _started(sessions: Sessions, client: Client, record: SessionRecord, stages: Stages) -> str:
    """Why its packages or its dev server failed; empty when they did not."""
    try:
        await start(sessions, client, await own_template(client), record, stages)
    except (InstallFailed, DevServerFailed) as error:
        return error.message
    return ""


def _refuse_running(seen: Seen) -> None:
    if seen.record.state in LIVE and (seen.alive or seen.unknown):
        session = seen.record.session_id
        raise Conflict(
            f"{seen.record.workspace_id} runs already, as {session}: use that one, put it back to a save by "
            f"`workspace saves restore {session}`, or end it by `workspace down {session}`",
            sessionId=session,
        )


def _refuse_unsaved(sessions: Sessions, seen: list[Seen], saves: list[Kept]) -> None:
    """Files that a session left, and that are newer than the newest save, are the workspace's state."""
    newest = saves[0].created if saves else None
    for each in reversed(seen):
        record = each.record
        root = sessions.paths.workspace_dir(record.user_id, record.session_id)
        if record.has_work and sessions.keeps_files(record) and changed_since(root, newest):
            session = record.session_id
            raise Conflict(
                f"{session} left files in {root} that no save holds: go on with them by "
                f"`workspace resume {session}`, or leave them there by `--save SAVE` or `--from-template`",
                sessionId=session,
            )


def changed_since(root: Path, instant: datetime | None) -> bool:
    """Whether anything there that a save holds came, went or changed since; follows no link. Blocks.

    By the time that the kernel writes down, which no program sets; a directory has that of its last entry
    that came or went. None: whether there is anything.
    """
    if instant is None:
        return next(_entries(root), None) is not None
    since = instant.timestamp() - _TICK_SECONDS
    return any(_changed(path) > since for path in (root, *_entries(root)))


def _entries(root: Path) -> Iterator[Path]:
    """All that a save holds, unless the workspace's own rules say otherwise."""
    rules = Exclusions.default()
    for place, directories, files in os.walk(root):
        here = Path(place).relative_to(root)
        directories[:] = [name for name in directories if not rules.excludes_entry(str(here / name), True)]
        taken = [name for name in files if not rules.excludes_entry(str(here / name))]
        yield from (Path(place) / name for name in (*directories, *taken))


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_ctime
    except FileNotFoundError:
        return 0.0


def _source_of(path: Path, name: str) -> Source:
    return Source(SourceKind.ARCHIVE, name, path, template_in_archive(path))


async def _first_made_from(sessions: Sessions, user: UserId, workspace: WorkspaceId) -> str | None:
    """As a person named it; None when the registry knows no such workspace, or not any more."""
    known = {each.workspace_id: each.template for each in await sessions.workspaces(user)}
    return known.get(workspace)
