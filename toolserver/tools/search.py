"""search: contents and names, by ripgrep."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial

import msgspec

from protocol.errors import Internal, InvalidRequest, TooLarge, Unavailable
from protocol.limits import Limits
from protocol.messages.search import Match, Matches, PatternKind, Search, SearchAnswer, Where
from protocol.paths import RESERVED, ROOT, WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.call import Call

_Naming = Callable[[bytes], str]
_BATCH = 100
"""Matches in one event."""
_READ_BYTES = 256 * 1024


class _Text(msgspec.Struct):
    """ripgrep's way to give text: ``bytes`` in base64 where it is not UTF-8."""

    text: str | None = None
    data: str | None = msgspec.field(default=None, name="bytes")

    def raw(self) -> bytes:
        return self.text.encode() if self.text is not None else base64.b64decode(self.data or "")


class _Submatch(msgspec.Struct):
    start: int


class _Data(msgspec.Struct):
    path: _Text | None = None
    lines: _Text | None = None
    line_number: int | None = None
    submatches: list[_Submatch] = []


class _Line(msgspec.Struct):
    type: str
    data: _Data


_decoder = msgspec.json.Decoder(_Line)


class Searches:
    """The handler. ``ripgrep`` is looked up once, on the daemon's own PATH, never in the workspace."""

    def __init__(
        self,
        table: ProcessTable,
        disk: Disk,
        limits: Limits,
        ripgrep: str | None,
        env: Mapping[str, str],
    ) -> None:
        self._table = table
        self._disk = disk
        self._limits = limits
        self._ripgrep = ripgrep
        self._env = env

    async def search(self, request: Search, call: Call) -> SearchAnswer:
        """Matches as they are found, at most ``maxMatches``; the program ends with the request."""
        limit = self._limit(request)
        names = _name_pattern(request) if request.in_ is Where.NAMES else None
        path = self._disk.path(request.path)
        below, target = await asyncio.to_thread(self._disk.place, path)
        argv = [self._program(), *arguments(request, target)]
        process = self._table.start(argv, cwd=below, env=self._env, shown_cwd=path)
        try:
            naming = partial(shown_path, path, is_file=target != ".")
            lines = _lines(process)
            found = _named(lines, names, naming) if names else _matched(lines, naming, self._limits)
            return await _collect(found, limit, call, process)
        finally:
            if process.running:
                await asyncio.shield(self._table.stop(process, grace_ms=0))
            self._table.forget(process)

    def _limit(self, request: Search) -> int:
        if request.max_matches is not None and request.max_matches < 1:
            raise InvalidRequest("'maxMatches' is above 0", field="maxMatches")
        if not request.pattern or "\0" in request.pattern:
            raise InvalidRequest("'pattern' is empty or holds a NUL character", field="pattern")
        if any("\0" in glob for glob in request.glob):
            raise InvalidRequest("'glob' holds a NUL character", field="glob")
        return min(request.max_matches or self._limits.max_matches, 100_000)

    def _program(self) -> str:
        if self._ripgrep is None:
            raise Unavailable(
                "ripgrep is not installed; install it, or workspace-core[embedded], and restart"
            )
        return self._ripgrep


def find_ripgrep(search_path: str) -> str | None:
    """ripgrep on ``search_path``, a PATH of directories outside the workspace."""
    return shutil.which("rg", path=search_path)


def arguments(request: Search, target: str) -> list[str]:
    """ripgrep's arguments: no configuration of the user's, nothing that a pattern or a name could add to.

    >>> arguments(Search(pattern="-x", kind=PatternKind.LITERAL), ".")
    ['--no-config', '--no-require-git', '--json', '--fixed-strings', '--regexp=-x', '--', '.']
    """
    globs = [request.glob] if isinstance(request.glob, str) else request.glob
    # A workspace honours its .gitignore before anybody has made a repository of it.
    options = ["--no-config", "--no-require-git"]
    options += ["--hidden", "--glob=!.git/"] if request.hidden or request.ignored else []
    options += ["--no-ignore"] if request.ignored else []
    options += [f"--glob={glob}" for glob in globs]
    options += [f"--glob=!/{RESERVED}/"] if request.hidden or request.ignored else []
    if request.in_ is Where.NAMES:
        return [*options, "--files", "--null", "--", target]
    options += ["--json"]
    options += ["--ignore-case"] if not request.case_sensitive else []
    options += ["--word-regexp"] if request.word else []
    options += ["--fixed-strings"] if request.kind is PatternKind.LITERAL else []
    return [*options, f"--regexp={request.pattern}", "--", target]


def _name_pattern(request: Search) -> re.Pattern[str]:
    text = re.escape(request.pattern) if request.kind is PatternKind.LITERAL else request.pattern
    text = rf"\b(?:{text})\b" if request.word else text
    try:
        return re.compile(text, 0 if request.case_sensitive else re.IGNORECASE)
    except re.error as error:
        raise InvalidRequest(f"'pattern' is no regular expression: {error}", field="pattern") from None


async def _lines(process: Process) -> AsyncIterator[bytes]:
    """What ripgrep prints, cut at line feeds (or NUL, for names)."""
    rest, position = b"", 0
    end = b"\0" if "--null" in process.argv else b"\n"
    log = process.stdout
    while log.settled is None or position < log.settled:
        await log.wait_past(position)
        # One turn for everybody else: without it all that is there already would be taken at once.
        await asyncio.sleep(0)
        piece = log.read(position, _READ_BYTES)
        if piece.missing:
            raise TooLarge("the matches are more than can be kept for this reader; narrow 'path' or 'glob'")
        position = piece.offset + len(piece.data)
        *whole, rest = (rest + piece.data).split(end)
        for line in whole:
            yield line


def shown_path(base: WorkspacePath, found: bytes, is_file: bool) -> str:
    """What ripgrep calls a file, as a path from the workspace root; ``base`` is where it was told to look.

    >>> shown_path(WorkspacePath("src"), b"./a.ts", is_file=False)
    'src/a.ts'
    >>> shown_path(WorkspacePath("link.ts"), b"a.ts", is_file=True)
    'link.ts'
    """
    if is_file:
        return base
    name = found.decode(errors="replace").removeprefix("./")
    return name if base == ROOT else f"{base}/{name}"


async def _matched(lines: AsyncIterator[bytes], naming: _Naming, limits: Limits) -> AsyncIterator[Match]:
    async for line in lines:
        event = _decoder.decode(line)
        if event.type == "match":
            yield _match(event.data, naming, limits.max_match_text_bytes)


async def _named(
    lines: AsyncIterator[bytes], pattern: re.Pattern[str], naming: _Naming
) -> AsyncIterator[Match]:
    async for line in lines:
        path = naming(line)
        if pattern.search(path):
            yield Match(path=path, line=0, column=0, text="")


def _match(data: _Data, naming: _Naming, max_bytes: int) -> Match:
    line = (data.lines or _Text("")).raw()
    start = data.submatches[0].start if data.submatches else 0
    text = line.rstrip(b"\r\n")
    return Match(
        path=naming((data.path or _Text("")).raw()),
        line=data.line_number or 0,
        column=len(line[:start].decode(errors="replace")) + 1,
        text=text[:max_bytes].decode(errors="replace"),
        text_truncated=len(text) > max_bytes,
    )


async def _collect(found: AsyncIterator[Match], limit: int, call: Call, process: Process) -> SearchAnswer:
    kept: list[Match] = []
    batch: list[Match] = []
    files: set[str] = set()
    count, truncated = 0, False
    async for match in found:
        if count == limit:
            truncated = True
            break
        count += 1
        files.add(match.path)
        (batch if call.streaming else kept).append(match)
        if len(batch) >= _BATCH:
            await call.emit(Matches(matches=batch))
            batch = []
    if batch:
        await call.emit(Matches(matches=batch))
    if not truncated:
        await _refuse_failure(process)
    return SearchAnswer(matches=in_order(kept), match_count=count, file_count=len(files), truncated=truncated)


async def _refuse_failure(process: Process) -> None:
    """ripgrep's own complaint about a pattern or a glob; 1 only means that nothing was found."""
    end = await process.wait()
    message = process.stderr.read(0, 4096).data.decode(errors="replace").strip()
    if end.code >= 2 and not process.stdout.end:
        raise InvalidRequest(f"ripgrep refuses the search: {message}", field="pattern")
    if end.signal:
        raise Internal(f"the search was ended by {end.signal} before it was done; ask again")


def in_order(matches: Iterable[Match]) -> list[Match]:
    """By path, then line: ripgrep's threads give files in no order."""
    return sorted(matches, key=lambda each: (each.path, each.line))
