"""Shells that remember: bash, kept between commands under a name of the caller's.

Directory, variables, functions, options and background jobs stay; each command has its own empty standard
input and its own numbered output, and what it printed and how it ended are told to the byte.
"""

from __future__ import annotations

from protocol.messages.base import Answer, Encoding, Gap, Request
from protocol.messages.commands import Started, Stderr, Stdout
from protocol.messages.processes import Killed


class Shell(Request, frozen=True, kw_only=True):
    """Run a command in a kept shell (bash), which remembers directory, variables, functions and jobs."""

    command: str
    """Any text that bash takes: several lines, here-documents, definitions. An error in it ends the command,
    not the shell."""
    name: str = "main"
    """Which shell: 1 to 64 letters, digits, dots, hyphens or underscores. Started on first use, in the
    root."""
    stdin: str | None = None
    """What the command may read; without it standard input is empty."""
    stdin_encoding: Encoding = Encoding.UTF8
    timeout_ms: int | None = None
    """Interrupts the command and keeps the shell; 10 minutes when absent. Counts from its turn on."""
    encoding: Encoding = Encoding.UTF8
    """How output stands in answer and events. As UTF-8, bytes that are not become U+FFFD; base64 is exact."""
    max_output_bytes: int | None = None
    """Per stream in the answer; past it the middle is left out. The whole stays with ``shell_output``."""


ShellEvent = Started | Stdout | Stderr | Gap


class ShellAnswer(Answer, frozen=True, kw_only=True):
    """How the command ended, and where the shell is now."""

    name: str
    process_id: str
    """Of the shell itself, for ``processes``, ``signal`` and ``stop``."""
    number: int
    """Of this command among all that this name was given, from 1 on; for ``shell_output``."""
    exit_code: int | None
    """The command's; 130 when it was interrupted, the shell's own when the command ended it."""
    signal: str | None
    """The signal that ended the shell, if one did."""
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    omitted_bytes: int
    """Bytes left out of the middle of ``stdout`` and ``stderr``."""
    truncated: bool
    replaced: bool
    """Whether something in here is U+FFFD that was no UTF-8; base64 gives it."""
    timed_out: bool
    timeout_ms: int
    """The clock that was set for it."""
    timeout_clock: str
    """Whose: ``timeoutMs`` of the request, or the tool server's limit of this name."""
    duration_ms: float
    cwd: str
    """Where the shell is after it, as bash's PWD says; empty when the shell has ended."""
    started: bool
    """Whether this command found no shell of that name and had a fresh one started."""
    restarted: bool
    """Whether there was one before that has ended: its variables and directory are gone."""
    shell_ended: bool
    """Whether the shell ended with this command (``exit``, ``exec``, ``set -e``); the next one starts a fresh
    shell."""
    open_output: bool
    """Whether something that it left behind may still write to its output; ``shell_output`` has that too."""
    limits_met: list[str] = []
    """As in the answer of ``command``, while this one ran. The shell, its jobs and all its commands have them
    together."""


class ShellOutput(Request, frozen=True, kw_only=True):
    """Page through what one command of a kept shell wrote, and what its background jobs wrote since."""

    number: int
    """The ``number`` of its answer."""
    name: str = "main"
    from_offset: int = 0
    from_stderr_offset: int = 0
    max_bytes: int | None = None
    """Of each stream."""
    encoding: Encoding = Encoding.UTF8


class ShellOutputAnswer(Answer, frozen=True, kw_only=True):
    """A page of both streams."""

    name: str
    number: int
    stdout: str
    stderr: str
    offset: int
    """Of the first byte of ``stdout`` in here."""
    stderr_offset: int
    next_offset: int
    """Where to go on."""
    next_stderr_offset: int
    missing_bytes: int
    """Bytes of both streams before these that are no longer kept."""
    running: bool
    """Whether the command itself still runs."""
    open_output: bool
    """Whether more may come."""


class ShellRestart(Request, frozen=True, kw_only=True):
    """End a kept shell with everything it started, and start a fresh one under its name."""

    name: str = "main"


class ShellRestartAnswer(Answer, frozen=True, kw_only=True):
    """The fresh shell, and what became of the one before."""

    name: str
    process_id: str
    killed: list[Killed]
    survivors: list[int]


class ShellStop(Request, frozen=True, kw_only=True):
    """End a kept shell with everything it started, and forget its name."""

    name: str = "main"


class ShellStopAnswer(Answer, frozen=True, kw_only=True):
    """What was signalled, and what is still there."""

    name: str
    killed: list[Killed]
    survivors: list[int]


class Shells(Request, frozen=True, kw_only=True):
    """List the kept shells."""


class ShellRecord(Answer, frozen=True, kw_only=True):
    """One kept shell."""

    name: str
    process_id: str
    """Empty while none has been started."""
    running: bool
    """Whether it lives; if not, the next command starts a fresh one."""
    busy: bool
    """Whether a command runs in it."""
    waiting: int
    """Commands that wait for their turn."""
    commands: int
    """How many it was given."""
    cwd: str


class ShellsAnswer(Answer, frozen=True, kw_only=True):
    """By name."""

    shells: list[ShellRecord]
