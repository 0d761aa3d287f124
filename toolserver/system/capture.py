"""The tree as states: what is at a path, with its content put into the store as it is looked at.

Every file is opened below the root's descriptor and never through a link. What is known by inode, size and
both times is not read again; but a file that changed a moment ago is, for a clock's tick is longer than a
write.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.errors import Busy, NotFound, ToolError
from protocol.exclusions import Exclusions
from protocol.paths import RESERVED, ROOT, WorkspacePath
from toolserver.system.checkpoint_store import Store
from toolserver.system.directories import DIRECTORY
from toolserver.system.disk import Disk, is_temporary
from toolserver.system.past import ABSENT, Identity, State
from toolserver.system.tree_index import MAX_DEPTH, is_passed_over, refuse_blindness

_CACHES = Exclusions.nothing().with_rules(
    (".next/", ".nuxt/", ".output/", ".astro/", ".svelte-kit/", ".turbo/", ".parcel-cache/", ".cache/")
)
"""Filled by tools like those that the index passes over, but worth watching."""
_TICK_NS = 2_000_000_000
"""As long as the coarsest file system's clock stands still."""
_PUT_BYTES = 4 * 1024 * 1024
"""Put into the store at once."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class TooMuch(Exception):
    """More than was to be kept."""


def left_out(name: str, path: str) -> bool:
    """Whether a directory is filled by tools, and no checkpoint holds what is in it.

    >>> left_out("node_modules", "a/node_modules"), left_out(".next", ".next"), left_out("dist", "dist")
    (True, True, False)
    """
    return path == RESERVED or is_passed_over(name) or _CACHES.excludes_entry(name, True)


def is_kept(path: str, is_directory: bool) -> bool:
    """Whether a checkpoint holds what is at this path.

    >>> is_kept("a/node_modules", True), is_kept("a/.next/b", False), is_kept("node_modules", False)
    (False, False, True)
    """
    names = path.split("/")
    tops = names if is_directory else names[:-1]
    return path != RESERVED and not any(left_out(name, "") for name in tops)


@dataclass
class Capture:
    """One look at some paths. ``known`` gives contents by identity; ``max_bytes`` bounds what is read."""

    disk: Disk
    store: Store
    max_file_bytes: int
    max_bytes: int | None = None
    max_entries: int | None = None
    known: Mapping[tuple[Identity, int], bytes] = field(default_factory=dict)
    stored: int = 0
    """Bytes read and put into the store, before packing."""
    _waiting: list[bytes] = field(default_factory=list)
    _waiting_bytes: int = 0
    _entries: int = 0

    def state(self, path: str, before: State | None = None) -> State:
        """What is at ``path`` now, ABSENT for nothing; ``before`` is what it was when last looked at."""
        try:
            with self.disk.parent(WorkspacePath(path)) as (fd, name):
                return self._state(fd, name, before)
        except (NotFound, FileNotFoundError):
            return ABSENT

    def below(self, path: str, *, content: bool = True) -> dict[str, State]:
        """``path`` and all that is below it, but for what tools fill; without contents if so wanted."""
        found: dict[str, State] = {}
        try:
            with self.disk.parent(WorkspacePath(path)) as (fd, name):
                self._below(fd, name, path, content, found)
        except (NotFound, FileNotFoundError):
            return found or {path: ABSENT}
        return found

    def flush(self) -> None:
        """Put what waits into the store; before a point that needs it."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            self.store.put(waiting)

    def _below(self, fd: int, name: str, path: str, content: bool, found: dict[str, State]) -> None:
        if path.count("/") > MAX_DEPTH:
            raise TooMuch
        try:
            found[path] = state = self._state(fd, name, None, content)
        except FileNotFoundError:
            found[path] = ABSENT
            return
        if not state.is_directory or left_out(name, path):
            return
        try:
            below = os.open(name, DIRECTORY, dir_fd=fd)
        except OSError as error:  # closed to us, or something else by now
            refuse_blindness(error)
            return
        try:
            for each in sorted(os.listdir(below)):
                if not is_temporary(each):
                    self._below(below, each, f"{path}/{each}", content, found)
        finally:
            os.close(below)

    def _state(self, fd: int, name: str, before: State | None, content: bool = True) -> State:
        self._entries += 1
        if self.max_entries is not None and self._entries > self.max_entries:
            raise TooMuch
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            return State(info.st_mode)
        identity = identity_of(info)
        if stat.S_ISLNK(info.st_mode):
            target = _link(fd, name)
            if target is None:
                raise FileNotFoundError(errno.ENOENT, "is no link any more", name)
            return State(info.st_mode, len(target), target, identity)
        if not stat.S_ISREG(info.st_mode):
            return ABSENT  # a socket, a FIFO, a device: nothing to go back to
        if not content:
            return State(info.st_mode, info.st_size, None, identity)
        known = self.known.get((identity, info.st_size))
        if before is not None and (before.identity, before.size) == (identity, info.st_size):
            known = before.content
        if known is not None:
            return State(info.st_mode, info.st_size, known, identity)
        return self._read(fd, name, info)

    def _read(self, fd: int, name: str, info: os.stat_result) -> State:
        if info.st_size > self.max_file_bytes:
            return State(info.st_mode, info.st_size, None, identity_of(info))
        try:
            file = os.open(name, _READ, dir_fd=fd)
        except FileNotFoundError:
            raise
        except OSError as error:  # closed to us, or a link by now
            refuse_blindness(error)
            return State(info.st_mode, info.st_size, None, identity_of(info))
        try:
            data, info = _content(file, self.max_file_bytes)
        finally:
            os.close(file)
        if not stat.S_ISREG(info.st_mode):
            return ABSENT
        if len(data) > self.max_file_bytes:
            return State(info.st_mode, info.st_size, None, identity_of(info))
        self.stored += len(data)
        if self.max_bytes is not None and self.stored > self.max_bytes:
            raise TooMuch
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _PUT_BYTES:
            self.flush()
        return State(info.st_mode, len(data), hashlib.sha256(data).digest(), settled_identity(info))


def _link(fd: int, name: str) -> bytes | None:
    """Where it points; None when it is something else by now."""
    try:
        return os.fsencode(os.readlink(name, dir_fd=fd))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _content(file: int, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """A file's bytes and its stat, which fit together unless somebody writes into it all the time."""
    tries = 3
    while True:
        tries -= 1
        before = os.fstat(file)
        with open(file, "rb", closefd=False, buffering=0) as reader:
            reader.seek(0)
            data = b""
            while len(data) <= max_bytes and (piece := reader.read(max_bytes + 1 - len(data))):
                data = data + piece if data else piece
        after = os.fstat(file)
        is_whole = identity_of(before) == identity_of(after) and before.st_size == after.st_size == len(data)
        if is_whole or not tries:
            return data, after


def identity_of(info: os.stat_result) -> Identity:
    """By which the same content is known again."""
    return info.st_ino, info.st_mtime_ns, info.st_ctime_ns


def settled_identity(info: os.stat_result) -> Identity:
    """The same; its last time negative, as no file's is, while it may change within the clock's tick."""
    if info.st_ctime_ns > time.time_ns() - _TICK_NS:
        return info.st_ino, info.st_mtime_ns, -info.st_ctime_ns
    return identity_of(info)


def glance(disk: Disk, path: str) -> State:
    """What is at a path, without its content. Raises Busy."""
    try:
        with disk.parent(WorkspacePath(path)) as (fd, name):
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except Busy:
        raise  # it may be there all the same
    except (ToolError, OSError):
        return ABSENT
    if stat.S_ISDIR(info.st_mode):
        return State(info.st_mode)
    return State(info.st_mode, info.st_size, None, identity_of(info))


def real_place(disk: Disk, path: WorkspacePath) -> WorkspacePath:
    """``path`` with the links above its last name resolved, as far as there is anything."""
    above, _, name = path.rpartition("/")
    if not above:
        return path
    try:
        real = disk.real_path(WorkspacePath(above))
    except NotFound:
        real = real_place(disk, WorkspacePath(above))
    return WorkspacePath(name if real == ROOT else f"{real}/{name}")
