"""When a dev server counts as ready: one question, asked again and again.

Whatever is asked, an answer on the port counts only when a process of the dev server is the one that listens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from protocol.errors import DevServerFailed, InvalidRequest
from protocol.messages.devserver import Readiness
from protocol.paths import ROOT
from protocol.readiness import readiness_problems
from toolserver.system import ports, tree
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.errands import finish
from toolserver.tools.install import error_line, last_lines
from toolserver.tools.shell import shell_argv

_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.01, 0.05
"""Between two looks at whether it answers: a page is seen at most this late. A look takes 0.2 ms."""
_LATE = 50
"""Pauses are this part of the time that it took so far: 2 % at most, and ten looks in the first 0.1 s."""
_LOOK_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024
"""Of a line: a pattern is looked for in no more of it."""
_MATCH_SECONDS = 2.0
"""Of processor time, by which `regex` counts: a busy machine is not a pattern's fault. For the lines of one
look, which take microseconds each; a pattern that tries every way of splitting a line may take years."""
_MAX_TOLD = 500
"""Characters of the line that a message quotes: what it prints may be anything."""


class Readying:
    """The questions, and the wait for a yes."""

    def __init__(self, table: ProcessTable, disk: Disk, env: Mapping[str, str], host: str) -> None:
        self._table = table
        self._disk = disk
        self._env = env
        self._host = host

    def check(self, readiness: Readiness) -> None:
        """Raise InvalidRequest, OutsideWorkspace when it cannot be waited for here."""
        check_readiness(readiness)
        if readiness.log is not None:
            LinePattern(readiness.log.pattern)
        if readiness.file is not None:
            self._disk.path(readiness.file.path)

    async def wait(self, process: Process, readiness: Readiness, port: int, timeout_ms: int) -> None:
        """Until it is ready; raises DevServerFailed when it ends before, TimeoutError when it is too slow."""
        ask = self._question(process, readiness, port)
        # Around the question too: one that hangs must not outlast the clock.
        async with asyncio.timeout(timeout_ms / 1000):
            first = _LAST_PAUSE_SECONDS if readiness.command else _FIRST_PAUSE_SECONDS
            begun = time.monotonic()
            while not await ask() and process.running:  # noqa: ASYNC110 - another program is asked
                await asyncio.sleep(_pause(time.monotonic() - begun, first))
        if not process.running:
            raise await ended(process)

    def _question(self, process: Process, readiness: Readiness, port: int) -> Callable[[], Awaitable[bool]]:
        """The question to ask until the answer is yes."""
        if readiness.log is not None:
            return _log_probe(process, LinePattern(readiness.log.pattern))
        if readiness.file is not None:
            path = self._disk.path(readiness.file.path)
            return lambda: asyncio.to_thread(self._disk.exists, path)
        if readiness.command is not None:
            line = readiness.command.command
            return lambda: self._succeeds(line, port)
        http = readiness.http
        if readiness.port:
            return lambda: self._listens(process, port)
        return lambda: self._answers(process, port, http.path if http else "/", http.status if http else None)

    async def _listens(self, process: Process, port: int) -> bool:
        if not await ports.accepts(self._host, port):
            return False
        return await self._is_ours(process, port)

    async def _answers(self, process: Process, port: int, path: str, wanted: int | None) -> bool:
        status = await ports.http_status(self._host, port, path)
        if status is None or (status != wanted if wanted else status >= 500):
            return False
        return await self._is_ours(process, port)

    async def _is_ours(self, process: Process, port: int) -> bool:
        # Most are found below the command itself, in a millisecond: a walk over all processes takes twenty.
        if await asyncio.to_thread(_listens_below, process.pid, port, self._host) and process.running:
            return True
        family = await asyncio.to_thread(process.family)
        return await asyncio.to_thread(ports.listens, family, port, self._host)

    async def _succeeds(self, line: str, port: int) -> bool:
        cwd = await asyncio.to_thread(self._disk.directory, ROOT)
        env = {**self._env, "HOST": self._host, "PORT": str(port)}
        argv = await asyncio.to_thread(shell_argv, line, env)
        process = await self._table.start_soon(argv, cwd=cwd, env=env, merged=True)
        try:
            return (await process.wait()).code == 0
        finally:
            await finish(self._table, process)


def _pause(seconds: float, first: float) -> float:
    """Until the next look, when so many seconds have gone by; a command is run for each, so they wait longer.

    >>> [round(_pause(seconds, 0.01), 3) for seconds in (0.1, 1, 10)]
    [0.01, 0.02, 0.05]
    """
    return min(max(first, seconds / _LATE), _LAST_PAUSE_SECONDS)


async def ended(process: Process) -> DevServerFailed:
    """The error of one that ended before it was ready; what it has left in the background is told."""
    end = await process.wait()
    left = sorted(await asyncio.to_thread(process.family))
    hint = f"; it left {_processes(left)} in the background: have it stay in the foreground" if left else ""
    lines = last_lines(process)
    return DevServerFailed(
        f"the dev server ended with exit code {end.code} before it was ready: {told(lines)}{hint}",
        exit_code=end.code,
        output=lines,
    )


def told(lines: list[str]) -> str:
    """The line that tells most, no longer than a sentence bears."""
    return error_line(lines)[:_MAX_TOLD]


def _processes(pids: list[int]) -> str:
    """
    >>> _processes([7]), _processes([7, 8])
    ('process 7', 'processes 7 and 8')
    """
    *first, last = map(str, pids)
    return f"processes {', '.join(first)} and {last}" if first else f"process {last}"


def stopped() -> DevServerFailed:
    """For who waited for it."""
    return DevServerFailed("the dev server was stopped before it was ready")


async def too_late(process: Process, timeout_ms: int, host: str, port: int) -> DevServerFailed:
    """The error of one that was to answer at ``port`` of ``host``; to be made while it still runs."""
    family = await asyncio.to_thread(process.family)
    elsewhere = sorted(await asyncio.to_thread(ports.ports_of, family))
    hint = f"; it listens on {', '.join(map(str, elsewhere))}" if elsewhere else ""
    if port in elsewhere:
        # What 'localhost' is differs: to some it is ::1 alone.
        hint += (
            ", but does not answer as its readiness asks"
            if await asyncio.to_thread(ports.listens, family, port, host)
            else f", but not at {host}: have it listen there, as by '--host {{host}}'"
        )
    return DevServerFailed(
        f"the dev server was not ready within {timeout_ms} ms (readiness.timeoutMs){hint}; it is stopped",
        clock="readiness.timeoutMs",
        value=timeout_ms,
        listening=elsewhere,
        output=last_lines(process),
    )


def _listens_below(pid: int, port: int, host: str) -> bool:
    return ports.listens(tree.lineage(pid), port, host)


def check_readiness(readiness: Readiness) -> None:
    """Raise InvalidRequest when a readiness cannot be waited for.

    >>> check_readiness(Readiness(port=True))
    """
    for field, problem in readiness_problems(readiness):
        raise InvalidRequest(f"'{field}' {problem}", field=field)


class LinePattern:
    """A regular expression that somebody else wrote: asked on a thread, and for so long at most.

    It is read by ``regex``, which takes what ``re`` takes, gives the interpreter free while it looks, and
    ends when its time is over.
    """

    def __init__(self, pattern: str) -> None:
        """Raises InvalidRequest."""
        import regex  # late: 15 ms, for the few whose page is not asked

        try:
            self._pattern = regex.compile(pattern)
        except (regex.error, RecursionError) as error:
            what = f"'readiness.log.pattern' is no regular expression: {error}"
            raise InvalidRequest(what, field="readiness.log.pattern") from None

    async def is_in(self, lines: list[str]) -> bool:
        """Whether one of them matches; raises DevServerFailed when that takes too long to tell."""
        return await asyncio.to_thread(self._search, lines)

    def _search(self, lines: list[str]) -> bool:
        until = time.process_time() + _MATCH_SECONDS
        try:
            return any(
                self._pattern.search(line, timeout=max(0.001, until - time.process_time()), concurrent=True)
                for line in lines
            )
        except TimeoutError:
            raise DevServerFailed(
                f"'readiness.log.pattern' takes more than {_MATCH_SECONDS:g} s of processor time for "
                "what the dev server prints; write it without repetitions inside repetitions",
                field="readiness.log.pattern",
            ) from None


def _log_probe(process: Process, pattern: LinePattern) -> Callable[[], Awaitable[bool]]:
    """Asks whether a line matched; every line is looked at once, the last one again while it grows."""
    position, rest = 0, b""

    async def probe() -> bool:
        nonlocal position, rest
        piece = process.stdout.read(position, _LOOK_BYTES)
        if not piece.data:
            return False
        position = piece.offset + len(piece.data)
        *lines, rest = (rest + piece.data).split(b"\n")
        rest = rest[:_MAX_LINE_BYTES]
        return await pattern.is_in(
            [line[:_MAX_LINE_BYTES].decode(errors="replace").rstrip("\r") for line in [*lines, rest]]
        )

    return probe
