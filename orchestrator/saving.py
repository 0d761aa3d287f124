"""What a running workspace holds, on its way into a save: packed by its own tool server, checked here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records import SessionRecord
from orchestrator.save_store import SaveStore, Stored
from orchestrator.saves import SavedArchive, write_save
from protocol.errors import ToolError
from protocol.messages.archives import ArchiveFormat, SaveAnswer
from protocol.templates import TEMPLATE_FILE, Template, parse_template

if TYPE_CHECKING:
    from orchestrator.client import Client


HISTORY = (".git",)
"""What saves leave out as a rule; see ``keep_save``."""


@dataclass(frozen=True)
class Saved:
    """A save, as the tool server packed it and as it lies on disk."""

    file: SavedArchive
    answer: SaveAnswer
    stored: Stored | None = None
    """None when it was written to a place of somebody's own, and is none of the workspace's saves."""


async def save_to(client: Client, target: Path, form: ArchiveFormat) -> Saved:
    """Write what ``client``'s workspace holds, less what its own template.json leaves out."""
    async with _packed(client, form) as sent:
        file = await write_save(sent.chunks(), target, sent.digest)
        return Saved(file, sent.told())


async def keep_save(
    client: Client,
    store: SaveStore,
    record: SessionRecord,
    *,
    with_history: bool = False,
    replaces: str | None = None,
) -> Saved:
    """The same as the workspace's newest save; older ones make room once it was read back.

    ``with_history`` is for a save that is all that stays of the files: then ``.git`` is in it as well, for
    what was committed is nobody's to make again. ``replaces`` is an earlier one whose place it takes.
    """
    async with _packed(client, ArchiveFormat.GZIP, HISTORY if with_history else ()) as sent:
        stored = await store.add(
            record.user_id,
            record.workspace_id,
            sent.chunks(),
            session=record.session_id,
            replaces=replaces,
            claimed=sent.digest,
        )
        file = SavedArchive(stored.path, stored.record.size, stored.record.sha256)
        return Saved(file, sent.told(), stored)


async def own_template(client: Client) -> Template:
    """The workspace's own template.json; an empty one when it has none, or a broken one."""
    try:
        found = await client.read(path=TEMPLATE_FILE)
        return parse_template(found.content.encode())
    except ToolError:
        return Template()


class _Sent:
    """A tree as it comes from a tool server, and what that tells of it at the end."""

    def __init__(
        self, client: Client, form: ArchiveFormat, template: Template, include: tuple[str, ...]
    ) -> None:
        rules = template.archive
        taken = [*rules.include, *include]
        self.stream = client.save.stream(format=form, exclude=rules.exclude, include=taken)
        self._answer: SaveAnswer | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it. Raises when it broke off, and then no file gets its name."""
        async for event in self.stream:
            yield event.data
        self._answer = await self.stream.result()

    def told(self) -> SaveAnswer:
        """Once all chunks have come."""
        assert self._answer is not None
        return self._answer

    def digest(self) -> str:
        """Of the tar, as the tool server has packed it."""
        return self.told().digest


@asynccontextmanager
async def _packed(client: Client, form: ArchiveFormat, include: tuple[str, ...] = ()) -> AsyncIterator[_Sent]:
    sent = _Sent(client, form, await own_template(client), include)
    async with sent.stream:
        yield sent
