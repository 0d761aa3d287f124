"""Commands: start one, follow it, end it with everything it started.

Output is numbered by byte offset per stream, so a reader that lost its socket goes on where it stopped.
"""

from __future__ import annotations

from protocol.messages.base import Answer, Encoding, Event, Gap, Part, Request


class Pty(Part, frozen=True, kw_only=True):
    """A terminal for the command, in character cells. Its output is one stream, ``stdout``."""

    cols: int = 80
    rows: int = 24


class Command(Request, frozen=True, kw_only=True):
    """Run a program to its end, or in the background. Exactly one of ``command`` and ``argv``."""

    command: str | None = None
    """A line for bash, or sh where there is none."""
    argv: list[str] | None = None
    """A program and its arguments, run without a shell."""
    cwd: str = "."
    env: dict[str, str] = {}
    """Set on top of the workspace's environment."""
    stdin: str | None = None
    """Text to feed; without it standard input is empty."""
    timeout_ms: int | None = None
    """Ends the command with all it started; 10 minutes when absent, no limit in the background."""
    pty: Pty | None = None
    background: bool = False
    """Answer at once; follow with ``attach``."""
    command_id: str | None = None
    """The caller's own name for this run: asking again attaches to it, and never runs it twice."""
    encoding: Encoding = Encoding.UTF8
    """How output stands in answer and events. As UTF-8, bytes that are not become U+FFFD; base64 is exact."""
    max_output_bytes: int | None = None
    """Per stream in the answer; past it the middle is left out. The whole stays with ``attach``."""


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The command runs."""

    process_id: str
    pid: int


class Stdout(Event, frozen=True, kw_only=True, tag="stdout"):
    """Bytes of standard output, from ``offset`` on."""

    offset: int
    data: str


class Stderr(Event, frozen=True, kw_only=True, tag="stderr"):
    """Bytes of standard error, from ``offset`` on."""

    offset: int
    data: str


CommandEvent = Started | Stdout | Stderr | Gap


class CommandAnswer(Answer, frozen=True, kw_only=True):
    """How it ended, or (in the background) that it runs: then ``exitCode`` is null."""

    process_id: str
    running: bool
    exit_code: int | None
    """The program's own code; 128 + n when signal n ended it."""
    signal: str | None
    """The signal that ended it, ``SIGKILL`` for one."""
    stdout: str
    stderr: str
    stdout_bytes: int
    """All that was written, shown here or not."""
    stderr_bytes: int
    omitted_bytes: int
    """Bytes left out of the middle of ``stdout`` and ``stderr``."""
    truncated: bool
    timed_out: bool
    timeout_ms: int | None
    """The clock that was set for it."""
    duration_ms: float
    survivors: list[int] = []
    """Process ids that outlived a kill."""


class Attach(Request, frozen=True, kw_only=True):
    """Follow a command, from any socket: its output from the offsets on, then how it ended."""

    process_id: str
    from_offset: int = 0
    """First byte of standard output to send."""
    from_stderr_offset: int = 0
    encoding: Encoding = Encoding.UTF8
    max_output_bytes: int | None = None
