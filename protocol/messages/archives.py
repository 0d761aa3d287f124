"""Archives: a tree in, whole or not at all; a tree out.

Small archives travel inside a message. Any size travels by ``PUT`` and ``GET /v1/archive``, streamed.
"""

from __future__ import annotations

import enum

from protocol.messages.base import Answer, Event, Request


class InjectMode(enum.Enum):
    """What becomes of the content that is there."""

    REPLACE = "replace"
    MERGE = "merge"
    DELTA = "delta"
    """The archive is a delta: put onto the tree that it was made from, and no other."""


class ArchiveFormat(enum.Enum):
    """Compression of a tar stream."""

    GZIP = "gzip"
    ZSTD = "zstd"
    TAR = "tar"


class Times(enum.Enum):
    """What an archive tells of when its members changed."""

    KEPT = "kept"
    """Whole seconds, each member's own."""
    FIXED = "fixed"
    """1980-01-01 for all: the same contents then give the same archive."""


class Inject(Request, frozen=True, kw_only=True):
    """Unpack a tar archive (gzip, zstd or plain, told by its content) as the workspace's content."""

    archive: bytes
    """Base64 in JSON."""
    mode: InjectMode = InjectMode.REPLACE
    digest: str | None = None
    """Refuse unless the tar stream has this digest, ``sha256:…`` over the uncompressed bytes."""


class Unpacked(Event, frozen=True, kw_only=True, tag="unpacked"):
    """How far the unpacking is."""

    files: int
    content_bytes: int
    archive_bytes: int


class InjectAnswer(Answer, frozen=True, kw_only=True):
    """What is in place now."""

    files: int
    content_bytes: int
    digest: str
    duration_ms: float


class Save(Request, frozen=True, kw_only=True):
    """Pack the workspace's content. Streamed, it comes in ``chunk`` events, and ``archive`` is empty."""

    format: ArchiveFormat = ArchiveFormat.GZIP
    exclude: list[str] = []
    """More names to leave out: a leading ``/`` means at the root only; ``*`` and ``?`` as in a shell."""
    include: list[str] = []
    """Names to keep although the rules leave them out."""
    times: Times | None = None
    """``kept`` when left out; with ``since``, as in that save."""
    since: str | None = None
    """The digest of an earlier save: pack only what differs from it, and what is gone, as a delta."""


class Chunk(Event, frozen=True, kw_only=True, tag="chunk"):
    """The archive's next bytes."""

    data: bytes


class SaveAnswer(Answer, frozen=True, kw_only=True):
    """What was packed."""

    archive: bytes
    archive_bytes: int
    files: int
    content_bytes: int
    digest: str
    """``sha256:…`` over the uncompressed tar stream; the same tree gives the same digest."""
    left_out: list[str] = []
    """Sockets, fifos and devices, which no archive of ours holds."""
    changed: list[str] = []
    """Files that changed while they were packed, so that their copy may mix two states."""
    tree: str = ""
    """``sha256:…`` over what the tree holds, times apart. A delta's is that of the whole tree too."""
    removed: int = 0
    """Paths that a delta removes; of a directory only itself."""


class ManifestKind(enum.Enum):
    """What an entry of a manifest is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"


class ManifestHead(Answer, frozen=True, kw_only=True):
    """The first line of a save's manifest."""

    digest: str
    """Of the archive, as ``save`` tells it."""
    tree: str
    """Of the whole tree."""
    since: str | None = None
    """The save that a delta was asked since; its manifest holds the whole tree all the same."""
    times: Times = Times.KEPT
    exclude: list[str] = []
    include: list[str] = []
    entries: int
    """Lines that follow."""
    files: int
    content_bytes: int
    left_out: list[str] = []
    changed: list[str] = []
    """Files that changed at every attempt to read them whole."""


class ManifestEntry(Answer, frozen=True, kw_only=True):
    """One line of a manifest, in the archive's order."""

    path: str
    path_bytes: bytes | None = None
    """Base64, for a name that is not UTF-8."""
    kind: ManifestKind
    size: int
    mode: int
    mtime: int
    """Seconds since 1970."""
    hash: str | None = None
    """``sha256:…`` of a file's content as it was packed."""
    target: str | None = None
    """Of a link."""
