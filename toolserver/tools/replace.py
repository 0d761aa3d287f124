"""replace: a pattern in all files that hold it, found by ripgrep and changed as one.

ripgrep tells where each match is and what stands in its place; the files are then read again under their
locks, and one that has changed since refuses the whole.
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from protocol.errors import InvalidRequest, TooLarge, Unavailable
from protocol.limits import Limits
from protocol.messages.edits import FileAction, Replace, ReplaceAnswer
from protocol.messages.search import PatternKind, Search
from protocol.paths import ROOT
from toolserver.system.disk import Disk
from toolserver.tools.call import Call
from toolserver.tools.edit import Edits, load
from toolserver.tools.ripgrep import Text
from toolserver.tools.search import Searches

_Piece = tuple[int, bytes, bytes]


class _Submatch(msgspec.Struct):
    match: Text
    start: int
    replacement: Text | None = None


class _Data(msgspec.Struct):
    path: Text | None = None
    absolute_offset: int = 0
    binary_offset: int | None = None
    submatches: list[_Submatch] = []


class _Line(msgspec.Struct):
    type: str
    data: _Data


_decoder = msgspec.json.Decoder(_Line)


class Replaces:
    """The handler."""

    def __init__(self, searches: Searches, edits: Edits, disk: Disk, limits: Limits) -> None:
        self._searches = searches
        self._edits = edits
        self._disk = disk
        self._limits = limits

    async def replace(self, request: Replace, call: Call) -> ReplaceAnswer:
        """Find all, then change all or nothing."""
        search = search_of(request)
        if request.max_files is not None and request.max_files < 1:
            raise InvalidRequest("'maxFiles' is 1 or more", field="maxFiles")
        found = await self._found(request, search)
        await load()
        from toolserver.tools.editing.changes import Act
        from toolserver.tools.editing.splices import Splice

        acts = [
            Act(0, Splice(path, tuple(pieces), request.replacement.isascii()))
            for path, pieces in sorted(found.items())
        ]
        changed = await self._edits.change(acts, call, dry_run=request.dry_run)
        files = [each for each in changed.files if each.action is not FileAction.UNCHANGED]
        count = sum(each.replacements for each in files)
        return ReplaceAnswer(files=files, replacements=count, file_count=len(files))

    async def _found(self, request: Replace, search: Search) -> dict[str, list[_Piece]]:
        base = self._disk.path(request.path)
        _, target = await asyncio.to_thread(self._disk.place, base)
        most = min(request.max_files or self._limits.max_edit_files, self._limits.max_edit_files)
        found: dict[str, list[_Piece]] = {}
        room = self._limits.max_edit_bytes
        async with self._searches.printed(search, f"--replace={replacement_of(request)}") as lines:
            async for line in lines:
                event = _decoder.decode(line)
                if event.data.path is None:
                    continue
                name = os.fsdecode(event.data.path.raw()).removeprefix("./")
                path = base if target != "." else name if base == ROOT else f"{base}/{name}"
                if event.type == "end" and event.data.binary_offset is not None:
                    found.pop(path, None)  # ripgrep stops in it, so this would be half of the work
                elif event.type == "match":
                    pieces = found.setdefault(path, [])
                    pieces += pieces_of(event.data)
                    room -= len(line)
                    self._refuse_too_much(len(found), most, room)
        return found

    def _refuse_too_much(self, files: int, most: int, room: int) -> None:
        if files > most:
            raise TooLarge(
                f"more than {most} files match, and nothing was changed; narrow 'path' or 'glob'",
                limit="maxEditFiles",
                value=most,
            )
        if room < 0:
            raise TooLarge(
                "the matches are more than can be replaced at once, and nothing was changed; narrow 'path' "
                "or 'glob'",
                limit="maxEditBytes",
                value=self._limits.max_edit_bytes,
            )


def search_of(request: Replace) -> Search:
    """The search behind it; raises InvalidRequest for what is only for names.

    >>> search_of(Replace(pattern="a", replacement="b", kind=PatternKind.GLOB))
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: 'kind' is 'regex' or 'literal' here
    """
    if request.kind not in (PatternKind.REGEX, PatternKind.LITERAL):
        raise InvalidRequest("'kind' is 'regex' or 'literal' here", field="kind")
    if "\0" in request.replacement:
        raise InvalidRequest("'replacement' holds a NUL character", field="replacement")
    return Search(
        pattern=request.pattern,
        kind=request.kind,
        path=request.path,
        glob=request.glob,
        case_sensitive=request.case_sensitive,
        word=request.word,
        multiline=request.multiline,
    )


def replacement_of(request: Replace) -> str:
    """As ripgrep reads it, for which a dollar sign begins a group's name.

    >>> replacement_of(Replace(pattern="a", replacement="$1", kind=PatternKind.LITERAL))
    '$$1'
    """
    is_literal = request.kind is PatternKind.LITERAL
    return request.replacement.replace("$", "$$") if is_literal else request.replacement


def pieces_of(data: _Data) -> list[_Piece]:
    """Where, what, and what instead. Raises Unavailable when this ripgrep does not tell."""
    pieces = []
    for each in data.submatches:
        if each.replacement is None:
            raise Unavailable(
                "the ripgrep found is older than 15, which 'replace' needs; install a newer one"
            )
        pieces.append((data.absolute_offset + each.start, each.match.raw(), each.replacement.raw()))
    return pieces
