"""Sessions: saved and stopped, ended, put in order after a crash. Each under a lease.

The registry is written again only when nothing of a sandbox is left. Files outlive a session unless somebody
says that they may go, and what cannot be saved goes on.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from dataclasses import replace

from orchestrator.backends import Backend, Destroyed, GuestState
from orchestrator.leases import Purpose
from orchestrator.paths import UserId
from orchestrator.records import SessionRecord
from orchestrator.rescuing import rescued
from orchestrator.save_store import SaveStore
from orchestrator.saving import Saved
from orchestrator.session_finding import Finding, sandbox_of
from orchestrator.session_states import Event, State
from orchestrator.session_values import Ended, LastLook, PutInOrder
from protocol.errors import (
    Busy,
    Conflict,
    NoSpace,
    NotFound,
    ToolError,
    Unavailable,
)


class Ending(Finding):
    """The part of ``Sessions`` that ends."""

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
        Raises Busy while another orchestrator starts or ends it, or another task ends it, and NoSpace or
        Unavailable when the end cannot be written down; then it has ended all the same.
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
        with self._leasing.ending(record.session_id):
            # Held while it is saved already; it is ``stopping`` only from when nothing can be lost any more.
            with contextlib.suppress(NoSpace, Unavailable):  # ending makes room on a full disk
                await self._leasing.claim(record.session_id, Purpose.STOP, seen=seen)
            try:
                saved = await self._last_save(record, driver) if save else None
                if last_look is not None:
                    await last_look()
                with contextlib.suppress(NoSpace, Unavailable):
                    await self._leasing.move(record.session_id, Event.STOP, discards=not keep_files)
                outcome = await driver.destroy(sandbox_of(record), keep_files=keeps)
                if saved:
                    outcome = replace(outcome, kept=outcome.kept or str(saved.file.path))
                await self._write_down_end(record, outcome, keep_files)
                return Ended(outcome, saved)
            finally:
                await asyncio.shield(self._leasing.release(record.session_id))

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

    async def _last_save(self, record: SessionRecord, driver: Backend) -> Saved | None:
        """None when there is no sandbox, or a dead one that leaves its files, and so nothing to lose."""
        guests = {guest.id: guest.state for guest in await driver.guests()}
        state = guests.get(sandbox_of(record))
        if state is None or (state is GuestState.DEAD and driver.properties.keeps_files):
            return None
        if state is GuestState.DEAD and (save := await rescued(driver, record, SaveStore(self._paths))):
            return save
        try:
            return await self.save(record, with_history=not driver.properties.keeps_files)
        except (ToolError, OSError) as error:
            raise Unavailable(
                f"the files of {record.session_id} would be lost with it, and could not be saved: "
                f"{error}; give them up by `workspace down {record.session_id} --remove`",
                sessionId=record.session_id,
            ) from error

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
