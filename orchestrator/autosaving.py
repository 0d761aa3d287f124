"""Running sessions are saved every so often, when their files changed: the host asks, and the host keeps.

    every N seconds:  activity(since) -> nothing changed: nothing is done | changed: one save, read back

Asking is no activity, so a workspace that nobody uses still idles out; a save is. What saves leave out does
not count as a change. Of one session the newest autosave takes the last one's place, so that they never push
out the saves that somebody asked for. What fails is told, and tried again at the next turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.idling import ASK_SECONDS
from orchestrator.paths import UserId
from orchestrator.records import SessionRecord
from orchestrator.saving import Saved, own_template
from orchestrator.sessions import Sessions
from protocol.errors import ToolError
from protocol.exclusions import DEFAULT_EXCLUDED, DEFAULT_INCLUDED
from protocol.templates import TemplateArchive

SAVE_SECONDS = 900.0
"""One save, the largest workspace over a slow link: 8 GiB at 10 MB/s. A gut feeling."""
AT_ONCE = 2
"""Saves of different sessions at the same time: each keeps a processor and the disk busy."""

log = logging.getLogger("orchestrator.autosaving")

Target = Callable[[SessionRecord], Path | None]
"""Where a session's autosave goes: a file that is replaced each time, or None for the workspace's saves."""


@dataclass(frozen=True)
class Autosaved:
    """A session whose turn it was, and that had changed."""

    record: SessionRecord
    saved: Saved | None
    """None when it could not be saved."""
    sentence: str


@dataclass
class _Known:
    """What is remembered of a session between two turns."""

    number: int = 0
    is_dirty: bool = True
    """It changed, and no save since went well."""
    last: str | None = None
    """Our last save of it."""
    ignore: list[str] | None = None
    """What its saves leave out; asked for once and after each save, for reading a file is activity."""


def ignored(rules: TemplateArchive) -> list[str]:
    """What saves leave out, as ``activity`` takes it: later lines win, and ``!`` takes back.

    >>> ignored(TemplateArchive(exclude=["*.mp4"], include=["/dist"]))[-3:]
    ['!.env.example', '*.mp4', '!/dist']
    """
    return [*DEFAULT_EXCLUDED, *_kept(DEFAULT_INCLUDED), *rules.exclude, *_kept(rules.include)]


def _kept(patterns: Iterable[str]) -> list[str]:
    return [f"!{pattern}" for pattern in patterns]


class Autosaver:
    """The turns of one host. It remembers sessions only while they run."""

    def __init__(
        self,
        sessions: Sessions,
        told: Callable[[Autosaved], None],
        *,
        user: UserId | None = None,
        only: str | None = None,
        target: Target = lambda record: None,
    ) -> None:
        """``told`` hears of each save, and of what failed. ``user`` and ``only``, a session, narrow it."""
        self._sessions = sessions
        self._told = told
        self._user = user
        self._only = only
        self._target = target
        self._known: dict[str, _Known] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    async def watch(self, every_seconds: float) -> None:
        """Take turns until cancelled; the first comes after the first interval."""
        await self.begin()
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.turn()
            except ToolError as error:  # of the registry: one that was in use for long, for example
                log.warning("changes could not be looked for, which is tried again: %s", error)

    async def begin(self) -> None:
        """What the sessions hold now counts as saved, for who has just brought them up."""
        for record in await self._records():
            known = self._known.setdefault(record.session_id, _Known())
            await self._look(record, known)
            known.is_dirty = known.number == 0

    async def turn(self) -> list[Autosaved]:
        """Save what has changed since its last save. Never raises for what is wrong with a session."""
        records = await self._records()
        running = {record.session_id for record in records}
        self._known = {session: known for session, known in self._known.items() if session in running}
        done = await asyncio.gather(*map(self._turn_of, records))
        return [each for each in done if each is not None]

    async def _records(self) -> list[SessionRecord]:
        running = await self._sessions.running()
        return [each for each in running if self._user in (None, each.user_id) and self._is_meant(each)]

    def _is_meant(self, record: SessionRecord) -> bool:
        return self._only in (None, record.session_id)

    async def _turn_of(self, record: SessionRecord) -> Autosaved | None:
        known = self._known.setdefault(record.session_id, _Known())
        async with self._room:
            await self._look(record, known)
            if not known.is_dirty:
                return None
            result = await self._saved(record, known)
        if result is not None:
            self._told(result)
        return result

    async def _look(self, record: SessionRecord, known: _Known) -> None:
        """Note whether it changed; one that cannot be asked may have."""
        try:
            async with asyncio.timeout(ASK_SECONDS), self._sessions.client(record) as client:
                if known.ignore is None:
                    known.ignore = ignored((await own_template(client)).archive)
                answer = await client.activity(since=known.number, ignore=known.ignore)
        except (ToolError, TimeoutError):
            known.is_dirty = True
            return
        known.number = answer.number or 0
        known.is_dirty = known.is_dirty or answer.changed is not False

    async def _saved(self, record: SessionRecord, known: _Known) -> Autosaved | None:
        known.ignore = None
        try:
            target = self._target(record)
            async with asyncio.timeout(SAVE_SECONDS):
                saved = await self._sessions.save(record, target, replaces=known.last)
        except TimeoutError:
            return await self._failed(record, f"it took longer than {SAVE_SECONDS:g} s")
        except (ToolError, OSError) as error:
            return await self._failed(record, error.message if isinstance(error, ToolError) else str(error))
        # Files that changed under the hand are saved again at the next turn.
        known.is_dirty = bool(saved.answer.changed)
        known.last = saved.stored.record.name if saved.stored else None
        return Autosaved(record, saved, f"autosaved to {saved.file.path}")

    async def _failed(self, record: SessionRecord, why: str) -> Autosaved | None:
        """None for a session that ended meanwhile: whoever ended it has saved it, or was told not to."""
        if all(each.session_id != record.session_id for each in await self._records()):
            return None
        return Autosaved(record, None, f"could not be autosaved, and is tried again at the next turn: {why}")
