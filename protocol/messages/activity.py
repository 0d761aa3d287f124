"""Activity: what goes on in a workspace, for whoever has to decide whether it may be stopped.

Times are milliseconds of the daemon's own clock, which neither a change of the wall clock nor the machine's
sleep moves.
"""

from __future__ import annotations

from protocol.messages.base import Answer, Request


class Activity(Request, frozen=True, kw_only=True):
    """Tell what goes on, and for how long nothing has. Asking is no activity."""

    since: int | None = None
    """Tell also whether files changed after this number, of an earlier answer; 0 when there is none yet."""
    ignore: list[str] = []
    """Changes that do not count, as in ``watch``: names and paths as .gitignore writes them."""


class ActiveProcess(Answer, frozen=True, kw_only=True):
    """A program at work: a command, or what one that has ended left running."""

    process_id: str | None
    """The command that it belongs to; None when it does not say."""
    pid: int
    command: str
    """As a person would write it, cut to 200 characters."""


class ActivityAnswer(Answer, frozen=True, kw_only=True):
    """What goes on. With none of it, only ``idle_ms`` counts."""

    idle_ms: int
    """Since a request, a command or a connection last ended, or the daemon started."""
    requests: int
    """Under way, over any door."""
    sockets: int
    """Open WebSockets, but for those that ask for nothing but this."""
    dev_connections: int
    """Connections to the dev server: a page that is open in a browser holds one."""
    processes: list[ActiveProcess]
    """At work, oldest first; neither the dev server nor a kept shell that waits for a line."""
    number: int | None = None
    """The one to come back with, where ``since`` was given."""
    changed: bool | None = None
    """Whether files changed after ``since``; true also when that is not known any more."""
