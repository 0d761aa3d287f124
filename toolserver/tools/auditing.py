"""audit: the newest lines in memory, all of them in a file, and who wants to read on.

A line is kept as bytes, which the collector of garbage need not look at, and becomes a message when somebody
reads it. Lines go to the file together, once a second: a KILL loses that much. Those that the disk refuses
wait for the next time, no more than are kept in memory; what is given up beyond that is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from protocol.limits import Limits
from protocol.messages.audit import Audit, AuditAnswer, AuditLine
from toolserver.system.trail import Trail

if TYPE_CHECKING:
    from toolserver.tools.call import Call

Noted = tuple[int, bytes]
"""Number, and the line as it is on the wire and in the file."""
_TOGETHER = 500
"""Lines told to a follower without a look at what else is to be done."""
_IN_ONE_WRITE = 64
"""Lines of some 500 bytes, so that what has waited long fits into the smallest file too."""
_BURST, _PER_SECOND = 20.0, 1.0
"""Lines of their own for requests that were turned away; the others are counted."""

log = logging.getLogger("toolserver.audit")


class Auditing:
    """The lines, and the handler that tells them."""

    def __init__(self, limits: Limits, trail: Trail | None = None) -> None:
        self._trail = trail
        self._kept: deque[Noted] = deque(maxlen=limits.max_audit_entries)
        self._unwritten: deque[Noted] = deque(maxlen=limits.max_audit_entries)
        self._waiting: deque[Noted] = deque(maxlen=limits.max_audit_entries)
        """For the disk; the writing thread's alone."""
        self._refused = False
        self.lost = 0
        """Lines that are in no file, because the disk did not take them for too long."""
        self._written = 0
        """By number, if none had been given up."""
        self._last = 0
        self._news = asyncio.Event()
        self._followers = 0
        self._writing: asyncio.Task[None] | None = None
        self._room, self._looked, self._unlisted = _BURST, time.monotonic(), 0
        self.before_a_look: Callable[[], None] = lambda: None
        """Brings what is still to be noted; set by who notes."""

    def remember(self) -> None:
        """Take up the lines of earlier runs. Blocks; before the first ``note``."""
        for raw in self._trail.newest() if self._trail else ():
            with contextlib.suppress(msgspec.DecodeError):
                self._last = max(self._last, _told((0, raw)).number)
                self._kept.append((self._last, raw))
        self._written = self._last

    def note(self, at: float, line: bytes) -> None:
        """One more line, an object in JSON without its number and time."""
        self._last += 1
        noted = (self._last, b'{"number":%d,"time":"%b",%b\n' % (self._last, _instant(at), line[1:]))
        self._kept.append(noted)
        self._unwritten.append(noted)
        if self._followers:
            self._news.set()

    def may_list(self, line: dict[str, Any]) -> bool:
        """Whether who was turned away gets a line, which then tells how many before him got none."""
        now = time.monotonic()
        self._room = min(_BURST, self._room + (now - self._looked) * _PER_SECOND)
        self._looked = now
        if self._room < 1:
            self._unlisted += 1
            return False
        self._room -= 1
        if self._unlisted:
            line["unlisted"], self._unlisted = self._unlisted, 0
        return True

    async def audit(self, request: Audit, call: Call) -> AuditAnswer:
        """What there is; with events, also what comes."""
        self.before_a_look()
        if call.streaming and request.follow:
            await self._follow(request, call)
        found = self._after(request.since)
        chosen = found[-request.limit :] if request.since is None else found[: request.limit]
        return AuditAnswer(
            lines=[_told(each) for each in chosen],
            last=self._last,
            missed=self._missed(request.since),
            more=request.since is not None and len(found) > len(chosen),
        )

    def write_soon(self) -> None:
        """Have what is new written, on a thread."""
        new = self._unwritten or self._waiting
        if self._trail and new and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(asyncio.to_thread(self._write))

    async def close(self) -> None:
        """Write the last lines."""
        self.before_a_look()
        if self._writing is not None:
            await self._writing
        await asyncio.to_thread(self._write)
        if self._waiting:
            log.warning("audit lines are lost", extra={"data": {"lines": len(self._waiting)}})

    async def _follow(self, request: Audit, call: Call) -> None:
        since = self._last if request.since is None else request.since
        self._followers += 1
        try:
            await self._tell_from(since, call)
        finally:
            self._followers -= 1

    async def _tell_from(self, since: int, call: Call) -> None:
        while True:
            lines = self._after(since)[:_TOGETHER]
            for each in lines:
                await call.emit(_told(each))
                since = each[0]
            if not lines:
                self._news.clear()
                await self._news.wait()

    def _after(self, since: int | None) -> list[Noted]:
        if since is None:
            return list(self._kept)
        found: deque[Noted] = deque()
        for each in reversed(self._kept):
            if each[0] <= since:
                break
            found.appendleft(each)
        return list(found)

    def _missed(self, since: int | None) -> int:
        if since is None or not self._kept:
            return 0
        return max(0, self._kept[0][0] - since - 1)

    def _write(self) -> None:
        """On one thread at a time."""
        if self._trail is None:
            return
        self._take()
        try:
            while together := [line for _, line in itertools.islice(self._waiting, _IN_ONE_WRITE)]:
                self._trail.append(b"".join(together))
                for _ in together:
                    self._waiting.popleft()
                self._written += len(together)
        except OSError as error:
            if not self._refused:
                data = {"reason": str(error), "waiting": len(self._waiting)}
                log.warning("audit not written; tried again each second", extra={"data": data})
            self._refused = True
        else:
            if self._refused:
                log.warning("audit written again", extra={"data": {"lostSoFar": self.lost}})
            self._refused = False

    def _take(self) -> None:
        """What is new joins what waits, and the oldest beyond the bound are given up."""
        while self._unwritten:
            self._waiting.append(self._unwritten.popleft())
        if self._waiting:
            self.lost = self._waiting[-1][0] - self._written - len(self._waiting)


def _told(noted: Noted) -> AuditLine:
    return msgspec.json.decode(b'{"type":"line",' + noted[1][1:], type=AuditLine)


def _instant(at: float) -> bytes:
    """
    >>> _instant(1.5e9 + 0.25)
    b'2017-07-14T02:40:00.250+00:00'
    """
    second = int(at)
    return b"%b.%03d+00:00" % (_second(second), int((at - second) * 1000))


@functools.lru_cache(16)
def _second(at: int) -> bytes:
    return datetime.fromtimestamp(at, UTC).isoformat().partition("+")[0].encode()
