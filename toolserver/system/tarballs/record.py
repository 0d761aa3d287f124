"""What a walk sees, entry by entry: noted for a manifest, and held against an earlier one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from protocol.manifests import Entry, TreeDigest
from protocol.tar import Kind, Member
from toolserver.system.tarballs.reading import Content, Whole

_FILE = Kind.FILE.value
_SECOND_NS = 1_000_000_000
_TICK_NS = 2_000_000_000
"""As long as the coarsest file system's clock stands still: what is younger may change unseen."""


class Record:
    """Everything in the tree, in the walk's order, given on to ``each`` as it is seen.

    ``base`` is an earlier state: what is as it was then is told apart from what is not. A file whose inode,
    size and times are those of then is not read.
    """

    def __init__(
        self, each: Callable[[Entry], None] = lambda _: None, base: Mapping[bytes, Entry] | None = None
    ) -> None:
        self.entries = self.files = self.content_bytes = 0
        self.now: dict[bytes, Entry] = {}
        """All of it, where there is a base."""
        self._each = each
        self._base = base
        self._digest = TreeDigest()

    @property
    def has_base(self) -> bool:
        """Whether something may be known."""
        return self._base is not None

    @property
    def tree(self) -> str:
        """The digest of what was seen so far."""
        return self._digest.told()

    def note(self, path: str, member: Member, content: bytes = b"") -> bool:
        """A directory or link; whether it differs from the base. All does where there is none."""
        entry = _entry(path, member, content)
        self._add(entry)
        return not self._is_base(entry)

    def is_known(self, path: str, info: os.stat_result) -> bool:
        """Whether a file is the base's by its stamp; then it is noted, and need not be read."""
        if self._base is None:
            return False
        entry = self._base.get(_encoded(path))
        if entry is None or entry.stamp != _stamp(info) or entry.size != info.st_size:
            return False
        self._add(entry)
        return True

    def is_same(self, path: str, member: Member, content: Content | Whole) -> bool:
        """Whether a file is the base's by its content; then it is noted. Reads it if it may be."""
        if self._base is None:
            return False
        before = self._base.get(_encoded(path))
        facts = _FILE, member.mode, member.size
        if before is None or before.facts[:3] != facts:
            return False
        if before.content != content.sha256 or content.is_torn:
            return False
        self.note_file(path, member, content)
        return True

    def note_file(self, path: str, member: Member, content: Content | Whole) -> None:
        """A file that was read."""
        info = content.info
        is_old = content.begun_ns - max(info.st_mtime_ns, info.st_ctime_ns) > _TICK_NS
        stamp = _stamp(info) if is_old and not content.is_torn else None
        mtime = member.mtime_ns // _SECOND_NS
        self._add(Entry(_encoded(path), _FILE, member.mode, mtime, member.size, content.sha256, stamp))

    def _is_base(self, entry: Entry) -> bool:
        if self._base is None:
            return False
        before = self._base.get(entry.path)
        return before is not None and before.facts == entry.facts

    def _add(self, entry: Entry) -> None:
        self.entries += 1
        if entry.letter == _FILE:
            self.files += 1
            self.content_bytes += entry.size
        self._digest.add(entry)
        if self._base is not None:
            self.now[entry.path] = entry
        self._each(entry)


def _entry(path: str, member: Member, content: bytes) -> Entry:
    mode = 0 if member.kind is Kind.SYMLINK else member.mode
    letter, mtime = member.kind.value, member.mtime_ns // _SECOND_NS
    return Entry(_encoded(path), letter, mode, mtime, member.size, content)


def _encoded(path: str) -> bytes:
    return path.encode() if path.isascii() else os.fsencode(path)


def _stamp(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_ino, info.st_mtime_ns, info.st_ctime_ns
