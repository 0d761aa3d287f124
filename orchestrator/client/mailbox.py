"""What came for one request and was not yet taken. No socket, no frames: bytes in, bytes out.

All requests of a client share one socket and one reader. A mailbox is bounded; when it is full the reader
waits for its owner, and so, through the socket, does the tool server: nothing is lost and nothing piles up.
The wait lasts as long as the owner takes *something* now and then. An owner that takes nothing for
``patience_seconds`` is given up: its request fails and is cancelled, and the others go on. Whoever wants to
be slow for long opens a client of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from protocol.errors import Cancelled, ToolError

MAX_EVENTS = 256
"""Four times what the tool server queues for a socket. A gut feeling."""
MAX_BYTES = 4 * 1024 * 1024
"""A few chunks of an archive."""
PATIENCE_SECONDS = 10.0
"""How long one owner may hold up all others. A gut feeling."""


class Mailbox:
    """Events of one request in order, then its outcome: the raw answer, or the error."""

    def __init__(self, *, wants_events: bool, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._events: deque[msgspec.Raw] = deque()
        self._bytes = 0
        self._wants_events = wants_events
        self._patience_seconds = patience_seconds
        self._changed: asyncio.Event | None = None
        self._taken: asyncio.Event | None = None
        """Made by who waits: most requests have one answer, and no events."""
        self._outcome: msgspec.Raw | ToolError | None = None

    @property
    def finished(self) -> bool:
        """Whether the outcome is here; events may still wait."""
        return self._outcome is not None

    async def put(self, event: msgspec.Raw) -> bool:
        """Keep ``event``, waiting for room. False when the owner was given up: then cancel its request."""
        if self._is_ignored():
            return True
        while self._full():
            self._taken = asyncio.Event()
            try:
                async with asyncio.timeout(self._patience_seconds):
                    await self._taken.wait()
            except TimeoutError:
                self.fail(self._given_up())
                return False
            if self._is_ignored():
                return True
        self._add(event)
        return True

    def put_at_once(self, event: msgspec.Raw) -> bool:
        """The same where there is room; False where it would have to wait, and then it is not kept."""
        if self._is_ignored():
            return True
        if self._full():
            return False
        self._add(event)
        return True

    def finish(self, answer: msgspec.Raw) -> None:
        """The answer came; there is nothing after it."""
        self._settle(answer)

    def fail(self, error: ToolError) -> None:
        """The request failed; events that wait are still handed out first."""
        self._settle(error)

    def drop_events(self) -> None:
        """The owner wants the outcome only: what waits and what comes is let go."""
        self._wants_events = False
        self._events.clear()
        self._bytes = 0
        _set(self._taken)

    async def next_event(self) -> msgspec.Raw | None:
        """The next event; None when there is none any more."""
        while not self._events:
            if self.finished:
                return None
            await self._change()
        event = self._events.popleft()
        self._bytes -= len(memoryview(event))
        _set(self._taken)
        return event

    async def outcome(self) -> msgspec.Raw:
        """Wait for the answer, or raise the error."""
        while self._outcome is None:
            await self._change()
        if isinstance(self._outcome, ToolError):
            raise self._outcome
        return self._outcome

    async def _change(self) -> None:
        if self._changed is None or self._changed.is_set():
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _add(self, event: msgspec.Raw) -> None:
        self._events.append(event)
        self._bytes += len(memoryview(event))
        _set(self._changed)

    def _is_ignored(self) -> bool:
        return self.finished or not self._wants_events

    def _settle(self, outcome: msgspec.Raw | ToolError) -> None:
        if self._outcome is None:
            self._outcome = outcome
        _set(self._changed)
        _set(self._taken)

    def _full(self) -> bool:
        return len(self._events) >= MAX_EVENTS or self._bytes >= MAX_BYTES

    def _given_up(self) -> ToolError:
        return Cancelled(
            f"no event of this request was taken for {self._patience_seconds:g} s, so it was cancelled: take "
            "events as they come, or open a client of its own for it",
            patienceSeconds=self._patience_seconds,
            waitingEvents=len(self._events),
        )


def _set(event: asyncio.Event | None) -> None:
    if event is not None:
        event.set()
