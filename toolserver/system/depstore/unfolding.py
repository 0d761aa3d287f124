"""From a pack to a tree, by several threads, every byte checked on the way.

A file of 64 KiB or more is not written where the file system can share its blocks with the pack. The tree is
beside the workspace until all of it was good: who reads a mistake here has nothing in the workspace yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from toolserver.system.copying import held
from toolserver.system.depstore.filling import CARRIED, Unfit
from toolserver.system.depstore.pack import PAGE, CorruptPack, File, Index, Segment
from toolserver.system.directories import DIRECTORY
from toolserver.system.large_files import write_all

HIDDEN_LOCK = ".package-lock.json"
"""npm believes it only when no directory beside it is newer: it is touched last."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 4 * 1024 * 1024
_MAX_THREADS = 4
"""More gained nothing: creating files in one file system is what takes the time."""
_NICE = 5
"""Steps by which one that nobody waits for gives way, as commands do: a third of another's share."""
_NAMELESS = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
_CLONE = 0x40049409
"""FICLONE, of linux/fs.h."""
_NO_ANSWER = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM))
_NOT_SHARED = frozenset((errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM))


class NotShared(OSError):
    """Blocks cannot be shared there."""


def unfold(pack: int, index: Index, target: int, root: str, *, shares: bool) -> None:
    """Put the pack's tree into the empty directory ``target``; raises CorruptPack, or OSError.

    ``root`` is the workspace's: what is only good for another one stays out. ``shares``: blocks are shared.
    """
    work = _Unfolding(pack, index, target, wanted_at(index, root), shares)
    work.directories()
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "unfold") as pool:
        for done in [pool.submit(work.segment, segment) for segment in index.segments]:
            done.result()
    work.links()
    _touch(target)


def unfold_gently(
    pack: int, index: Index, target: int, wanted: Callable[[str], bool], stop: threading.Event
) -> None:
    """The same for nobody who waits: by one thread that gives way, with pauses as long as its work.

    Raises Unfit too, when ``stop`` is set.
    """
    shares = False
    with contextlib.suppress(OSError):
        shares = shares_blocks(pack, target)
    with ThreadPoolExecutor(1, "spare", _give_way) as pool:
        pool.submit(_one_by_one, _Unfolding(pack, index, target, wanted, shares), stop).result()
    _touch(target)


def unfold_carried(pack: int, index: Index, target: int, root: str) -> None:
    """What ``unfold_gently`` may have left out: the dev server's cache, where it is good."""
    wanted = wanted_at(index, root)
    work = _Unfolding(pack, index, target, lambda path: is_carried(path) and wanted(path), shares=False)
    work.directories()
    for segment in index.segments:
        if any(work.wanted(file.path) for file in segment.files):
            work.segment(segment)
    work.links()
    _touch(target)


def wanted_at(index: Index, root: str) -> Callable[[str], bool]:
    """Which paths of a pack are good for a workspace at ``root``."""
    same = index.root == root
    return lambda path: same or not is_carried(path)


def _one_by_one(work: _Unfolding, stop: threading.Event) -> None:
    work.directories()
    for segment in work.index.segments:
        begun = time.monotonic()
        work.segment(segment)
        if stop.wait(time.monotonic() - begun):
            raise Unfit("the workspace ends")
    work.links()


def _give_way() -> None:
    # A thread's own in Linux, and for good: it ends with its work. No lower: on a machine that is always busy
    # it would never end.
    with contextlib.suppress(OSError):
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(own + _NICE, 19))


def is_carried(path: str) -> bool:
    """Whether it belongs to a dev server's cache.

    >>> is_carried(".vite/deps/a.js"), is_carried(".vite"), is_carried(".vitest/x")
    (True, True, False)
    """
    return path == CARRIED or path.startswith(f"{CARRIED}/")


def shares_blocks(source: int, directory: int) -> bool:
    """Whether a new file in ``directory`` can share blocks with ``source``: found out by doing it once.

    By one without a name, which nobody sees and no kill leaves. Raises OSError where that cannot be tried.
    """
    with held(nameless(directory)) as trial:
        try:
            fcntl.ioctl(trial, _CLONE, source)
        except OSError as error:
            if error.errno in _NO_ANSWER:
                raise
            return False
    return True


def nameless(directory: int) -> int:
    """A new file in ``directory`` that has no name; raises OSError where there are none."""
    return os.open(f"/proc/self/fd/{directory}", _NAMELESS, 0o600)


class _Unfolding:
    def __init__(
        self, pack: int, index: Index, target: int, wanted: Callable[[str], bool], shares: bool
    ) -> None:
        self.index = index
        self.wanted = wanted
        self._pack = pack
        self._target = target
        self._shares = shares

    def directories(self) -> None:
        """All of them, first."""
        for path in self.index.directories:
            if self.wanted(path):
                os.mkdir(path, 0o755, dir_fd=self._target)

    def links(self) -> None:
        """All of them, last."""
        for path, to in self.index.links:
            if self.wanted(path):
                os.symlink(to, path, dir_fd=self._target)

    def segment(self, segment: Segment) -> None:
        """Its files; a large one piece by piece."""
        if len(segment.files) == 1 and segment.size > _BLOCK:
            self._large(segment, segment.files[0])
            return
        data = memoryview(_read(self._pack, segment.offset, segment.size))
        _compare(hashlib.sha256(data).digest(), segment)
        wanted = (file for file in segment.files if self.wanted(file.path))
        for above, files in itertools.groupby(wanted, key=lambda file: file.path.rpartition("/")[0]):
            with held(os.open(above or ".", DIRECTORY, dir_fd=self._target)) as directory:
                for file in files:
                    begin = file.offset - segment.offset
                    self._small(directory, file, data[begin : begin + file.size])

    def _small(self, directory: int, file: File, data: memoryview) -> None:
        with held(self._created(directory, file.path.rpartition("/")[2], file)) as out:
            if not self._shared(out, file):
                write_all(out, data)

    def _large(self, segment: Segment, file: File) -> None:
        if not self.wanted(file.path):
            return
        digest = hashlib.sha256()
        with held(self._created(self._target, file.path, file)) as out:
            shared = self._shared(out, file)
            for at in range(segment.offset, segment.offset + segment.size, _BLOCK):
                data = _read(self._pack, at, min(_BLOCK, segment.offset + segment.size - at))
                digest.update(data)
                if not shared:
                    begin = max(0, file.offset - at)
                    write_all(out, memoryview(data)[begin : max(begin, file.offset + file.size - at)])
        _compare(digest.digest(), segment)

    def _created(self, directory: int, name: str, file: File) -> int:
        return os.open(name, _NEW, 0o755 if file.executable else 0o644, dir_fd=directory)

    def _shared(self, out: int, file: File) -> bool:
        if not self._shares or file.offset % PAGE or not file.size:
            return False
        done = 0
        while done < file.size:
            try:
                step = os.copy_file_range(self._pack, out, file.size - done, file.offset + done, done)
            except OSError as error:
                if error.errno in _NOT_SHARED:
                    raise NotShared(*error.args) from None
                raise
            if not step:
                raise CorruptPack("it is cut short")
            done += step
        return True


def _read(pack: int, offset: int, size: int) -> bytes:
    data = os.pread(pack, size, offset)
    if len(data) != size:
        raise CorruptPack("it is cut short")
    return data


def _compare(digest: bytes, segment: Segment) -> None:
    if digest != segment.sha256:
        names = ", ".join(file.path for file in segment.files[:2])
        raise CorruptPack(f"the contents of {names} and what is beside do not have the digest of before")


def _touch(target: int) -> None:
    try:
        os.utime(HIDDEN_LOCK, dir_fd=target)
    except FileNotFoundError:
        return
