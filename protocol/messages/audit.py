"""The audit: who asked for what, about which path, how it went. Never content, tokens or whole commands."""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.messages.base import Answer, Event, Request


class Audit(Request, frozen=True, kw_only=True):
    """Tell what was asked of this tool server, and by whom; as an event a line, for as long as asked."""

    since: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Only lines after this number, from the oldest on; without it, the newest."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """At most so many lines in the answer."""
    follow: bool = False
    """Where events are wanted: go on telling, until cancelled."""


class AuditLine(Event, frozen=True, kw_only=True, tag="line"):
    """One operation that has ended, or a request that was turned away."""

    number: int
    """Counted from the first line in this state directory; one that is missing was not kept."""
    time: str
    """When it ended."""
    who: str
    """The user that the token names; ``static`` for the daemon's own token, ``anyone`` where none is asked
    for, ``nobody`` for one who was turned away."""
    operation: str
    """Or the door: ``raw_read``, ``raw_write``, ``raw_remove``; of who was turned away, the address."""
    outcome: str
    """``ok``, or the error's code."""
    duration_ms: float = 0
    request_id: str = ""
    token_id: str | None = None
    """Of a session token: which one."""
    paths: list[str] = []
    """That the request names; of an edit or a replacement, those that it changed. At most 10."""
    more_paths: int = 0
    """Past those."""
    program: str | None = None
    """The name of what a command runs first; ``sh`` where that is not plain."""
    bytes_in: int = 0
    """The request, as sent."""
    bytes_out: int = 0
    """The answer and its events, as sent."""
    peer: str | None = None
    """The address of who was turned away."""
    unlisted: int = 0
    """Others that were turned away since the line before, too many for a line each."""


class AuditAnswer(Answer, frozen=True, kw_only=True):
    """Lines, the oldest first."""

    lines: list[AuditLine]
    last: int
    """The newest line's number: for the next ``since``. With ``more``, take that of the last line."""
    missed: int
    """Lines after ``since`` that are no longer in memory; the files in the state directory may have them."""
    more: bool
    """Whether there are lines past the limit."""
