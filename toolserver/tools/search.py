"""search: contents and names, by ripgrep."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from msgspec import structs

from protocol.errors import Internal, InvalidRequest, TooLarge, Unavailable
from protocol.limits import Limits
from protocol.messages.search import Match, Matches, PatternKind, Search, SearchAnswer, Where
from protocol.paths import RESERVED, ROOT, WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.call import Call
from toolserver.tools.names import Names

_Naming = Callable[[bytes], str]
_BATCH = 100
"""Matches in one event."""
_READ_BYTES = 256 * 1024
_MAX_CONTEXT = 100


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
        names: Names,
    ) -> None:
        self._table = table
        self._names = names
        self._disk = disk
        self._limits = limits
        self._ripgrep = ripgrep
        self._env = env

    async def search(self, request: Search, call: Call) -> SearchAnswer:
        """Matches as they are found, at most ``maxMatches``; the program ends with the request."""
        limit = self._limit(request)
        if request.in_ is Where.NAMES:
            return await self._names.search(request, limit, call, partial(self._walk, request))
        path = self._disk.path(request.path)
        async with self._running(request, path) as (process, naming):
            found = matched(_lines(process), naming, request, self._limits.max_match_text_bytes)
            return await _collect(found, limit, call, process)

    async def _walk(self, request: Search) -> list[str]:
        """Every name that a search in names may find, by a walk of ripgrep's."""
        async with self._running(request, self._disk.path(request.path)) as (process, naming):
            found = [naming(line) async for line in _lines(process)]
            await _refuse_failure(process)
            return sorted(found)

    @asynccontextmanager
    async def _running(self, request: Search, path: WorkspacePath) -> AsyncIterator[tuple[Process, _Naming]]:
        below, target = await asyncio.to_thread(self._disk.place, path)
        argv = [self._program(), *arguments(request, target)]
        process = self._table.start(argv, cwd=below, env=self._env, shown_cwd=path)
        try:
            yield process, partial(shown_path, path, is_file=target != ".")
        finally:
            if process.running:
                await asyncio.shield(self._table.stop(process, grace_ms=0))
            self._table.forget(process)

    def _limit(self, request: Search) -> int:
        if request.max_matches is not None and request.max_matches < 1:
            raise InvalidRequest("'maxMatches' is above 0", field="maxMatches")
        if not request.pattern or "\0" in request.pattern:
            raise InvalidRequest("'pattern' is empty or holds a NUL character", field="pattern")
        for field, values in (("glob", request.glob), ("types", request.types)):
            if any("\0" in value for value in values):
                raise InvalidRequest(f"{field!r} holds a NUL character", field=field)
        _refuse_unfit(request)
        return min(request.max_matches or self._limits.max_matches, 100_000)

    def _program(self) -> str:
        if self._ripgrep is None:
            raise Unavailable(
                "ripgrep is not installed; install it, or workspace-core[embedded], and restart"
            )
        return self._ripgrep


def _refuse_unfit(request: Search) -> None:
    """Raise InvalidRequest for options that do not go together, or past their bounds."""
    if request.in_ is Where.CONTENT and request.kind in (PatternKind.FUZZY, PatternKind.GLOB):
        raise InvalidRequest(f'{request.kind.value!r} is for names: say "in": "names"', field="kind")
    if not (0 <= request.before <= _MAX_CONTEXT and 0 <= request.after <= _MAX_CONTEXT):
        raise InvalidRequest(f"'before' and 'after' are from 0 to {_MAX_CONTEXT}", field="before")
    if request.max_per_file is not None and request.max_per_file < 1:
        raise InvalidRequest("'maxPerFile' is 1 or more", field="maxPerFile")


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
    options += [f"--type={name}" for name in request.types]
    if request.in_ is Where.NAMES:
        return [*options, "--files", "--null", "--", target]
    options += ["--json"]
    options += ["--ignore-case"] if not request.case_sensitive else []
    options += ["--word-regexp"] if request.word else []
    options += ["--multiline"] if request.multiline else []
    options += [f"--before-context={request.before}"] if request.before else []
    options += [f"--after-context={request.after}"] if request.after else []
    options += [f"--max-count={request.max_per_file}"] if request.max_per_file is not None else []
    options += ["--fixed-strings"] if request.kind is PatternKind.LITERAL else []
    return [*options, f"--regexp={request.pattern}", "--", target]


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


async def matched(
    lines: AsyncIterator[bytes], naming: _Naming, request: Search, most: int
) -> AsyncIterator[Match]:
    """Matches out of ripgrep's lines, each with the lines around it, as soon as those are known."""
    around = Around(request.before, request.after)
    async for line in lines:
        event = _decoder.decode(line)
        found: Iterable[Match] = ()
        if event.type in ("match", "context"):
            match = _match(event.data, naming, most) if event.type == "match" else None
            found = around.feed(event.data.line_number or 0, _texts(event.data, most), match)
        elif event.type == "end":
            found = around.end()
        for each in found:
            yield each


class Around:
    """Gives each match of a file the lines around it, which come before and after it.

    >>> around = Around(before=1, after=1)
    >>> match = Match(path="a", line=2, column=1, text="two")
    >>> [*around.feed(1, ["one"], None), *around.feed(2, ["two"], match), *around.feed(3, ["three"], None)]
    []
    >>> [(each.before, each.after) for each in around.end()]
    [(['one'], ['three'])]
    """

    def __init__(self, before: int, after: int) -> None:
        self._before, self._after = before, after
        self._lines: dict[int, str] = {}
        self._waiting: deque[Match] = deque()

    def feed(self, number: int, texts: list[str], match: Match | None) -> Iterator[Match]:
        """The matches that are complete, now that these lines, from ``number`` on, are known."""
        if match is not None and not (self._before or self._after):
            yield match
            return
        yield from self._complete(number)
        self._lines.update(enumerate(texts, number))
        if match is not None:
            self._waiting.append(match)

    def end(self) -> Iterator[Match]:
        """The rest of the file's matches."""
        yield from self._complete(None)
        self._lines.clear()

    def _complete(self, number: int | None) -> Iterator[Match]:
        while self._waiting and (number is None or _last_line(self._waiting[0]) + self._after < number):
            yield self._with_lines(self._waiting.popleft())
        if number is not None:
            first = min(number, self._waiting[0].line if self._waiting else number) - self._before
            for old in [each for each in self._lines if each < first]:
                del self._lines[old]

    def _with_lines(self, match: Match) -> Match:
        last = _last_line(match)
        before = range(match.line - self._before, match.line)
        after = range(last + 1, last + 1 + self._after)
        return structs.replace(
            match,
            before=[self._lines[each] for each in before if each in self._lines],
            after=[self._lines[each] for each in after if each in self._lines],
        )


def _last_line(match: Match) -> int:
    return match.end_line or match.line


def _texts(data: _Data, most: int) -> list[str]:
    """The lines of an event, without their ends."""
    raw = (data.lines or _Text("")).raw().rstrip(b"\n").split(b"\n")
    return [line.rstrip(b"\r")[:most].decode(errors="replace") for line in raw]


def _match(data: _Data, naming: _Naming, max_bytes: int) -> Match:
    line = (data.lines or _Text("")).raw()
    start = data.submatches[0].start if data.submatches else 0
    text = line.rstrip(b"\r\n")
    ends = text.count(b"\n")
    return Match(
        path=naming((data.path or _Text("")).raw()),
        line=data.line_number or 0,
        column=len(line[:start].rpartition(b"\n")[2].decode(errors="replace")) + 1,
        text=text[:max_bytes].decode(errors="replace"),
        text_truncated=len(text) > max_bytes,
        end_line=(data.line_number or 0) + ends if ends else None,
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
