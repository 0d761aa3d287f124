"""search: contents and names, by ripgrep."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from msgspec import structs

from protocol.errors import Internal, InvalidRequest, TooLarge, ToolError, Unavailable
from protocol.limits import Limits
from protocol.messages.search import Match, Matches, PatternKind, Search, SearchAnswer, Where
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.call import Call
from toolserver.tools.confirming import Confirming
from toolserver.tools.errands import finish
from toolserver.tools.names import Names
from toolserver.tools.ripgrep import Naming, arguments, located_path, matched, shown_path

_BATCH = 100
"""Matches in one event."""
_READ_BYTES = 256 * 1024
_MAX_CONTEXT = 100


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
            locate = partial(located_path, path, is_file=process.argv[-1] != ".")
            confirming = Confirming(self._disk, locate)
            most = self._limits.max_match_text_bytes
            try:
                found = matched(_lines(process), naming, request, most, confirming.holds)
                answer = await _collect(found, limit, call, process)
            finally:
                confirming.close()
            return structs.replace(answer, unconfirmed=confirming.refused)

    async def _walk(self, request: Search) -> list[str]:
        """Every name that a search in names may find, by a walk of ripgrep's."""
        async with self._running(request, self._disk.path(request.path)) as (process, naming):
            target = process.argv[-1]
            found = [line async for line in _lines(process)]
            await _refuse_failure(process)
            locate = partial(located_path, self._disk.path(request.path), is_file=target != ".")
            there = await asyncio.to_thread(lambda: [each for each in found if self._is_there(locate(each))])
            return sorted(naming(each) for each in there)

    def _is_there(self, path: WorkspacePath) -> bool:
        """Beneath the root: while ripgrep walked, somebody may have led it outside."""
        try:
            with self._disk.opened(path, os.O_PATH):
                return True
        except ToolError:
            return False

    @asynccontextmanager
    async def printed(self, request: Search, *options: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """ripgrep's own lines for a search in contents, with options of the asker's; raises when it fails."""
        self._limit(request)
        async with self._running(request, self._disk.path(request.path), *options) as (process, _):
            yield _lines(process)
            await _refuse_failure(process)

    @asynccontextmanager
    async def _running(
        self, request: Search, path: WorkspacePath, *options: str
    ) -> AsyncIterator[tuple[Process, Naming]]:
        below, target = await asyncio.to_thread(self._disk.place, path)
        argv = [self._program(), *options, *arguments(request, target)]
        process = await self._table.start_soon(argv, cwd=below, env=self._env, shown_cwd=path)
        try:
            yield process, partial(shown_path, path, is_file=target != ".")
        finally:
            await finish(self._table, process)

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
