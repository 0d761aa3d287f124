"""Diagnostics: what the dev server says of the files, as its own pages would hear it."""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Request


class DevOutcome(enum.Enum):
    """What came of a change, in one word."""

    UPDATE = "update"
    """Pages took it over without a reload."""
    FULL_RELOAD = "full_reload"
    """Pages reload."""
    ERROR = "error"
    """It does not compile; ``errors`` says where."""
    COMPILED = "compiled"
    """No page uses the file; asked for, the dev server compiles it."""
    SILENT = "silent"
    """Nothing was told within the time."""
    NOT_RUNNING = "not_running"
    """No dev server is ready; ``dev_start`` starts one."""
    NO_CHANNEL = "no_channel"
    """It has no channel that is known (Vite's and Astro's, and the one of static sites, are)."""


class DevError(Answer, frozen=True, kw_only=True):
    """One compile error."""

    message: str
    file: str | None = None
    """Relative to the workspace, when it lies there."""
    line: int | None = None
    column: int | None = None
    plugin: str | None = None
    """What part of the dev server said so."""
    frame: str | None = None
    """The source around it."""


class DevFeedback(Request, frozen=True, kw_only=True):
    """Ask the dev server whether these files compile; an edit asks by itself with ``waitForDev``."""

    paths: list[str] = []
    timeout_ms: int = 5_000
    """Up to 60000."""


class DevFeedbackAnswer(Answer, frozen=True, kw_only=True):
    """What the dev server said."""

    outcome: DevOutcome
    errors: list[DevError] = []
    """At most 20."""
    updated: list[str] = []
    """Modules that pages take over, as the dev server names them; at most 100."""
    duration_ms: int = 0
