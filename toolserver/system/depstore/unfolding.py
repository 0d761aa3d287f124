"""From a pack to a tree, by several threads, every byte checked on the way.

A file of 64 KiB or more is not written where the file system can share its blocks with the pack. The tree is
beside the workspace until all of it was good: who reads a mistake here has nothing in the workspace yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

from toolserver.system.copying import held
from toolserver.system.depstore.filling import CARRIED
from toolserver.system.depstore.pack import PAGE, CorruptPack, File, Index, Segment
from toolserver.system.directories import DIRECTORY

HIDDEN_LOCK = ".package-lock.json"
"""npm believes it only when no directory beside it is newer: it is touched last."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 4 * 1024 * 1024
_MAX_THREADS = 4
"""More gained nothing: creating files in one file system is what takes the time."""
_CLONE = 0x40049409
"""FICLONE, of linux/fs.h."""


def unfold(pack: int, index: Index, target: int, root: str, *, shares: bool) -> None:
    """Put the pack's tree into the empty directory ``target``; raises CorruptPack, or OSError.

    ``root`` is the workspace's: what is only good for another one stays out. ``shares``: blocks are shared.
    """
    same = index.root == root
    for path in index.directories:
        if same or not is_carried(path):
            os.mkdir(path, 0o755, dir_fd=target)
    work = _Unfolding(pack, target, same, shares)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "unfold") as pool:
        for done in [pool.submit(work.segment, segment) for segment in index.segments]:
            done.result()
    for path, to in index.links:
        if same or not is_carried(path):
            os.symlink(to, path, dir_fd=target)
    _touch(target)


def is_carried(path: str) -> bool:
    """Whether it belongs to a dev server's cache.

    >>> is_carried(".vite/deps/a.js"), is_carried(".vite"), is_carried(".vitest/x")
    (True, True, False)
    """
    return path == CARRIED or path.startswith(f"{CARRIED}/")


def shares_blocks(pack: int, directory: int) -> bool:
    """Whether files in ``directory`` can share blocks with the pack: found out by doing it once."""
    name = ".shares"
    try:
        with held(os.open(name, _NEW, 0o600, dir_fd=directory)) as trial:
            try:
                fcntl.ioctl(trial, _CLONE, pack)
            finally:
                os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


class _Unfolding:
    def __init__(self, pack: int, target: int, same_root: bool, shares: bool) -> None:
        self._pack = pack
        self._target = target
        self._same_root = same_root
        self._shares = shares

    def segment(self, segment: Segment) -> None:
        """Its files; a large one piece by piece."""
        if len(segment.files) == 1 and segment.size > _BLOCK:
            self._large(segment, segment.files[0])
            return
        data = memoryview(_read(self._pack, segment.offset, segment.size))
        _compare(hashlib.sha256(data).digest(), segment)
        for above, files in itertools.groupby(segment.files, key=lambda file: file.path.rpartition("/")[0]):
            if self._same_root or not is_carried(above):
                with held(os.open(above or ".", DIRECTORY, dir_fd=self._target)) as directory:
                    for file in files:
                        begin = file.offset - segment.offset
                        self._small(directory, file, data[begin : begin + file.size])

    def _small(self, directory: int, file: File, data: memoryview) -> None:
        with held(self._created(directory, file.path.rpartition("/")[2], file)) as out:
            if not self._shared(out, file):
                _write(out, data)

    def _large(self, segment: Segment, file: File) -> None:
        if not self._same_root and is_carried(file.path):
            return
        digest = hashlib.sha256()
        with held(self._created(self._target, file.path, file)) as out:
            shared = self._shared(out, file)
            for at in range(segment.offset, segment.offset + segment.size, _BLOCK):
                data = _read(self._pack, at, min(_BLOCK, segment.offset + segment.size - at))
                digest.update(data)
                if not shared:
                    begin = max(0, file.offset - at)
                    _write(out, memoryview(data)[begin : max(begin, file.offset + file.size - at)])
        _compare(digest.digest(), segment)

    def _created(self, directory: int, name: str, file: File) -> int:
        return os.open(name, _NEW, 0o755 if file.executable else 0o644, dir_fd=directory)

    def _shared(self, out: int, file: File) -> bool:
        if not self._shares or file.offset % PAGE or not file.size:
            return False
        done = 0
        while done < file.size:
            step = os.copy_file_range(self._pack, out, file.size - done, file.offset + done, done)
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


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
