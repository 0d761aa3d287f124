"""write, list, stat."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import stat
from datetime import UTC, datetime

import msgspec

from protocol.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotAFile,
    NotFound,
    OutsideWorkspace,
    TooLarge,
    ToolError,
)
from protocol.exclusions import Exclusions
from protocol.limits import Limits
from protocol.messages.files import (
    Entry,
    Kind,
    LeadsTo,
    List,
    ListAnswer,
    Stat,
    StatAnswer,
    Write,
    WriteAnswer,
)
from protocol.paths import RESERVED, ROOT, WorkspacePath
from toolserver.system.disk import Disk, refused
from toolserver.system.gate import Gate
from toolserver.system.threads import whole
from toolserver.tools.call import Call
from toolserver.tools.diagnostics import Diagnostics
from toolserver.tools.ignored import Ignored
from toolserver.tools.locks import PathLocks
from toolserver.tools.text import bytes_of, content_hash, printable
from toolserver.tools.undo import Keeping

_MAX_DEPTH = 64
SMALL_BYTES = 64 * 1024
"""Read on the event loop, when the kernel has it in memory: 0.1 ms, where a thread costs as much again."""
_Entries = list[Entry]


class Files:
    """The handlers."""

    def __init__(
        self, disk: Disk, gate: Gate, locks: PathLocks, limits: Limits, kept: Keeping, dev: Diagnostics
    ) -> None:
        self._disk = disk
        self._gate = gate
        self._locks = locks
        self._limits = limits
        self._kept = kept
        self._dev = dev

    async def write(self, request: Write, call: Call) -> WriteAnswer:
        """Create or replace one file."""
        if not request.wait_for_dev:
            return await self._written(request, call)
        number = await self._dev.listening()
        answer = await self._written(request, call)
        return msgspec.structs.replace(answer, dev=await self._dev.feedback(number, [answer.path]))

    async def _written(self, request: Write, call: Call) -> WriteAnswer:
        path = self._disk.path(request.path)
        if request.mode is not None and not 0 <= request.mode <= 0o777:
            raise InvalidRequest("'mode' holds permission bits, 0 to 511 (0o777)", field="mode")
        async with self._gate.shared():
            file = await file_of(self._disk, path)
            async with self._locks.hold(file):
                return await whole(self._write, path, file, request, call)

    async def list(self, request: List, call: Call) -> ListAnswer:
        """A directory's entries."""
        if not 1 <= request.depth <= _MAX_DEPTH:
            raise InvalidRequest(f"'depth' is from 1 to {_MAX_DEPTH}", field="depth")
        path = self._disk.path(request.path)
        async with self._gate.shared():
            entries = await asyncio.to_thread(self._list, path, request)
        limit = self._limits.max_list_entries
        return ListAnswer(path=path, entries=entries[:limit], truncated=len(entries) > limit)

    async def stat(self, request: Stat, call: Call) -> StatAnswer:
        """What is at a path."""
        path = self._disk.path(request.path)
        async with self._gate.shared():
            return await asyncio.to_thread(self._stat, path)

    def stat_at_once(self, request: Stat) -> StatAnswer | None:
        """Of a small file that the kernel has at hand."""
        if not self._gate.free:
            return None
        path = self._disk.path(request.path)
        found = self._disk.read_now(path, SMALL_BYTES, follow=False)
        if found is None:
            return None
        content, info = found
        return _stat_answer(_entry(path, info, None, "", self._disk), content_hash(content))

    # Megabytes are decoded, hashed and cut into lines on the thread too: on the loop all others would wait.

    def _write(self, path: WorkspacePath, file: WorkspacePath, request: Write, call: Call) -> WriteAnswer:
        content = bytes_of(request.content, request.encoding, request.charset)
        refuse_too_large(len(content), self._limits.max_write_bytes, "maxWriteBytes", path)
        old = existing(self._disk, path, self._limits.max_read_bytes) if request.expected_hash else None
        exists = old is not None or _exists(self._disk, path)
        if request.expected_hash is not None:
            refuse_stale(path, old, exists, request.expected_hash)
        with self._kept(call.request_id, "write", file):
            self._disk.replace(path, content, request.mode, request.create_parents)
        return WriteAnswer(path=path, size=len(content), hash=content_hash(content), created=not exists)

    def _list(self, path: WorkspacePath, request: List) -> _Entries:
        found: _Entries = []
        ignored = Ignored(self._disk, path) if request.gitignore else None
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            with self._disk.opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                top = "" if path == ROOT else path
                self._list_below(fd, top, request, request.depth, flags, found, ignored)
        except OSError as error:
            raise refused(error, path) from None
        return sorted(found, key=lambda entry: entry.path)

    def _list_below(
        self,
        fd: int,
        above: str,
        request: List,
        depth: int,
        flags: int,
        found: _Entries,
        ignored: Ignored | None,
    ) -> None:
        rules = Exclusions.default()
        names = sorted(os.listdir(fd))
        if ignored is not None:
            ignored.enter(fd, above, names)
        for name in names:
            if len(found) > self._limits.max_list_entries:
                return
            path = f"{above}/{name}" if above else name
            if path == RESERVED:
                continue
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if ignored is not None and ignored.leaves_out(path, stat.S_ISDIR(info.st_mode)):
                continue
            found.append(_entry(path, info, fd, name, self._disk))
            enter = stat.S_ISDIR(info.st_mode) and depth > 1
            if enter and (request.ignored or not rules.excludes(path, True)):
                try:
                    below = os.open(name, flags | os.O_CLOEXEC, dir_fd=fd)
                except OSError:
                    # Gone meanwhile, or closed to the workspace's user: it is listed itself, that is all.
                    continue
                try:
                    self._list_below(below, path, request, depth - 1, flags, found, ignored)
                finally:
                    os.close(below)

    def _stat(self, path: WorkspacePath) -> StatAnswer:
        info = self._disk.stat(path)
        if path == self._disk.highest:
            entry = _entry(path, info, None, ".", self._disk)
        else:
            with self._disk.parent(path) as (fd, name):
                entry = _entry(path, info, fd, name, self._disk)
        digest = None
        if entry.kind is Kind.FILE and entry.size <= self._limits.max_read_bytes:
            # What may not be read can still be told of.
            with contextlib.suppress(Forbidden):
                digest = content_hash(self._disk.read(path)[0])
        return _stat_answer(entry, digest)


def _stat_answer(entry: Entry, digest: str | None) -> StatAnswer:
    return StatAnswer(
        path=entry.path,
        kind=entry.kind,
        size=entry.size,
        mode=entry.mode,
        modified=entry.modified,
        target=entry.target,
        leads_to=entry.leads_to,
        hash=digest,
    )


def read_within(disk: Disk, path: WorkspacePath, max_bytes: int) -> bytes:
    """A file's content; raises TooLarge past the limit."""
    data, info = disk.read(path, max_bytes)
    refuse_too_large(max(len(data), info.st_size), max_bytes, "maxReadBytes", path)
    return data


async def file_of(disk: Disk, path: WorkspacePath) -> WorkspacePath:
    """``Disk.file_of``, on a thread where a disk may have to be waited for."""
    file = disk.real_path_now(path)
    return await asyncio.to_thread(disk.file_of, path) if file is None else file


def existing(disk: Disk, path: WorkspacePath, max_bytes: int) -> bytes | None:
    """A file's content, or None when there is none."""
    return read_within(disk, path, max_bytes) if _exists(disk, path) else None


def refuse_too_large(size: int, limit: int, name: str, path: str) -> None:
    """Raise TooLarge naming the limit."""
    if size > limit:
        raise TooLarge(
            f"{path!r} has {size} bytes, and the limit here is {limit}; read a range of it, or use /v1/files",
            path=path,
            size=size,
            limit=name,
            value=limit,
        )


def refuse_stale(path: str, old: bytes | None, exists: bool, expected: str) -> None:
    """Raise Conflict when the content is not what the caller last saw; an empty hash expects no file."""
    if not expected and exists:
        raise Conflict(f"{path!r} exists already, and was expected not to", path=path)
    if expected and old is None:
        raise Conflict(f"{path!r} does not exist any more; it was expected to", path=path, hash=None)
    if expected and old is not None and content_hash(old) != expected:
        raise Conflict(
            f"{path!r} has changed since it was read; read it again and redo the edit",
            path=path,
            expected_hash=expected,
            hash=content_hash(old),
        )


def _exists(disk: Disk, path: WorkspacePath) -> bool:
    try:
        info = disk.stat(path)
    except NotFound:
        return False
    if stat.S_ISDIR(info.st_mode):
        raise NotAFile(f"{path!r} is a directory; name a file in it", path=path)
    return True


def _leads_to(disk: Disk, path: str) -> LeadsTo:
    try:
        with disk.opened(WorkspacePath(path), os.O_PATH):
            return LeadsTo.INSIDE
    except OutsideWorkspace:
        return LeadsTo.OUTSIDE
    except ToolError:
        return LeadsTo.NOTHING


def _entry(path: str, info: os.stat_result, fd: int | None, name: str, disk: Disk) -> Entry:
    kind = _kind(info.st_mode)
    return Entry(
        path=printable(path),
        kind=kind,
        size=info.st_size,
        mode=stat.S_IMODE(info.st_mode),
        modified=instant(info.st_mtime),
        target=printable(os.readlink(name, dir_fd=fd)) if kind is Kind.SYMLINK else None,
        leads_to=_leads_to(disk, path) if kind is Kind.SYMLINK else None,
    )


def instant(seconds: float) -> str:
    """ISO 8601 UTC; what lies beyond the calendar is its first or last day.

    >>> instant(0), instant(2**40)
    ('1970-01-01T00:00:00+00:00', '9999-12-31T23:59:59.999999+00:00')
    """
    whole, microseconds = divmod(round(seconds * 1_000_000), 1_000_000)
    fraction = f".{microseconds:06d}" if microseconds else ""
    return _LAST if (second := _second(whole)) is None else f"{second}{fraction}+00:00"


_LAST = datetime.max.replace(tzinfo=UTC).isoformat()


@functools.lru_cache(maxsize=4096)
def _second(seconds: int) -> str | None:
    """Without its zone; kept, for a tool writes many files within one. None beyond the calendar."""
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    except (OverflowError, ValueError, OSError):
        return None if seconds > 0 else datetime.min.isoformat()


def _kind(mode: int) -> Kind:
    """
    >>> _kind(0o040755)
    <Kind.DIRECTORY: 'directory'>
    """
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    return Kind.SYMLINK if stat.S_ISLNK(mode) else Kind.OTHER
