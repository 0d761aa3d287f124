"""Saves' manifests: made while a save is packed, read for a delta since it, sent as lines."""

from __future__ import annotations

from protocol.errors import InvalidRequest
from protocol.manifests import Entry
from protocol.messages.archives import ManifestEntry, ManifestHead, ManifestKind, Save, Times
from protocol.tar import Kind, shown
from toolserver.system.manifests import Manifests
from toolserver.system.tarballs import Base, Packed

_KINDS = {
    Kind.FILE: ManifestKind.FILE,
    Kind.DIRECTORY: ManifestKind.DIRECTORY,
    Kind.SYMLINK: ManifestKind.LINK,
}
_MAX_SHOWN = 4096


def base_of(manifests: Manifests, request: Save) -> Base | None:
    """What a delta is to be made from, None for a whole save. Blocks.

    Raises NotFound when it is not kept, InvalidRequest when the request names other rules than it has.
    """
    if request.since is None:
        return None
    head = manifests.head(request.since)
    if (request.exclude or request.include) and (request.exclude, request.include) != (
        head.exclude,
        head.include,
    ):
        raise InvalidRequest("a delta has the rules of its base: leave out 'exclude' and 'include'")
    if request.times not in (None, head.times):
        raise InvalidRequest(f"a delta has the times of its base, {head.times.value}: leave out 'times'")
    entries = {entry.path: entry for entry in manifests.entries(request.since)}
    return Base(
        digest=request.since,
        tree=head.tree,
        entries=entries,
        exclude=head.exclude,
        include=head.include,
        times=head.times,
    )


def head_of(request: Save, base: Base | None, packed: Packed) -> ManifestHead:
    """A manifest's first line."""
    return ManifestHead(
        digest=packed.digest,
        tree=packed.tree,
        since=request.since,
        times=base.times if base else request.times or Times.KEPT,
        exclude=base.exclude if base else request.exclude,
        include=base.include if base else request.include,
        entries=packed.entries,
        files=packed.tree_files,
        content_bytes=packed.tree_bytes,
        left_out=packed.left_out,
        changed=packed.changed,
    )


def line_of(entry: Entry) -> ManifestEntry:
    """One of the others.

    >>> line_of(Entry(b"a", b"2", 0, 0, content=b"b")).target
    'b'
    >>> line_of(Entry(b"caf\\xe9", b"0", 0o644, 0, 1, bytes(32))).path_bytes
    b'caf\\xe9'
    """
    kind = _KINDS[entry.kind]
    return ManifestEntry(
        path=shown(entry.name, _MAX_SHOWN),
        path_bytes=None if _is_text(entry.path) else entry.path,
        kind=kind,
        size=entry.size,
        mode=entry.mode,
        mtime=entry.mtime,
        hash=f"sha256:{entry.content.hex()}" if kind is ManifestKind.FILE else None,
        target=entry.content.decode("utf-8", "replace") if kind is ManifestKind.LINK else None,
    )


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
