"""Raw files: bytes as they are, at any size, with the validators by which HTTP clients avoid lost updates.

The rules are pure: what an entity tag is, which conditions hold, which bytes a range means. The acts below
hold the tree only for the moments in which a file gets opened or named, never while a client sends.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import Conflict, InvalidRequest, NotAFile, NotFound
from protocol.limits import Limits
from protocol.messages.files import WriteAnswer
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.threads import taken, whole
from toolserver.system.uploads import Upload
from toolserver.tools.call import Call
from toolserver.tools.files import SMALL_BYTES, file_of
from toolserver.tools.locks import PathLocks
from toolserver.tools.text import content_hash
from toolserver.tools.undo import Keeping

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_RANGE = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))")


def tag_of(info: os.stat_result) -> str:
    """A strong entity tag, from what changes whenever content does: inode, both times, size.

    Not the modification time alone: an archive or ``touch`` sets that at will, and two writes may share one.
    """
    return f"{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_ctime_ns:x}-{info.st_size:x}"


@dataclass(frozen=True)
class Conditions:
    """The conditional headers of a request; an absent one is None, ``*`` stands for itself."""

    if_match: str | None = None
    if_none_match: str | None = None

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None


def refuse_unmatched(path: str, conditions: Conditions, tags: frozenset[str]) -> None:
    """Raise Conflict unless the conditions of a write hold; ``tags`` are the file's, none without a file.

    >>> refuse_unmatched("a", Conditions(if_match='"1", "2"'), frozenset({"2"}))
    >>> refuse_unmatched("a", Conditions(if_none_match="*"), frozenset({"2"}))
    Traceback (most recent call last):
    protocol.errors.Conflict: 'a' exists already, and was expected not to
    """
    if conditions.if_match is not None and not names(conditions.if_match, tags, weak=False):
        gone = "has changed since" if tags else "does not exist any more, as it did when"
        raise Conflict(f"{path!r} {gone} it was read; read it again", path=path)
    if conditions.if_none_match is not None and names(conditions.if_none_match, tags, weak=True):
        how = "exists already" if conditions.if_none_match.strip() == "*" else "is still as it was"
        raise Conflict(f"{path!r} {how}, and was expected not to", path=path)


def names(header: str, tags: frozenset[str], *, weak: bool) -> bool:
    """Whether a list of entity tags names one of ``tags``; raises InvalidRequest when it is no such list.

    >>> names('W/"1"', frozenset({"1"}), weak=True), names('W/"1"', frozenset({"1"}), weak=False)
    (True, False)
    >>> names("*", frozenset(), weak=False)
    False
    """
    if header.strip() == "*":
        return bool(tags)
    found = [match for part in header.split(",") if (match := _TAG.fullmatch(part.strip()))]
    if len(found) != len(header.split(",")):
        raise InvalidRequest(f'{header[:100]!r} is no list of entity tags like "abc"', field="If-Match")
    return any(match[2] in tags and (weak or not match[1]) for match in found)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and number of bytes that a Range header means; None for the whole.

    What is no single range of bytes is passed over, as HTTP wants it. A range past the end raises IndexError.

    >>> byte_range("bytes=2-5", 10), byte_range("bytes=-3", 10), byte_range("bytes=7-", 10)
    ((2, 4), (7, 3), (7, 3))
    >>> byte_range("bytes=0-1,4-5", 10), byte_range("lines=1-2", 10), byte_range("bytes=5-2", 10)
    (None, None, None)
    >>> byte_range("bytes=10-", 10)
    Traceback (most recent call last):
    IndexError: 10
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None:
        return None
    if match[3] is not None:
        first, last = max(0, size - int(match[3])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < first:
            return None
    if first >= size or match[3] == "0":
        raise IndexError(size)
    return first, last - first + 1


@dataclass(frozen=True)
class Opened:
    """A file held open for a download: what is sent is one version of it."""

    fd: int
    info: os.stat_result
    content: bytes | None = None
    """Of a small file that the kernel had at hand: then nobody has to wait for it."""

    @property
    def tag(self) -> str:
        """Its entity tag."""
        return tag_of(self.info)

    def close(self) -> None:
        """Let go of it."""
        if self.content is None:
            os.close(self.fd)

    def read(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset`` on; blocks, unless there is ``content``."""
        if self.content is not None:
            return self.content[offset : offset + count]
        return os.pread(self.fd, count, offset)


class RawFiles:
    """The acts."""

    def __init__(
        self, disk: Disk, state: Path, gate: Gate, locks: PathLocks, limits: Limits, kept: Keeping
    ) -> None:
        self._disk = disk
        self._state = state
        self._gate = gate
        self._locks = locks
        self._limits = limits
        self._kept = kept

    @asynccontextmanager
    async def opened(self, raw: str) -> AsyncIterator[Opened]:
        """A regular file, for reading."""
        path = self._disk.path(raw)
        async with self._gate.shared():
            now = self._disk.read_now(path, SMALL_BYTES)
            if now is None:
                file = await taken(Opened.close, self._open, path)
            else:
                file = Opened(-1, now[1], now[0])
        try:
            yield file
        finally:
            file.close()

    async def write(
        self, raw: str, chunks: AsyncIterator[bytes], conditions: Conditions, mode: int | None, call: Call
    ) -> tuple[WriteAnswer, str]:
        """Take a file in, whole or not at all; gives its entity tag too. Raises Conflict, TooLarge."""
        path = self._disk.path(raw)
        if conditions:  # told before the client has sent everything; what counts is asked again at the end
            await asyncio.to_thread(self._check, path, conditions)
        upload = await taken(Upload.release, Upload.begin, self._disk, path, self._state, self._limits)
        try:
            async for chunk in chunks:
                await whole(upload.write, chunk)
            await whole(upload.sync)
            async with self._alone(path):
                return await whole(self._place, path, upload, conditions, mode, call)
        finally:
            upload.release()

    async def remove(self, raw: str, conditions: Conditions, call: Call) -> None:
        """Remove one file, or a link itself."""
        path = self._disk.path(raw)
        async with self._alone(path):
            await whole(self._remove, path, conditions, call)

    @asynccontextmanager
    async def _alone(self, path: WorkspacePath) -> AsyncIterator[None]:
        async with self._gate.shared(), self._locks.hold(await file_of(self._disk, path)):
            yield

    def _open(self, path: WorkspacePath) -> Opened:
        # O_NONBLOCK: a fifo of that name must not hang the thread; regular files ignore it.
        fd = self._disk.open(path, os.O_RDONLY | os.O_NONBLOCK)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(fd)
            raise NotAFile(f"{path!r} is no file; 'list' shows what is in a directory", path=path)
        return Opened(fd, info)

    def _check(self, path: WorkspacePath, conditions: Conditions) -> bool:
        """Whether the file is there; raises Conflict when it is not what the conditions want."""
        try:
            file = self._open(path)
        except NotFound:
            refuse_unmatched(path, conditions, frozenset())
            return False
        try:
            refuse_unmatched(path, conditions, self._tags(file, conditions))
        finally:
            os.close(file.fd)
        return True

    def _tags(self, file: Opened, conditions: Conditions) -> frozenset[str]:
        """Its entity tag; and its hash, as the operations tell it, when a condition names one."""
        wanted = f"{conditions.if_match}{conditions.if_none_match}"
        if "sha256:" not in wanted or file.info.st_size > self._limits.max_read_bytes:
            return frozenset({file.tag})
        return frozenset({file.tag, content_hash(file.read(0, file.info.st_size))})

    def _place(
        self, path: WorkspacePath, upload: Upload, conditions: Conditions, mode: int | None, call: Call
    ) -> tuple[WriteAnswer, str]:
        existed = self._check(path, conditions)
        with self._kept(call.request_id, "raw_write", self._disk.file_of(path)):
            upload.place(self._disk, mode)
        with self._disk.opened(path, os.O_PATH) as fd:
            tag = tag_of(os.fstat(fd))
        return WriteAnswer(path=path, size=upload.size, hash=upload.hash, created=not existed), tag

    def _remove(self, path: WorkspacePath, conditions: Conditions, call: Call) -> None:
        if conditions:
            self._check(path, conditions)
        with self._kept(call.request_id, "raw_remove", path):
            self._disk.remove_file(path)
