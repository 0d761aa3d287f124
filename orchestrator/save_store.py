"""The saves of every workspace on this host: several of each, each one read back before an older one goes.

    data/saves/USER/WORKSPACE/NAME.tar.gz        the save: it is there once it has this name
    data/saves/USER/WORKSPACE/NAME.json          what was written down of it, always there before it
    data/saves/USER/WORKSPACE/.NAME.tar.gz.part  one that is being written, locked by its writer

Nothing here is asked of a session or a registry: a save belongs to its workspace, and outlives both. Any
number of programs may write, restore and prune at once: no two saves share a name, a save that is being
restored is held by a shared lock, and what somebody holds is not removed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.directories import private_directory
from orchestrator.durable import PART
from orchestrator.paths import PathManager, is_plain_name
from orchestrator.save_files import (
    SUFFIX,
    is_leftover,
    look_at,
    record_of,
    removed,
    save_name_of,
    write_note,
    wrong_with,
)
from orchestrator.save_rules import (
    KEEP,
    LATEST,
    Content,
    ContentWish,
    FromSave,
    FromTemplate,
    Kept,
    Refused,
    Retention,
    SaveRecord,
    choose_content,
    find_save,
    new_name,
    newest_first,
    number_of,
    to_drop,
)
from orchestrator.saves import Part, to_end
from protocol.errors import ArchiveInvalid, NotFound

LEFTOVER_SECONDS = 3600.0
"""What a kill left behind is swept when it was not written to for so long, and nobody holds it."""


@dataclass(frozen=True)
class Stored:
    """A new save, and the older ones that made room for it."""

    record: SaveRecord
    path: Path
    dropped: tuple[str, ...]


class SaveStore:
    """All saves below one data directory. Of its methods those that are no coroutines block."""

    def __init__(
        self,
        paths: PathManager,
        retention: Retention = KEEP,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._paths = paths
        self._retention = retention
        self._now = now

    async def add(
        self,
        user: str,
        workspace: str,
        chunks: AsyncIterator[bytes],
        *,
        session: str | None = None,
        replaces: str | None = None,
        claimed: Callable[[], str | None] = lambda: None,
    ) -> Stored:
        """Keep a new save: a tar.gz. Older ones go, by the retention, once it was read back.

        ``claimed`` gives the tar's digest as the sender tells it, once all chunks have come. ``replaces`` is
        the name of one that goes first, if it is still there and nobody restores it.
        Raises ArchiveInvalid when what is on disk is not what was sent; then all older ones stay.
        """
        directory = await asyncio.to_thread(private_directory, self._paths.saves_dir(user, workspace))
        await asyncio.to_thread(self.sweep, user, workspace)
        name, now = await asyncio.to_thread(self._new_name, directory)
        target = directory / f"{name}{SUFFIX}"
        async with Part(directory / f".{target.name}{PART}") as part:
            await part.fill(chunks)
            checked = await part.check(claimed())
            record = record_of(name, now, workspace, session, checked)
            await to_end(write_note, directory, record)
            await part.place(target)
        if replaces is not None:
            await asyncio.to_thread(self._replaced, user, workspace, replaces)
        dropped = await asyncio.to_thread(self.prune, user, workspace)
        return Stored(record, target, tuple(save.name for save in dropped))

    def saves(self, user: str, workspace: str) -> list[Kept]:
        """The workspace's saves, newest first."""
        return newest_first(save for save, _ in self._found(user, workspace).values())

    def workspaces(self, user: str) -> list[str]:
        """Those of the user's that have a directory for saves."""
        above = self._paths.saves_dir(user, "any").parent
        if not above.is_dir():
            return []
        return sorted(each.name for each in above.iterdir() if each.is_dir() and is_plain_name(each.name))

    def find(self, user: str, workspace: str, wanted: str | None = None) -> tuple[Kept, Path]:
        """The save of that name or number, or the newest; and its file. Raises NotFound."""
        found = self._found(user, workspace)
        save = find_save([each for each, _ in found.values()], wanted)
        if save is None:
            which = f"save {wanted!r}" if wanted else "save"
            raise NotFound(
                f"workspace {workspace!r} has no {which}; `workspace saves` shows which there are",
                workspace=workspace,
            )
        return found[save.name]

    def verify(self, user: str, workspace: str, wanted: str | None = None) -> str | None:
        """Read a save through: what is wrong with it, None when it is whole. Raises NotFound."""
        save, path = self.find(user, workspace, wanted)
        return wrong_with(save, path)

    def content(self, user: str, workspace: str, wish: ContentWish = LATEST) -> FromSave | FromTemplate:
        """Where the workspace is brought up from. Reads the chosen save through.

        Raises ArchiveInvalid or NotFound when a person has to decide; ``details`` names the saves that are
        whole as ``good``.
        """
        found = self._found(user, workspace)
        saves = [save for save, _ in found.values()]
        chosen = None if wish.template else find_save(saves, wish.save)
        verdicts = {chosen.name: wrong_with(*found[chosen.name])} if chosen else {}
        if not wish.template and saves and (chosen is None or verdicts[chosen.name]):
            # Only now are the others read: to be offered, a save has to be whole.
            verdicts |= {save.name: wrong_with(*found[save.name]) for save in saves if save != chosen}
        content: Content = choose_content(saves, verdicts, wish, workspace)
        if isinstance(content, Refused):
            kind = ArchiveInvalid if chosen else NotFound
            raise kind(content.message, workspace=workspace, good=list(content.good))
        return content

    @contextmanager
    def held(self, user: str, workspace: str, name: str) -> Iterator[Path]:
        """A save's file, not to be removed by any pruning meanwhile. Raises NotFound."""
        _, path = self.find(user, workspace, name)
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise _just_removed(name, workspace) from error
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not path.exists():  # by whoever held it until now
                raise _just_removed(name, workspace)
            yield path
        finally:
            os.close(file)

    def prune(self, user: str, workspace: str, retention: Retention | None = None) -> list[Kept]:
        """Remove what the retention does not keep, oldest first; gives what was removed.

        One that somebody restores stays, and so does whatever cannot be removed: the next save tries again.
        """
        found = self._found(user, workspace)
        saves = [save for save, _ in found.values()]
        drop = to_drop(saves, self._now(), retention or self._retention)
        return [save for save in drop if removed(found[save.name][1])]

    def remove(self, user: str, workspace: str, wanted: str | None = None) -> list[Kept]:
        """Remove one save, or all of the workspace's; gives what was removed. Raises NotFound."""
        chosen = [self.find(user, workspace, wanted)]
        if wanted is None:
            chosen = list(self._found(user, workspace).values())
        return [save for save, path in sorted(chosen, key=lambda each: each[0].order) if removed(path)]

    def sweep(self, user: str, workspace: str) -> list[Path]:
        """Remove what a kill left behind: parts that nobody holds, and notes of saves that never came."""
        directory = self._paths.saves_dir(user, workspace)
        if not directory.is_dir():
            return []
        return [path for path in directory.iterdir() if is_leftover(path, LEFTOVER_SECONDS) and removed(path)]

    def _replaced(self, user: str, workspace: str, name: str) -> None:
        found = self._found(user, workspace).get(name)
        if found is not None:
            removed(found[1])

    def _found(self, user: str, workspace: str) -> Mapping[str, tuple[Kept, Path]]:
        directory = self._paths.saves_dir(user, workspace)
        if not directory.is_dir():
            return {}
        saves = [(look_at(path), path) for path in directory.iterdir() if save_name_of(path) is not None]
        return {save.name: (save, path) for save, path in saves if save is not None}

    def _new_name(self, directory: Path) -> tuple[str, datetime]:
        """One more than any that is there or on its way. Chance tells those apart that choose at once."""
        names = [path.name.removeprefix(".").partition(".")[0] for path in directory.iterdir()]
        now = self._now()
        return new_name(max(map(number_of, names), default=0) + 1, now, secrets.token_bytes(4)), now


def _just_removed(name: str, workspace: str) -> NotFound:
    return NotFound(f"save {name!r} was removed just now", workspace=workspace)
