"""A directory as a packed archive, made while it is sent.

    walk -> tar -> | -> digest
                   | -> deflate -> chunks

Past the first MiB what stands right of a bar runs on a thread of its own, up to two blocks behind; zstd may
have more of its own, to which that one hands on.

The same tree gives the same tar stream, and so the same digest: names are sorted, owners are 0:0, times are
whole seconds. The packed bytes may differ from one version of a compressor to the next.

With a base only what differs from that is packed, and two members more say what it is put onto: a delta
(see ``protocol.manifests``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from types import TracebackType

import msgspec

from protocol.archives import Budget
from protocol.exclusions import Exclusions
from protocol.limits import KIB, MIB, Limits
from protocol.manifests import (
    DELTA_MEMBER,
    REMOVED_MEMBER,
    Delta,
    Entry,
    removed_since,
    write_delta,
    write_removed,
)
from protocol.messages.archives import ArchiveFormat, Times
from protocol.tar import Member, pack
from toolserver.system.tarballs.deflate import deflater
from toolserver.system.tarballs.record import Record
from toolserver.system.tarballs.relay import Relay
from toolserver.system.tarballs.walk import Entry as Packable
from toolserver.system.tarballs.walk import Walk

CHUNK_BYTES = 512 * KIB
"""At least this much in every chunk but the last: each is a hand-over between threads, of some 0.1 ms."""

_ALONE_BYTES = MIB
"""Until here a thread costs more than it gains: a tree of 50 files takes 2 ms."""

FIXED_TIME = 315_532_800
"""1980-01-01, the first day that every archive format knows."""


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The save that a delta is made from."""

    digest: str
    """Of that archive."""
    tree: str
    entries: Mapping[bytes, Entry]
    exclude: list[str]
    include: list[str]
    times: Times


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds, and what it does not."""

    files: int
    directories: int
    links: int
    content_bytes: int
    """Of files."""
    packed_bytes: int
    tar_bytes: int
    digest: str
    """``sha256:`` and hexadecimal, over the plain tar stream: the one that ``Extraction`` tells."""
    left_out_count: int
    left_out: list[str]
    """What is missing though no rule excludes it, each path with its reason; the first thousand."""
    changed: list[str]
    """Files whose copy may mix two states, because they changed at every attempt."""
    tree: str
    """The digest of the whole tree, also where only a part of it is packed."""
    entries: int
    """Of the whole tree, as are the next two."""
    tree_files: int
    tree_bytes: int
    removed: int
    """Paths that a delta says are gone."""


class Packing(Iterator[bytes]):
    """The chunks of an archive of ``root``, a descriptor that must stay open until the last one.

    ``mtime`` (seconds since 1970) stands in for every member's own time. ``note`` is told of every entry of
    the tree, in order; with ``base`` only what differs from it is packed. Ask for chunks from any thread, one
    call at a time; ``result`` is there after the last. Raises TooLarge for a tree that no extraction within
    ``limits`` could bring back. Also a context manager; the counters may be read at any time.
    """

    def __init__(
        self,
        root: int,
        exclusions: Exclusions,
        format: ArchiveFormat = ArchiveFormat.GZIP,
        *,
        mtime: int | None = None,
        limits: Limits = Limits(),
        note: Callable[[Entry], None] = lambda _: None,
        base: Base | None = None,
    ) -> None:
        self.packed_bytes = 0
        self._base = base
        self._record = Record(note, base.entries if base else None)
        self._walk = Walk(root, exclusions, limits, mtime, self._record)
        self._removed = 0
        self._budget = Budget(limits)
        self._digest = hashlib.sha256()
        self._tar_bytes = 0
        self._result: Packed | None = None
        self._chunks = self._packed(format)

    @property
    def files(self) -> int:
        """Files packed so far."""
        return self._walk.report.files

    @property
    def content_bytes(self) -> int:
        """Content of files packed so far."""
        return self._walk.report.bytes

    @property
    def result(self) -> Packed:
        """What was packed, once the last chunk was taken."""
        if self._result is None:
            raise RuntimeError("the archive is not packed yet; take all chunks first")
        return self._result

    def __next__(self) -> bytes:
        return next(self._chunks)

    def __enter__(self) -> Packing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; no chunk comes any more."""
        self._chunks.close()

    def _packed(self, format: ArchiveFormat) -> Generator[bytes, None, None]:
        held: list[bytes] = []
        size = 0
        with closing(self._walk.entries()) as entries:
            for piece in self._deflated(self._counted(entries), format):
                held.append(piece)
                size += len(piece)
                if size >= CHUNK_BYTES:
                    self.packed_bytes += size
                    yield b"".join(held)
                    held, size = [], 0
        self.packed_bytes += size
        self._result = self._summary()
        if size:
            yield b"".join(held)

    def _counted(self, entries: Iterable[Packable]) -> Iterator[Packable]:
        for member, content in entries:
            self._budget.member(member)
            yield member, content
        for path, payload in self._what_it_is():
            member = Member(name=f"./{path}", size=len(payload), mtime_ns=FIXED_TIME * _SECOND_NS)
            yield member, (payload,)

    def _what_it_is(self) -> Iterator[tuple[str, bytes]]:
        base = self._base
        if base is None:
            return
        removed = removed_since(base.entries, self._record.now)
        self._removed = len(removed)
        delta = Delta(
            since=base.digest,
            base=base.tree,
            tree=self._record.tree,
            exclude=base.exclude,
            include=base.include,
            times=base.times,
        )
        yield DELTA_MEMBER, write_delta(delta)
        yield REMOVED_MEMBER, write_removed(removed)

    def _deflated(self, entries: Iterable[Packable], format: ArchiveFormat) -> Iterator[bytes]:
        deflate = deflater(format)
        with closing(Relay(self._digest.update)) as hashing, closing(Relay(deflate.compress)) as deflating:
            for block in pack(entries):
                self._tar_bytes += len(block)
                if self._tar_bytes > _ALONE_BYTES:
                    hashing.give(block)
                    yield b"".join(deflating.give(block))
                else:
                    self._digest.update(block)
                    yield deflate.compress(block)
            hashing.wait()
            yield b"".join(deflating.wait())
            yield deflate.flush()

    def _summary(self) -> Packed:
        self._budget.took_packed(self.packed_bytes)
        self._budget.took_unpacked(self._tar_bytes)
        report = self._walk.report
        return Packed(
            files=report.files,
            directories=report.directories,
            links=report.links,
            content_bytes=report.bytes,
            packed_bytes=self.packed_bytes,
            tar_bytes=self._tar_bytes,
            digest=f"sha256:{self._digest.hexdigest()}",
            left_out_count=report.left_out_count,
            left_out=report.left_out,
            changed=report.changed,
            tree=self._record.tree,
            entries=self._record.entries,
            tree_files=self._record.files,
            tree_bytes=self._record.content_bytes,
            removed=self._removed,
        )


_SECOND_NS = 1_000_000_000
