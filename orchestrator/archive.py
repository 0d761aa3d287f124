"""A directory of the host as an archive: the same files give the same bytes, wherever and whenever.

Sorted names, one owner, one time, and of the modes only who may execute: so the digest is a key for caches.
Links go along as links; one that leads out of the directory is refused here already, by its name, or left out
where that is wished.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from isal import isal_zlib

from orchestrator.spool import Spool
from protocol.archives import Budget, member_path, permissions, refuse_leaving_symlink
from protocol.errors import ArchiveUnsafe
from protocol.tar import Kind, Member, pack, shown

_TIME_NS = 315_532_800 * 1_000_000_000
"""1980-01-01, the first day that every archive format knows."""
_READ_BYTES = 256 * 1024
_LEVEL = 1
"""isal's quick level: templates are small, and the way is short."""
_GZIP_WRAPPER = 31
"""zlib's word for a gzip header, which then holds no time and no name."""


class LeavesOut(Protocol):
    """What stays behind, as ``Exclusions`` say it, or a plan."""

    def excludes_entry(self, path: str, is_directory: bool = False) -> bool:
        """Whether ``path`` does, where the directories above it do not."""


@dataclass(frozen=True)
class Archive:
    """A packed directory."""

    packed: Spool = field(compare=False)
    """tar.gz; its digest tells whether it is another one."""
    digest: str
    """``sha256:…`` of the uncompressed tar."""
    files: int
    entries: int
    """Files, directories and links, but for the directory itself."""
    content_bytes: int = 0
    """Of all files together."""
    left_out: tuple[str, ...] = ()
    """Why each of those was that no archive takes."""

    @property
    def content(self) -> bytes:
        """All of ``packed``, in memory. Blocks."""
        return self.packed.read()


def archive_directory(
    directory: Path,
    exclusions: LeavesOut,
    *,
    lenient: bool = False,
    own_modes: bool = False,
    grafts: Mapping[str, Path] = MappingProxyType({}),
    contents: Mapping[str, bytes] = MappingProxyType({}),
    spool: Spool | None = None,
) -> Archive:
    """Pack what ``exclusions`` leave of ``directory``. Blocks.

    With ``own_modes`` files and directories keep their permissions. ``grafts`` are directories that stand in
    for entries at the top, by their names.

    Raises ArchiveUnsafe for a link that leads out and for what is neither file, directory nor link, unless
    ``lenient`` leaves them out; TooLarge
    for what no tool server would take; Conflict when a file changes under the hand; OSError when one cannot
    be read. Holds a chunk of the plain archive; the packed one goes into ``spool``, or one of the system's.
    """
    walk = _Walk(directory, exclusions, lenient, own_modes, grafts, contents)
    digest = hashlib.sha256()
    gzip = isal_zlib.compressobj(_LEVEL, wbits=_GZIP_WRAPPER)
    spool = Spool() if spool is None else spool
    for chunk in pack(walk.entries()):
        digest.update(chunk)
        spool.write(gzip.compress(chunk))
    spool.write(gzip.flush())
    return Archive(
        packed=spool,
        digest=f"sha256:{digest.hexdigest()}",
        files=walk.files,
        entries=walk.entries_packed,
        content_bytes=walk.content_bytes,
        left_out=tuple(walk.left_out),
    )


class _Walk:
    def __init__(
        self,
        root: Path,
        exclusions: LeavesOut,
        lenient: bool,
        own_modes: bool,
        grafts: Mapping[str, Path],
        contents: Mapping[str, bytes],
    ) -> None:
        self._root = root
        self._own_modes = own_modes
        self._grafts = grafts
        self._contents = contents
        self._exclusions = exclusions
        self._budget = Budget()
        self._lenient = lenient
        self.files = 0
        self.content_bytes = 0
        self.left_out: list[str] = []

    @property
    def entries_packed(self) -> int:
        """So far."""
        return self._budget.entries

    def entries(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Every member with its content, a directory before what is in it."""
        # The root itself comes first: an archive of nothing could not be told from a damaged one.
        yield Member(name=".", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=_TIME_NS), iter(())
        yield from self._below("")

    def _below(self, below: str) -> Iterator[tuple[Member, Iterator[bytes]]]:
        found = {each.name for each in self._at(below).iterdir()}
        names = found if below else found | self._grafts.keys()
        for name in sorted(names):
            path = f"{below}/{name}" if below else name
            info = self._at(path).lstat()
            is_directory = stat.S_ISDIR(info.st_mode)
            if self._exclusions.excludes_entry(path, is_directory):
                continue
            member = self._taken(member_path(path), info)
            if member is None:
                continue
            self._budget.member(member)
            yield member, self._content(path, info)
            if is_directory:
                yield from self._below(path)

    def _at(self, path: str) -> Path:
        """Where it lies on this host."""
        top, _, rest = path.partition("/")
        graft = self._grafts.get(top)
        return self._root / path if graft is None else graft / rest

    def _taken(self, path: str, info: os.stat_result) -> Member | None:
        try:
            return self._member(path, info)
        except ArchiveUnsafe as error:
            if not self._lenient:
                raise
            self.left_out.append(error.message)
            return None

    def _member(self, path: str, info: os.stat_result) -> Member:
        if stat.S_ISLNK(info.st_mode):
            target = str(self._at(path).readlink())
            refuse_leaving_symlink(path, target)
            return Member(name=path, kind=Kind.SYMLINK, mode=0o777, mtime_ns=_TIME_NS, link=target)
        if stat.S_ISDIR(info.st_mode):
            return Member(name=path, kind=Kind.DIRECTORY, mode=self._mode(info, 0o755), mtime_ns=_TIME_NS)
        if not stat.S_ISREG(info.st_mode):
            message = f"{shown(path)!r} is neither a file, a directory nor a link; remove it"
            raise ArchiveUnsafe(message, member=shown(path))
        size = len(self._contents[path]) if path in self._contents else info.st_size
        self.files += 1
        self.content_bytes += size
        mode = self._mode(info, 0o755 if info.st_mode & stat.S_IXUSR else 0o644)
        return Member(name=path, size=size, mode=mode, mtime_ns=_TIME_NS)

    def _mode(self, info: os.stat_result, usual: int) -> int:
        return permissions(info.st_mode) if self._own_modes else usual

    def _content(self, path: str, info: os.stat_result) -> Iterator[bytes]:
        if not stat.S_ISREG(info.st_mode):
            return
        if path in self._contents:
            yield self._contents[path]
            return
        with self._at(path).open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                yield chunk
