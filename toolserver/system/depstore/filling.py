"""From an installed tree to a pack, in nobody's way: read in small steps, with pauses, by one thread.

Nothing that was changed since the install gets in: a file's change time, which no program can set, says so.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from dataclasses import dataclass, field

from toolserver.system.copying import held
from toolserver.system.depstore.pack import (
    PAGE,
    SEGMENT_BYTES,
    File,
    Index,
    Segment,
    leads_out,
    trailer_of,
)
from toolserver.system.directories import DIRECTORY
from toolserver.system.large_files import write_all

CARRIED = ".vite"
"""Vite's optimised dependencies. Vite itself compares lock file, settings and root before it uses them."""
_CACHES = frozenset((CARRIED, ".astro", ".cache", ".vite-temp", ".tmp", ".svelte-kit"))
"""At the top, made by dev servers and not by the install. Astro's hold what it made of the content."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 1024 * 1024
_PAUSE_EVERY, _PAUSE_SECONDS = 64, 0.002
"""Files, and the time left to others after them: 13 000 files take half a second longer."""
_ALIGNED_BYTES = 64 * 1024


class Unfit(Exception):
    """This tree is not to be kept. The message is a clause that says why."""


@dataclass(frozen=True)
class Order:
    """What is to be packed."""

    tree: int
    """The directory, open."""
    root: str
    """The workspace root."""
    changed_before_ns: int
    """What changed later (wall clock) was not put there by the install."""
    max_bytes: int
    stop: threading.Event = field(default_factory=threading.Event)


def fill(order: Order, out: int) -> Index:
    """Write the pack to ``out``; raises Unfit, and then ``out`` is rubbish. Blocks, for seconds."""
    filling = _Filling(order, out)
    filling.directory(order.tree, "")
    filling.end_segment()
    index = Index(
        root=order.root,
        bound=filling.bound,
        directories=filling.directories,
        links=filling.links,
        segments=filling.segments,
    )
    if not index.segments:
        raise Unfit("there are no files in it")
    write_all(out, trailer_of(index, filling.at))
    return index


class _Filling:
    def __init__(self, order: Order, out: int) -> None:
        self._order = order
        self._out = out
        self._root = os.fsencode(order.root)
        self.at = 0
        self.bound = False
        self.directories: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.segments: list[Segment] = []
        self._files: list[File] = []
        self._begin, self._digest = 0, hashlib.sha256()
        self._count = 0

    def directory(self, fd: int, path: str) -> None:
        for name in sorted(os.listdir(fd)):
            inner = f"{path}/{name}" if path else name
            if not path and name in _CACHES and (name != CARRIED or not _settled(fd)):
                continue
            self._entry(fd, name, inner)

    def _entry(self, fd: int, name: str, path: str) -> None:
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        # A directory that was moved here is as new as that, and what is in it is not.
        self._refuse_newer(info, path)
        if stat.S_ISDIR(info.st_mode):
            with held(os.open(name, DIRECTORY, dir_fd=fd)) as inner:
                self.directories.append(_text(path))
                self.directory(inner, path)
        elif stat.S_ISLNK(info.st_mode):
            target = os.readlink(name, dir_fd=fd)
            if leads_out(path, target):
                raise Unfit(f"its link {path!r} leads out of it")
            self.links.append((_text(path), _text(target)))
        elif stat.S_ISREG(info.st_mode):
            self._file(fd, name, path)
        else:
            raise Unfit(f"{path!r} is no file, directory or link")

    def _file(self, fd: int, name: str, path: str) -> None:
        with held(os.open(name, _READ, dir_fd=fd)) as source:
            info = os.fstat(source)
            is_carried = path.startswith(f"{CARRIED}/")
            self._refuse_newer(info, path)
            if self.at + info.st_size > self._order.max_bytes:
                raise Unfit(
                    f"it is larger than {self._order.max_bytes} bytes, which is all the store may hold"
                )
            if info.st_size >= _ALIGNED_BYTES:
                self._align()
            if info.st_size >= SEGMENT_BYTES:
                self.end_segment()
            offset = self.at
            self._copy(source, info.st_size, path, is_carried)
            self._files.append(File(_text(path), offset, info.st_size, bool(info.st_mode & 0o100)))
        if self.at - self._begin >= SEGMENT_BYTES:
            self.end_segment()
        self._give_way()

    def _refuse_newer(self, info: os.stat_result, path: str) -> None:
        is_carried = path == CARRIED or path.startswith(f"{CARRIED}/")
        if info.st_ctime_ns > self._order.changed_before_ns and not is_carried:
            raise Unfit(f"{path!r} was changed after the install")

    def _copy(self, source: int, size: int, path: str, is_carried: bool) -> None:
        left, before = size, b""
        while data := os.read(source, _BLOCK):
            left -= len(data)
            # A path may lie across two blocks.
            self.bound = self.bound or (self._root in before + data and not is_carried)
            before = data[-len(self._root) :]
            self._put(data)
        if left:
            raise Unfit(f"{path!r} was changed after the install")

    def _align(self) -> None:
        self._put(b"\0" * (-self.at % PAGE))

    def _put(self, data: bytes) -> None:
        write_all(self._out, data)
        self._digest.update(data)
        self.at += len(data)

    def end_segment(self) -> None:
        """What was put since the last one is a segment."""
        if self._files:
            size = self.at - self._begin
            self.segments.append(Segment(self._begin, size, self._digest.digest(), self._files))
        self._begin, self._files, self._digest = self.at, [], hashlib.sha256()

    def _give_way(self) -> None:
        self._count += 1
        if self._count % _PAUSE_EVERY == 0 and self._order.stop.wait(_PAUSE_SECONDS):
            raise Unfit("the workspace ends")


def _settled(tree: int) -> bool:
    """Whether Vite has written its cache whole: it makes it under another name and renames it."""
    try:
        with held(os.open(CARRIED, DIRECTORY, dir_fd=tree)) as fd:
            names = os.listdir(fd)
            os.stat("deps/_metadata.json", dir_fd=fd)
    except OSError:
        return False
    return not any("temp" in name for name in names)


def _text(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Unfit("a name in it is no UTF-8") from None
    return path
