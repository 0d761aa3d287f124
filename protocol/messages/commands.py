"""Commands: start one, follow it, end it with everything it started.

Output is numbered by byte offset per stream, so a reader that lost its socket goes on where it stopped.
"""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Encoding, Event, Gap, Part, Request


class WhenSlow(enum.Enum):
    """What becomes of a reader of events that does not keep up."""

    SPILL = "spill"
    """It reads on where it was, from memory and file; what even those have lost comes as a ``gap``. The
    command never waits."""
    DROP = "drop"
    """Past the limit ``maxReaderLagBytes`` it goes on near the newest byte, and is told the ``gap``. The
    command never waits."""
    WAIT = "wait"
    """The command waits, as it does before any pipe, so that there is no gap however much it writes. For a
    reader that takes nothing for the limit ``readerPatienceMs`` it waits no more: then as ``spill``."""


class Pty(Part, frozen=True, kw_only=True):
    """A terminal for the command, in character cells. Its output is one stream, ``stdout``."""

    cols: int = 80
    rows: int = 24


class EnvMode(enum.Enum):
    """What a command's ``env`` is put into."""

    MERGE = "merge"
    """The workspace's environment: what it has under the same names is replaced."""
    EXACT = "exact"
    """Nothing: the command gets these variables, and the one that its processes are found by."""


class OutputStream(enum.Enum):
    """One of a command's two outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Command(Request, frozen=True, kw_only=True):
    """Run a program to its end, or in the background. Exactly one of ``command`` and ``argv``."""

    command: str | None = None
    """A line for bash, or sh where there is none."""
    argv: list[str] | None = None
    """A program and its arguments, run without a shell."""
    cwd: str = "."
    login: bool = False
    """Run ``command`` in a login shell, which reads the profile files. Otherwise never."""
    env: dict[str, str] = {}
    """The variables; ``envMode`` says what becomes of those of the workspace."""
    env_mode: EnvMode = EnvMode.MERGE
    stdin: str | None = None
    """What to feed first; without it, and without ``stdinOpen``, standard input is empty."""
    stdin_encoding: Encoding = Encoding.UTF8
    """How ``stdin`` stands here."""
    stdin_open: bool = False
    """Keep standard input open after ``stdin``, for ``send_input``. That of a terminal always is."""
    timeout_ms: int | None = None
    """Ends the command with all it started; 10 minutes when absent, no limit in the background or with
    ``yieldMs``."""
    pty: Pty | None = None
    background: bool = False
    """Answer at once; follow with ``attach``."""
    yield_ms: int | None = None
    """Answer after this time with what there is, if it still runs; it goes on running."""
    when_slow: WhenSlow = WhenSlow.SPILL
    raw_events: bool = False
    """Tell output by ``stdout_bytes`` and ``stderr_bytes``, exact and without base64 in MessagePack.
    ``encoding`` is then of the answer alone."""
    command_id: str | None = None
    """The caller's own name for this run: asking again attaches to it, and never runs it twice."""
    encoding: Encoding = Encoding.UTF8
    """How output stands in answer and events. As UTF-8, bytes that are not become U+FFFD; base64 is exact."""
    max_output_bytes: int | None = None
    """Per stream in the answer; past it the middle is left out. The whole stays with ``output``."""


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The command runs."""

    process_id: str
    pid: int


class Stdout(Event, frozen=True, kw_only=True, tag="stdout"):
    """Bytes of standard output, from ``offset`` up to ``nextOffset``."""

    offset: int
    next_offset: int
    """Where to go on by ``attach``. Count by this: replaced bytes have another length in ``data``."""
    data: str


class Stderr(Event, frozen=True, kw_only=True, tag="stderr"):
    """Bytes of standard error, from ``offset`` up to ``nextOffset``."""

    offset: int
    next_offset: int
    """Where to go on by ``attach``. Count by this: replaced bytes have another length in ``data``."""
    data: str


class StdoutBytes(Event, frozen=True, kw_only=True, tag="stdout_bytes"):
    """Bytes of standard output from ``offset`` on, for who asked with ``rawEvents``."""

    offset: int
    next_offset: int
    """Where to go on by ``attach``."""
    data: bytes
    """Binary in MessagePack, base64 in JSON."""


class StderrBytes(Event, frozen=True, kw_only=True, tag="stderr_bytes"):
    """Bytes of standard error from ``offset`` on, for who asked with ``rawEvents``."""

    offset: int
    next_offset: int
    """Where to go on by ``attach``."""
    data: bytes
    """Binary in MessagePack, base64 in JSON."""


CommandEvent = Started | Stdout | Stderr | StdoutBytes | StderrBytes | Gap


class Usage(Answer, frozen=True, kw_only=True):
    """What a program, with the children that it waited for, took of the machine."""

    user_cpu_ms: float
    system_cpu_ms: float
    peak_memory_bytes: int | None
    """Largest resident memory of one process. Null when it stayed below the tool server's own, which the
    system counts into that of whatever it starts."""


class Omitted(Answer, frozen=True, kw_only=True):
    """The middle of a stream, left out of an answer; ``output`` gives it, or its size if it is not kept."""

    stream: OutputStream
    offset: int
    bytes: int


class CommandAnswer(Answer, frozen=True, kw_only=True):
    """How it ended; or that it runs, in the background or after ``yieldMs``: then ``exitCode`` is null."""

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
    omitted: list[Omitted] = []
    """Where they were."""
    truncated: bool
    replaced: bool = False
    """Whether ``stdout`` or ``stderr`` has U+FFFD in place of bytes that are no UTF-8."""
    timed_out: bool
    timeout_ms: int | None
    """The clock that was set for it."""
    timeout_clock: str | None = None
    """Whose: ``timeoutMs`` of the request, or the tool server's limit of this name."""
    duration_ms: float
    usage: Usage | None = None
    """Null while it runs."""
    limits_met: list[str] = []
    """Limits of its own that it met by its end, with what it started: ``commandMemoryBytes`` when the kernel
    killed for it, ``commandProcesses`` when it was refused a process. Told where control groups hold them."""
    survivors: list[int] = []
    """Process ids that outlived a kill."""


class Attach(Request, frozen=True, kw_only=True):
    """Follow a command, from any socket: its output from the offsets on, then how it ended."""

    process_id: str
    from_offset: int = 0
    """First byte of standard output to send."""
    from_stderr_offset: int = 0
    when_slow: WhenSlow = WhenSlow.SPILL
    raw_events: bool = False
    """Tell output by ``stdout_bytes`` and ``stderr_bytes``, as of ``command``."""
    yield_ms: int | None = None
    """Answer after this time with what there is, if it still runs."""
    encoding: Encoding = Encoding.UTF8
    max_output_bytes: int | None = None


class Output(Request, frozen=True, kw_only=True):
    """One page of what a command wrote, whether it runs or has ended."""

    process_id: str
    stream: OutputStream = OutputStream.STDOUT
    from_offset: int = 0
    max_bytes: int | None = None
    """4 or more, so that a character fits; at most, and when absent, the limit ``maxOutputBytes``."""
    encoding: Encoding = Encoding.UTF8


class OutputAnswer(Answer, frozen=True, kw_only=True):
    """The bytes from ``offset`` up to ``nextOffset``, where the next page begins."""

    process_id: str
    stream: OutputStream
    data: str
    offset: int
    """Where ``data`` begins: what was asked for, or the oldest byte that is still kept."""
    next_offset: int
    end: int
    """Bytes written so far."""
    missing_bytes: int
    """Between the offset asked for and ``offset``: no longer kept."""
    replaced: bool
    """Whether ``data`` has U+FFFD in place of bytes that are no UTF-8."""
    running: bool
    closed: bool
    """Whether nobody holds the stream any more: then ``end`` is final."""


class SendInput(Request, frozen=True, kw_only=True):
    """Feed a running command: its standard input, or the keyboard of its terminal."""

    process_id: str
    data: str = ""
    encoding: Encoding = Encoding.UTF8
    offset: int | None = None
    """Of ``data`` in all that was ever fed. With it a request may be repeated: what was taken is not taken
    twice."""
    eof: bool = False
    """End the input after ``data``; on a terminal, type Ctrl-D."""
    yield_ms: int | None = None
    """How long to wait for room; the limit ``inputWaitMs`` when absent."""


class SendInputAnswer(Answer, frozen=True, kw_only=True):
    """How much was taken. Send the rest again: the command did not read it in time."""

    process_id: str
    taken_bytes: int
    """Of this ``data``, those included that were taken before."""
    next_offset: int
    """Bytes taken since the start."""
    queued_bytes: int
    """Taken, and not yet in the command's pipe."""
    open: bool
    """Whether more can be sent."""
