"""mkdir, move, copy, remove, chmod."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from protocol.errors import InvalidRequest, NotFound
from protocol.limits import Limits
from protocol.messages.places import (
    Chmod,
    ChmodAnswer,
    Copy,
    CopyAnswer,
    Mkdir,
    MkdirAnswer,
    Move,
    MoveAnswer,
    Remove,
    RemoveAnswer,
)
from protocol.paths import WorkspacePath
from toolserver.system import places
from toolserver.system.copying import Copying
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.threads import whole
from toolserver.tools.call import Call
from toolserver.tools.files import existing, refuse_stale
from toolserver.tools.locks import PathLocks
from toolserver.tools.undo import Keeping

_TRASH_SECONDS = 1.0
"""For trash when the tool server stops: some ten thousand files."""

log = logging.getLogger("toolserver.places")


def refuse_other_bits(mode: int | None) -> None:
    """Raise InvalidRequest for anything but permission bits.

    >>> refuse_other_bits(0o1777)
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: 'mode' holds permission bits, 0 to 511 (0o777)
    """
    if mode is not None and not 0 <= mode <= 0o777:
        raise InvalidRequest("'mode' holds permission bits, 0 to 511 (0o777)", field="mode")


class Places:
    """The handlers."""

    def __init__(
        self, disk: Disk, state: Path, gate: Gate, locks: PathLocks, limits: Limits, kept: Keeping
    ) -> None:
        self._disk = disk
        self._places = places.Places(disk, state, limits)
        self._gate = gate
        self._locks = locks
        self._limits = limits
        self._kept = kept
        self._trash = False
        """Something was thrown away since the last look."""
        self._emptying: asyncio.Task[None] | None = None
        self._closing = threading.Event()

    async def mkdir(self, request: Mkdir, call: Call) -> MkdirAnswer:
        """Make a directory."""
        refuse_other_bits(request.mode)
        path = self._disk.path(request.path)
        async with self._alone(path):
            created = await whole(self._make_directory, path, request, call)
        return MkdirAnswer(path=path, created=created)

    async def move(self, request: Move, call: Call) -> MoveAnswer:
        """Move or rename."""
        path, to = self._disk.path(request.path), self._disk.path(request.to)
        async with self._alone(path, to):
            replaced = await whole(self._move, path, to, request, call)
        self._empty_trash(replaced)
        return MoveAnswer(path=path, to=to, replaced=replaced)

    async def copy(self, request: Copy, call: Call) -> CopyAnswer:
        """Copy, whole."""
        path, to = self._disk.path(request.path), self._disk.path(request.to)
        async with self._alone(path, to):
            copied, replaced = await whole(self._copy, path, to, request, call)
        self._empty_trash(replaced)
        return CopyAnswer(path=path, to=to, replaced=replaced, entries=copied.entries, bytes=copied.bytes)

    async def remove(self, request: Remove, call: Call) -> RemoveAnswer:
        """Remove; a whole directory is gone at once, and taken apart afterwards."""
        path = self._disk.path(request.path)
        async with self._alone(path):
            removed = await whole(self._remove, path, request, call)
        self._empty_trash(removed and request.recursive)
        return RemoveAnswer(path=path, removed=removed)

    async def chmod(self, request: Chmod, call: Call) -> ChmodAnswer:
        """Set permission bits."""
        refuse_other_bits(request.mode)
        path = self._disk.path(request.path)
        async with self._alone(path):
            previous = await whole(self._set_mode, path, request, call)
        return ChmodAnswer(path=path, mode=request.mode, previous=previous)

    async def tidy_soon(self, _: object = None) -> None:
        """Have taken apart what an earlier run has left."""
        self._empty_trash(needed=True)

    async def close(self) -> None:
        """Wait a moment for the trash to be gone; what is left is removed at the next start."""
        if self._emptying is not None:
            await asyncio.wait([self._emptying], timeout=_TRASH_SECONDS)
            self._closing.set()
            await asyncio.wait([self._emptying])

    def _make_directory(self, path: WorkspacePath, request: Mkdir, call: Call) -> bool:
        with self._kept(call.request_id, "mkdir", path):
            return self._places.make_directory(path, request.mode, request.parents)

    def _move(self, path: WorkspacePath, to: WorkspacePath, request: Move, call: Call) -> bool:
        with self._kept(call.request_id, "move", path, to, deep=True, lands=True):
            return self._places.move(path, to, request.overwrite, request.create_parents)

    def _copy(
        self, path: WorkspacePath, to: WorkspacePath, request: Copy, call: Call
    ) -> tuple[Copying, bool]:
        with self._kept(call.request_id, "copy", path, to, deep=True, lands=True):
            return self._places.copy(path, to, request.overwrite, request.create_parents)

    def _set_mode(self, path: WorkspacePath, request: Chmod, call: Call) -> int:
        with self._kept(call.request_id, "chmod", self._disk.real_path(path)):
            return self._places.set_mode(path, request.mode)

    def _remove(self, path: WorkspacePath, request: Remove, call: Call) -> bool:
        if request.expected_hash is not None:
            old = existing(self._disk, path, self._limits.max_read_bytes)
            refuse_stale(path, old, old is not None, request.expected_hash)
        try:
            with self._kept(call.request_id, "remove", path, deep=True):
                self._places.remove(path, request.recursive)
        except NotFound:
            if not request.missing_ok:
                raise
            return False
        return True

    def _empty_trash(self, needed: bool) -> None:
        """In the background: nobody waits for the unlinking of a node_modules."""
        self._trash = self._trash or needed
        if self._trash and (self._emptying is None or self._emptying.done()):
            self._emptying = asyncio.create_task(self._emptied())

    async def _emptied(self) -> None:
        while self._trash:
            self._trash = False
            try:
                await whole(self._places.empty_trash, self._closing.is_set)
            except OSError as error:
                log.warning("trash is left to the next start", extra={"data": {"reason": str(error)}})

    @asynccontextmanager
    async def _alone(self, *paths: WorkspacePath) -> AsyncIterator[None]:
        async with self._gate.shared(), contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._locks.hold(*paths))
            yield
