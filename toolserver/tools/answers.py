"""What is told of a command: head and tail of its output, a page of it, how it ended.

Text is cut between characters, and whatever an answer leaves out or replaces it says, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages.base import Encoding
from protocol.messages.commands import CommandAnswer, Omitted, OutputAnswer, OutputStream, Usage
from toolserver.system.output import OutputLog
from toolserver.system.processes import Exit, Process
from toolserver.tools.follow import CONTINUATIONS, text_of, whole_characters


@dataclass(frozen=True)
class Shown:
    """One stream in an answer; ``omitted`` bytes from ``omitted_at`` on are not in it."""

    text: str
    replaced: bool
    omitted: int = 0
    omitted_at: int = 0


_NOTHING = Shown("", False)


def answer_of(process: Process, offsets: tuple[int, int], encoding: Encoding, limit: int) -> CommandAnswer:
    """What there is of it by now, from the (stdout, stderr) offsets on, ``limit`` bytes of each."""
    out = shown(process.stdout, offsets[0], limit, encoding)
    err = shown(process.stderr, offsets[1], limit, encoding)
    end = process.exit
    return CommandAnswer(
        process_id=process.id,
        running=process.running,
        exit_code=end.code if end else None,
        signal=end.signal if end else None,
        stdout=out.text,
        stderr=err.text,
        stdout_bytes=process.stdout.end,
        stderr_bytes=process.stderr.end,
        omitted_bytes=out.omitted + err.omitted,
        omitted=_omitted(OutputStream.STDOUT, out) + _omitted(OutputStream.STDERR, err),
        truncated=bool(out.omitted + err.omitted),
        replaced=out.replaced or err.replaced,
        timed_out=process.timed_out_ms is not None,
        timeout_ms=process.timeout_ms,
        timeout_clock=process.timeout_clock,
        duration_ms=round(process.duration_ms, 3),
        usage=usage_of(end) if end else None,
        limits_met=process.limits_met,
        survivors=process.survivors,
    )


def usage_of(end: Exit) -> Usage:
    """What it took of the machine."""
    return Usage(
        user_cpu_ms=round(end.user_seconds * 1000, 3),
        system_cpu_ms=round(end.system_seconds * 1000, 3),
        peak_memory_bytes=end.peak_memory_bytes,
    )


def page_of(
    process: Process, stream: OutputStream, start: int, limit: int, encoding: Encoding
) -> OutputAnswer:
    """At most ``limit`` bytes from ``start`` on; fewer where a character would be cut."""
    log = process.stdout if stream is OutputStream.STDOUT else process.stderr
    piece = log.read(start, limit)
    data = piece.data
    is_last = piece.offset + len(data) >= log.end and log.settled is not None
    if encoding is Encoding.UTF8 and not is_last:
        data = data[: whole_characters(data)]
    return OutputAnswer(
        process_id=process.id,
        stream=stream,
        data=text_of(data, encoding),
        offset=piece.offset,
        next_offset=piece.offset + len(data),
        end=log.end,
        missing_bytes=piece.missing,
        replaced=encoding is Encoding.UTF8 and not is_text(data),
        running=process.running,
        closed=log.closed,
    )


def shown(log: OutputLog, start: int, limit: int, encoding: Encoding, whole_from: str = "output") -> Shown:
    """Head and tail for an answer, with a line between them that tells what is left out.

    ``whole_from`` is the operation that gives the whole.
    """
    start = min(start, log.end)
    if start == log.end:
        return _NOTHING
    head, tail, omitted = log.ends(limit, start)
    if encoding is Encoding.BASE64:
        return Shown(text_of(head + tail, encoding), False, omitted, start + len(head))
    if not omitted:
        return Shown(text_of(head, encoding), not is_text(head))
    # Cut between characters; what a cut character had is left out with the rest.
    whole, late = head[: whole_characters(head)], tail.lstrip(CONTINUATIONS)
    omitted += len(head) - len(whole) + len(tail) - len(late)
    note = f"\n[… {omitted} bytes left out; {whole_from!r} gives them …]\n"
    text = text_of(whole, encoding) + note + text_of(late, encoding)
    return Shown(text, not (is_text(whole) and is_text(late)), omitted, start + len(whole))


def is_text(data: bytes) -> bool:
    """Whether ``data`` is UTF-8.

    >>> is_text(b"a\\0"), is_text(b"\\xff")
    (True, False)
    """
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _omitted(stream: OutputStream, of: Shown) -> list[Omitted]:
    return [Omitted(stream=stream, offset=of.omitted_at, bytes=of.omitted)] if of.omitted else []
