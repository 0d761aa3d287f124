"""What a tree holds, entry by entry, and what lies between two states of it.

    save        a whole archive; its manifest is kept, by the archive's digest
    delta       an archive of what differs from a save, and what is gone since      base + delta = result

A tree's digest tells contents, modes and links, and no times: a delta is put onto a tree only if that has the
digest it was made from, and only if the digest it promises comes out. Both stand in a delta's last two
members, which lie in the tool server's own directory, so that nothing else ever takes them for content:

    .workspace-core/delta.json    the digests, and the rules by which the save was taken
    .workspace-core/removed       what is gone: paths, each ended by a NUL, as ``xargs -0`` takes them
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from protocol.archives import MemberPath, member_path
from protocol.errors import ArchiveInvalid
from protocol.limits import Limits
from protocol.messages.archives import Times
from protocol.paths import RESERVED
from protocol.tar import Kind

DELTA_MEMBER = f"{RESERVED}/delta.json"
REMOVED_MEMBER = f"{RESERVED}/removed"
_VERSION = 1
_LIMITS = Limits()


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One path of a tree."""

    path: bytes
    """Relative, normal form; names need not be UTF-8."""
    letter: bytes
    """The kind's letter in a tar header: ``0`` file, ``2`` link, ``5`` directory."""
    mode: int
    """Permission bits; 0 for a link, which has none of its own."""
    mtime: int
    """Seconds since 1970."""
    size: int = 0
    """Bytes of a file's content."""
    content: bytes = b""
    """A file's SHA-256, or a link's target."""
    stamp: tuple[int, int, int] | None = None
    """Inode, modification and change time (ns) that go with the content; None when it may be newer."""

    @property
    def kind(self) -> Kind:
        """What it is."""
        return Kind(self.letter)

    @property
    def name(self) -> str:
        """The path as text; bytes that are not UTF-8 become surrogates, as by ``os.fsdecode``."""
        return self.path.decode("utf-8", "surrogateescape")

    @property
    def facts(self) -> tuple[bytes, int, int, bytes]:
        """What of it counts for the tree's digest, the path apart."""
        return self.letter, self.mode, self.size, self.content


class TreeDigest:
    """The digest of entries that are given in order: a directory before what is in it, names sorted.

    >>> digest = TreeDigest()
    >>> digest.add(Entry(b"a", b"5", 0o755, 0))
    >>> digest.told() == tree_digest([Entry(b"a", b"5", 0o755, mtime=99)])
    True
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, entry: Entry) -> None:
        """The next one."""
        content = entry.content
        # Each part says where it ends, so that no two trees spell alike.
        told = entry.path, entry.letter, entry.mode, entry.size, len(content), content
        self._hash.update(b"%b\0%b%o %d %d:%b" % told)

    def told(self) -> str:
        """``sha256:`` and hexadecimal."""
        return f"sha256:{self._hash.hexdigest()}"


def tree_digest(entries: Iterable[Entry]) -> str:
    """The same of entries in any order.

    >>> a, b = Entry(b"a.b", b"0", 0o644, 0), Entry(b"a/b", b"0", 0o644, 0)
    >>> tree_digest([a, b]) == tree_digest([b, a])
    True
    """
    digest = TreeDigest()
    for entry in sorted(entries, key=_place):
        digest.add(entry)
    return digest.told()


def _place(entry: Entry) -> list[str]:
    return entry.name.split("/")


class Delta(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a delta says of itself."""

    version: int = _VERSION
    since: str
    """The digest of the archive that it was asked since."""
    base: str
    """The tree's digest then."""
    tree: str
    """The tree's digest with the delta put onto it."""
    exclude: list[str] = []
    include: list[str] = []
    """The rules that were added when the save was taken: they say what belongs to the tree."""
    times: Times = Times.KEPT


def write_delta(delta: Delta) -> bytes:
    """Content of the member ``DELTA_MEMBER``."""
    return msgspec.json.format(msgspec.json.encode(delta)) + b"\n"


def read_delta(payload: bytes) -> Delta:
    """What such a content says; raises ArchiveInvalid.

    >>> read_delta(b"{}")
    Traceback (most recent call last):
    protocol.errors.ArchiveInvalid: the archive's delta.json is none of ours: Object missing ... field `since`
    >>> read_delta(write_delta(Delta(since="a", base="b", tree="c"))).base
    'b'
    """
    try:
        delta = msgspec.json.decode(payload, type=Delta)
    except msgspec.MsgspecError as error:
        raise ArchiveInvalid(f"the archive's delta.json is none of ours: {error}") from None
    if delta.version != _VERSION:
        raise ArchiveInvalid(f"the archive is a delta of version {delta.version}; known is {_VERSION}")
    return delta


def write_removed(paths: Iterable[bytes]) -> bytes:
    """Content of the member ``REMOVED_MEMBER``.

    >>> write_removed([b"b", b"a/c"])
    b'a/c\\x00b\\x00'
    """
    return b"".join(path + b"\0" for path in sorted(paths))


def read_removed(payload: bytes, limits: Limits = _LIMITS) -> list[MemberPath]:
    """The paths in such a content, checked as members' names are; raises ArchiveInvalid, ArchiveUnsafe.

    >>> read_removed(b"a/c\\0b\\0")
    ['a/c', 'b']
    >>> read_removed(b"../a\\0")
    Traceback (most recent call last):
    protocol.errors.ArchiveUnsafe: removed path '../a' climbs by '..'; names in an archive stay in it
    """
    if payload and not payload.endswith(b"\0"):
        raise ArchiveInvalid("the archive's list of removed paths is cut short")
    names = [path.decode("utf-8", "surrogateescape") for path in payload.split(b"\0")[:-1]]
    return [member_path(name, limits, "removed path") for name in names]


def removed_since(base: Iterable[bytes], now: Mapping[bytes, Entry]) -> list[bytes]:
    """Paths of ``base`` that are gone, of a directory that is gone only itself.

    Below what is a directory no more nothing is named: what took its place says so.

    >>> now = {b"f": Entry(b"f", b"0", 0o644, 0)}
    >>> removed_since([b"d", b"d/x", b"d-e", b"f", b"f/y"], now)
    [b'd', b'd-e']
    """
    before = set(base)
    return sorted(path for path in before if path not in now and not _is_below_change(path, before, now))


def _is_below_change(path: bytes, before: set[bytes], now: Mapping[bytes, Entry]) -> bool:
    above = path.rpartition(b"/")[0]
    if not above:
        return False
    entry = now.get(above)
    if entry is None:
        return above in before
    return entry.kind is not Kind.DIRECTORY


def applied(
    base: Mapping[bytes, Entry], staged: Iterable[Entry], removed: Iterable[bytes]
) -> dict[bytes, Entry]:
    """The tree that comes of ``base`` with ``removed`` gone and ``staged`` put in.

    Raises ArchiveInvalid for a removed path that the base does not have, or that is staged as well.

    >>> base = {path: Entry(path, letter, 0o644, 0) for path, letter in ((b"d", b"5"), (b"d/x", b"0"))}
    >>> sorted(applied(base, [Entry(b"e", b"0", 0o644, 0)], [b"d"]))
    [b'e']
    >>> applied(base, [], [b"f"])
    Traceback (most recent call last):
    protocol.errors.ArchiveInvalid: the delta removes 'f', which its base does not have
    """
    new = {entry.path: entry for entry in staged}
    gone = set(removed)
    for path in sorted(gone):
        if path not in base or path in new:
            why = "and brings it too" if path in new else "which its base does not have"
            raise ArchiveInvalid(f"the delta removes {path.decode('utf-8', 'replace')!r}, {why}")
    # What a file or a link takes the place of goes with all that was below it.
    gone |= {path for path, entry in new.items() if entry.kind is not Kind.DIRECTORY}
    kept = {path: entry for path, entry in base.items() if not any(each in gone for each in _tops(path))}
    return kept | new


def _tops(path: bytes) -> Iterable[bytes]:
    """The path, and all above it.

    >>> list(_tops(b"a/b/c"))
    [b'a/b/c', b'a/b', b'a']
    """
    while path:
        yield path
        path = path.rpartition(b"/")[0]
