"""Terminals that people share: one program on a terminal, and as many viewers as want to see it.

A viewer is first sent the screen as it is, as bytes that redraw it, then what the program writes. One that
falls behind is sent the screen again instead of what it missed, and delays neither the program nor others.
"""

from __future__ import annotations

from protocol.messages.base import Answer, Encoding, Event, Request


class TerminalOpen(Request, frozen=True, kw_only=True):
    """Start a program on a terminal that several people may view and type into; bash when none is named."""

    name: str | None = None
    """A name to find it by. One of that name that still runs is answered with, and nothing is started."""
    command: str | None = None
    """A line for bash, or sh where there is none; or ``argv``; without both, an interactive shell."""
    argv: list[str] | None = None
    cols: int = 80
    """In character cells, 1 to 1000."""
    rows: int = 24
    cwd: str = "."
    env: dict[str, str] = {}
    """Set on top of the workspace's environment. TERM is ``xterm-256color`` unless it is in here."""


class TerminalOpenAnswer(Answer, frozen=True, kw_only=True):
    """The terminal; ``processId`` is good for ``send_input``, ``resize``, ``output`` and ``stop``."""

    process_id: str
    name: str | None
    pid: int
    cols: int
    rows: int
    created: bool
    """False when one of that name ran already."""


class TerminalAttach(Request, frozen=True, kw_only=True):
    """View a terminal: its screen first, then what is written to it, until its program ends."""

    terminal: str
    """Its name or its ``processId``; any command with a ``pty`` has one."""
    from_offset: int | None = None
    """Go on after an earlier view, from this byte of its output, without the screen first."""
    encoding: Encoding = Encoding.UTF8


class TerminalScreen(Event, frozen=True, kw_only=True, tag="screen"):
    """The whole screen: write ``data`` to a terminal of that size, and it shows the same."""

    offset: int
    """All output before this byte is in it; what follows begins here."""
    cols: int
    rows: int
    data: str
    skipped_bytes: int
    """Output that this viewer is not sent because it was too far behind; 0 for the first screen."""


class TerminalOutput(Event, frozen=True, kw_only=True, tag="output"):
    """Bytes that the program wrote, from ``offset`` on."""

    offset: int
    next_offset: int
    data: str


class Resized(Event, frozen=True, kw_only=True, tag="resized"):
    """The terminal has another size now, for all its viewers."""

    cols: int
    rows: int


TerminalEvent = TerminalScreen | TerminalOutput | Resized


class TerminalAttachAnswer(Answer, frozen=True, kw_only=True):
    """How the terminal's program ended. Where no events are wanted, at once: the screen as it is."""

    process_id: str
    name: str | None
    running: bool
    exit_code: int | None
    signal: str | None
    cols: int
    rows: int
    offset: int
    """Bytes written to it so far."""
    screen: str | None
    """As in a ``screen`` event; null where there were events."""


class Resize(Request, frozen=True, kw_only=True):
    """Give a terminal another size; its programs get SIGWINCH, its viewers a ``resized`` event."""

    process_id: str
    """Its ``processId``, or its name."""
    cols: int
    rows: int


class ResizeAnswer(Answer, frozen=True, kw_only=True):
    """The size it has now."""

    process_id: str
    cols: int
    rows: int


class Terminals(Request, frozen=True, kw_only=True):
    """List the terminals whose programs run."""


class TerminalRecord(Answer, frozen=True, kw_only=True):
    """One terminal."""

    process_id: str
    name: str | None
    argv: list[str]
    cols: int
    rows: int
    viewers: int
    started: str
    """ISO 8601 UTC."""


class TerminalsAnswer(Answer, frozen=True, kw_only=True):
    """In the order they were started."""

    terminals: list[TerminalRecord]
