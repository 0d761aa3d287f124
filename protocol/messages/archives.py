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


class ArchiveFormat(enum.Enum):
    """Compression of a tar stream."""

    GZIP = "gzip"
    ZSTD = "zstd"
    TAR = "tar"


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
