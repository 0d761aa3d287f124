"""watch: whose changes a caller wants, and how they are put together.

A caller follows by number. Nothing is queued for it: a slow one finds later what is still kept, or is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from protocol.errors import InvalidRequest, ToolError, Unavailable
from protocol.messages.archives import Inject
from protocol.messages.base import Request
from protocol.messages.checkpoints import Redo, Rollback, Undo
from protocol.messages.files import Write
from protocol.messages.places import Chmod, Copy, Mkdir, Move, Remove
from protocol.messages.watch import (
    Change,
    ChangeKind,
    Changes,
    Resync,
    ResyncReason,
    Watch,
    WatchAnswer,
    Watching,
)
from protocol.paths import ROOT, WorkspacePath, is_within
from toolserver.system.disk import Disk
from toolserver.system.watcher import Numbered, Watcher
from toolserver.tools.call import Call
from toolserver.tools.patterns import Globs

Mark = Callable[[Call, tuple[str, ...]], contextlib.AbstractContextManager[None]]
"""Makes the context in which somebody touches these paths."""
_CHANGING = frozenset((Move, Copy, Write, Mkdir, Remove, Chmod, Rollback, Inject, Undo, Redo))
_MAX_DEBOUNCE_MS = 60_000
_NOTHING = contextlib.nullcontext()
_BATCH = 1000
"""Changes in one event; an injection has thousands."""


@dataclass(frozen=True)
class Filter:
    """Which paths a caller wants to hear of."""

    paths: tuple[WorkspacePath, ...]
    globs: Globs

    @classmethod
    def of(cls, request: Watch, disk: Disk) -> Filter:
        """Raises InvalidRequest, OutsideWorkspace."""
        return cls(
            tuple(disk.path(path) for path in request.paths or [ROOT]),
            Globs.of(request.glob, request.ignore),
        )

    def wants(self, path: str, is_directory: bool) -> bool:
        """
        >>> everything = Filter((ROOT,), Globs.of([], ["*.log", "out/"]))
        >>> [everything.wants(path, False) for path in ("a/b.log", "out/x", "src/a")]
        [False, False, True]
        """
        return is_within(path, self.paths) and self.globs.fits(f"{path}/" if is_directory else path)

    def chosen(self, found: Iterable[Numbered]) -> list[Change]:
        """What the caller is told; a move over its border is a creation or a deletion."""
        return [change for each in found if (change := self._told(each)) is not None]

    def _told(self, each: Numbered) -> Change | None:
        change = each.change
        kind, path, source = ChangeKind(change.what.value), change.path, change.source
        if source is not None:
            here, there = self.wants(path, change.is_directory), self.wants(source, change.is_directory)
            if not (here and there):
                kind, path = (ChangeKind.CREATED, path) if here else (ChangeKind.DELETED, source)
                source = None
        if not self.wants(path, change.is_directory):
            return None
        return Change(
            number=each.number,
            kind=kind,
            path=path,
            is_directory=change.is_directory,
            from_=source,
            request_id=each.request_id,
        )


def touched(request: Request) -> tuple[str, ...]:
    """The paths that a request changes, as it names them; nothing for one that changes none, and for edits,
    which mark theirs themselves: a patch names them inside.

    >>> touched(Move(path="a", to="b")), touched(Inject(archive=b"")), touched(Watch())
    (('a', 'b'), ('.',), ())
    """
    if type(request) not in _CHANGING:
        return ()
    match request:
        case Move(path=path, to=to) | Copy(path=path, to=to):
            return path, to
        case Write(path=path) | Mkdir(path=path) | Remove(path=path) | Chmod(path=path):
            return (path,)
        case Rollback(paths=paths):
            return tuple(paths) or (ROOT,)
        case Inject() | Undo() | Redo():
            return (ROOT,)
    return ()


class Watches:
    """The handler."""

    def __init__(self, watcher: Watcher, disk: Disk) -> None:
        self._watcher = watcher
        self._disk = disk

    def around(self, request: Request, call: Call) -> contextlib.AbstractContextManager[None]:
        """While a request is handled: what it changes will be told as its own."""
        return self.mark(call, touched(request))

    def mark(self, call: Call, paths: tuple[str, ...]) -> contextlib.AbstractContextManager[None]:
        """While the caller touches these paths, as it names them."""
        if not paths:
            return _NOTHING
        try:
            named = tuple(self._disk.path(each) for each in paths)
        except ToolError:  # the request itself will be refused
            return contextlib.nullcontext()
        return self._watcher.touching(call.request_id, named)

    async def watch(self, request: Watch, call: Call) -> WatchAnswer:
        """Tell changes until the caller has enough, or its time is over."""
        wanted = Filter.of(request, self._disk)
        if not 0 <= request.debounce_ms <= _MAX_DEBOUNCE_MS:
            raise InvalidRequest(f"'debounceMs' is from 0 to {_MAX_DEBOUNCE_MS}", field="debounceMs")
        if request.timeout_ms is not None and request.timeout_ms < 0:
            raise InvalidRequest("'timeoutMs' is 0 or more", field="timeoutMs")
        await self._watcher.index()  # what happened before this request is not news
        begin = self._watcher.number if request.since is None else request.since
        if call.streaming:
            return await self._stream(request, wanted, call, begin)
        return await self._once(request, wanted, begin)

    async def changed(self, since: int, ignore: Sequence[str]) -> tuple[int, bool]:
        """The number to come back with, and whether anything but what is ignored changed after ``since``.

        What cannot be known counts as a change.
        """
        wanted = Filter.of(Watch(ignore=list(ignore)), self._disk)
        try:
            await self._watcher.index()
        except Unavailable:
            return 0, True
        found = self._watcher.since(since)
        if found is None:
            return self._watcher.number, True
        return (found[-1].number if found else since), bool(wanted.chosen(found))

    async def _stream(self, request: Watch, wanted: Filter, call: Call, number: int) -> WatchAnswer:
        await call.emit(Watching(number=number))
        reason = ResyncReason.EXPIRED
        seconds = None if request.timeout_ms is None else request.timeout_ms / 1000
        try:
            async with asyncio.timeout(seconds):
                while True:
                    found = self._watcher.since(number)
                    if found is None:
                        number = self._watcher.number
                        await call.emit(Resync(number=number, reason=reason))
                    else:
                        number = await self._emit(found, number, wanted, call)
                    reason = ResyncReason.LOST
                    await self._watcher.wait_past(number)
                    await self._quiet(request.debounce_ms)
        except TimeoutError:
            return WatchAnswer(number=number)

    async def _emit(self, found: list[Numbered], number: int, wanted: Filter, call: Call) -> int:
        number = found[-1].number if found else number
        chosen = wanted.chosen(found)
        for at in range(0, len(chosen), _BATCH):
            batch = chosen[at : at + _BATCH]
            await call.emit(Changes(number=batch[-1].number, changes=batch))
        return number

    async def _once(self, request: Watch, wanted: Filter, number: int) -> WatchAnswer:
        begin, chosen = number, list[Change]()
        try:
            async with asyncio.timeout((request.timeout_ms or 0) / 1000):
                while True:
                    found = self._watcher.since(number)
                    if found is None:
                        reason = ResyncReason.EXPIRED if number == begin else ResyncReason.LOST
                        return WatchAnswer(number=self._watcher.number, resync=reason)
                    number = found[-1].number if found else number
                    if chosen := wanted.chosen(found):
                        break
                    await self._watcher.wait_past(number)
                    await self._quiet(request.debounce_ms)
        except TimeoutError:
            pass
        return WatchAnswer(number=number, changes=chosen)

    async def _quiet(self, debounce_ms: int) -> None:
        """Until nothing has happened for so long; at most ten times as long, for what never rests."""
        for _ in range(10):
            number = self._watcher.number
            await asyncio.sleep(debounce_ms / 1000)
            if self._watcher.number == number:
                return
