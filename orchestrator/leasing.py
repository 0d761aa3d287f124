"""One orchestrator at work: its leases are taken, renewed while it works, and given back.

Everything that changes a session's state goes through here, so that no move is made without a lease. The
registry blocks, hence the threads; a thread goes on when nobody waits for it any more, so a cancellation
waits for it and gives back what it took.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from orchestrator import processes
from orchestrator.leases import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    Clock,
    Holder,
    Lease,
    Purpose,
    is_over,
    refusal,
)
from orchestrator.records import Change, Records, SessionRecord
from orchestrator.session_states import Event, State
from protocol.errors import ToolError

T = TypeVar("T")


class Leasing:
    """The leases of one orchestrator."""

    def __init__(self, records: Records, holder: Holder | None = None, clock: Clock | None = None) -> None:
        self._records = records
        self._holder = holder or Holder.of_this_process()
        self._clock = clock or Clock.of_this_machine()
        self._held: set[str] = set()
        self._ending: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def add(self, choose: Callable[[frozenset[int]], SessionRecord]) -> SessionRecord:
        """A new session, which this orchestrator is at work on."""
        lease = self._lease(Purpose.START)
        record = await asyncio.to_thread(self._records.add, choose, lease)
        self._hold(record.session_id)
        return record

    @contextlib.contextmanager
    def ending(self, session_id: str) -> Iterator[None]:
        """Around the lease to stop a session: Busy while another task of this orchestrator has it.

        The registry knows orchestrators, not their tasks: one would give back what another still needs.
        """
        if session_id in self._ending:
            raise refusal(session_id, Purpose.STOP, self._holder.pid)
        self._ending.add(session_id)
        try:
            yield
        finally:
            self._ending.discard(session_id)

    async def claim(
        self,
        session_id: str,
        purpose: Purpose,
        event: Event | None = None,
        change: Change | None = None,
        seen: State | None = None,
    ) -> SessionRecord:
        """Be at work on a session from now on; see ``Records.claim``."""
        lease = self._lease(purpose)
        claimed: list[SessionRecord] = []

        def claim() -> SessionRecord:
            claimed.append(self._records.claim(session_id, lease, self.is_over, event, change, seen))
            return claimed[0]

        try:
            record = await to_the_end(claim)
        except asyncio.CancelledError:
            if claimed:  # else it may be another task's of ours, which is at work on it
                self._held.add(session_id)
                await asyncio.shield(self.release(session_id))
            raise
        self._hold(session_id)
        return record

    async def move(
        self, session_id: str, event: Event, *, last: bool = False, **changes: object
    ) -> SessionRecord:
        """Go on with it; with ``last`` it is given back."""
        record = await to_the_end(
            lambda: self._records.move(session_id, event, self._holder, release=last, **changes)
        )
        if last:
            self._held.discard(session_id)
        return record

    async def release(self, session_id: str) -> None:
        """Be at work on it no longer. One that cannot be given back runs out by itself."""
        if session_id not in self._held:
            return
        self._held.discard(session_id)
        with contextlib.suppress(ToolError):
            await to_the_end(lambda: self._records.release(session_id, self._holder))

    def dropped(self, session_id: str) -> None:
        """Its record is gone, and the lease with it."""
        self._held.discard(session_id)

    def is_over(self, lease: Lease) -> bool:
        """Whether nobody is at work under it any more."""
        return is_over(lease, self._holder, self._clock.seconds(), processes.is_running)

    async def unattended(self) -> list[SessionRecord]:
        """Sessions between two states, with nobody at work on them."""
        return await asyncio.to_thread(self._records.unattended, self.is_over)

    async def close(self) -> None:
        """Renew nothing any more."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    def _lease(self, purpose: Purpose) -> Lease:
        return Lease(self._holder, purpose, self._clock.seconds() + LEASE_SECONDS)

    def _hold(self, session_id: str) -> None:
        self._held.add(session_id)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Until nothing is held any more."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not self._held:
                return
            until = self._clock.seconds() + LEASE_SECONDS
            # A full disk, or no file to be opened any more; the next turn may have more luck.
            with contextlib.suppress(ToolError, OSError):
                await asyncio.to_thread(self._records.renew, self._holder, until)


async def to_the_end(work: Callable[[], T]) -> T:
    """Like ``to_thread``, but a cancellation waits until the thread is done."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # looked at: nobody else will
        raise
