"""What an archive may hold: its format, its members' names and links, its bounds.

Small rules, each with its own refusal. They judge names only; that nothing is written through a link is the
kernel's decision, at open time. An archive that passes them unpacks wholly below the directory it goes into,
and no link in it leads out, whatever other links of it are on the way:

    a name         relative, no "..", no NUL, bounded in bytes and depth; "./a" and "a" are the same
    a symlink      relative; its ".." come first and never climb above the root
    a hard link    to the name of an earlier file
    never          devices, FIFOs; a member below a name that is a link; set-uid bits (they are taken off)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NewType

from protocol.errors import ArchiveInvalid, ArchiveUnsafe, TooLarge
from protocol.limits import Limits
from protocol.messages.archives import ArchiveFormat
from protocol.paths import MAX_NAME_BYTES, RESERVED
from protocol.tar import BLOCK_BYTES, Kind, Member, is_header, shown

MemberPath = NewType("MemberPath", str)
"""A checked member name in normal form, ``"."`` for the root. Only ``member_path`` makes one."""

DETECT_BYTES = BLOCK_BYTES
"""What ``detect`` wants to see of an archive's beginning, unless the archive is shorter."""

_LIMITS = Limits()


GZIP_MAGICS = (b"\x1f\x8b",)
ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60)))
"""A frame, or one of the sixteen marks of a frame to be skipped, which some tools write first."""

_OTHERS = {
    b"PK\x03\x04": "a zip file",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ\0": "packed by xz",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
}


def detect(head: bytes) -> ArchiveFormat:
    """The format of an archive that begins with ``head`` (``DETECT_BYTES`` of it, or all when it is shorter).

    >>> detect(GZIP_MAGICS[0] + b"..."), detect(bytes(512))
    (<ArchiveFormat.GZIP: 'gzip'>, <ArchiveFormat.TAR: 'tar'>)
    >>> detect(b"PK\\x03\\x04...")
    Traceback (most recent call last):
    protocol.errors.ArchiveInvalid: this is a zip file; send tar.gz, tar.zst or plain tar
    """
    if head.startswith(GZIP_MAGICS):
        return ArchiveFormat.GZIP
    if head.startswith(ZSTD_MAGICS):
        return ArchiveFormat.ZSTD
    if is_header(head[:BLOCK_BYTES]) or not head.strip(b"\0"):
        return ArchiveFormat.TAR
    raise ArchiveInvalid(f"this is {_guess(head)}; send tar.gz, tar.zst or plain tar")


def _guess(head: bytes) -> str:
    return next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), "no archive")


def member_path(name: str, limits: Limits = _LIMITS, what: str = "member") -> MemberPath:
    """The normal form of a member's name; ``what`` begins the refusals.

    >>> member_path("./src//x"), member_path("src/x/"), member_path("./")
    ('src/x', 'src/x', '.')
    >>> member_path("src/../../x")
    Traceback (most recent call last):
    protocol.errors.ArchiveUnsafe: member 'src/../../x' climbs by '..'; names in an archive stay in it
    """
    if name.startswith("/"):
        raise _unsafe_name(name, what, "has an absolute name; pack by 'tar -C DIR .'")
    if "\0" in name:
        raise _unsafe_name(name, what, "has a NUL in its name, which no file system takes")
    parts = [part for part in name.split("/") if part not in _NOTHING]
    if ".." in parts:
        raise _unsafe_name(name, what, "climbs by '..'; names in an archive stay in it")
    if not parts and not name:
        raise ArchiveInvalid(f"a {what} has no name", member=shown(name))
    _refuse_oversized(name, parts, limits, what)
    return MemberPath("/".join(parts) or ".")


def refuse_oversized(path: str, limits: Limits = _LIMITS) -> None:
    """The bounds alone, for a path in normal form, as a walk finds them.

    >>> refuse_oversized("a/b", Limits(max_archive_depth=1))
    >>> refuse_oversized("a/b/c", Limits(max_archive_depth=1))
    Traceback (most recent call last):
    protocol.errors.TooLarge: member 'a/b/c' lies deeper than 1 directories (maxArchiveDepth)
    """
    if len(path) * 4 > MAX_NAME_BYTES or path.count("/") > limits.max_archive_depth:
        _refuse_oversized(path, path.split("/"), limits, "member")


_NOTHING = frozenset(("", "."))


def _unsafe_name(name: str, what: str, why: str) -> ArchiveUnsafe:
    return ArchiveUnsafe(f"{what} {shown(name)!r} {why}", member=shown(name))


def _refuse_oversized(name: str, parts: list[str], limits: Limits, what: str) -> None:
    if len(parts) > limits.max_archive_depth + 1:
        message = f"{what} {shown(name)!r} lies deeper than {limits.max_archive_depth} directories"
        raise _over("maxArchiveDepth", limits.max_archive_depth, message, name)
    if len(name) * 4 > MAX_NAME_BYTES:  # else no name in it can be too long, whatever its characters
        if len(_bytes(name)) > limits.max_path_bytes:
            message = f"{what} {shown(name)!r} has a name of more than {limits.max_path_bytes} bytes"
            raise _over("maxPathBytes", limits.max_path_bytes, message, name)
        if any(len(_bytes(part)) > MAX_NAME_BYTES for part in parts):
            message = f"{what} {shown(name)!r} has a component of more than {MAX_NAME_BYTES} bytes"
            raise _over("maxNameBytes", MAX_NAME_BYTES, message, name)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def is_reserved(path: str) -> bool:
    """Whether a member belongs to the tool server itself: it is passed over, not refused.

    >>> is_reserved(".workspace-core/old/a"), is_reserved("src/.workspace-core")
    (True, False)
    """
    return path.partition("/")[0] == RESERVED


def refuse_special(member: Member) -> None:
    """Devices and FIFOs are no workspace content."""
    if member.kind in _SPECIAL:
        kind = member.kind.name.lower().replace("_", " ")
        message = f"member {shown(member.name)!r} is a {kind}; only files, directories and links are taken"
        raise ArchiveUnsafe(message, member=shown(member.name))


def refuse_replacing_root(member: Member, path: str) -> None:
    """The root is a directory, and stays the one it is."""
    if path == "." and member.kind is not Kind.DIRECTORY:
        kind = member.kind.name.lower().replace("_", " ")
        message = f"member {shown(member.name)!r} is the archive's root, but a {kind}; it must be a directory"
        raise ArchiveUnsafe(message, member=shown(member.name))


_SPECIAL = frozenset((Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE, Kind.FIFO))


def permissions(mode: int) -> int:
    """Permission bits alone, without set-uid, set-gid and sticky.

    >>> oct(permissions(0o104755))
    '0o755'
    """
    return mode & 0o777


def refuse_leaving_symlink(path: str, target: str, limits: Limits = _LIMITS) -> None:
    """Refuse a symlink at ``path`` whose target lies outside, now or by way of another link.

    ``..`` is allowed in front only: behind a name it would climb from wherever that name leads, and if the
    name is a link itself, that is not where the letters say.

    >>> refuse_leaving_symlink("a/b/link", "../../c")
    >>> refuse_leaving_symlink("a/link", "../../c")
    Traceback (most recent call last):
    protocol.errors.ArchiveUnsafe: symlink 'a/link' -> '../../c' leaves the archive's root
    """
    _refuse_unusable_target(path, target, limits)
    if target.startswith("/"):
        raise _leaving(path, target, "is absolute; link to a path relative to the link")
    parts = [part for part in target.split("/") if part not in _NOTHING]
    climbs = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    if climbs > path.count("/"):
        raise _leaving(path, target, "leaves the archive's root")
    if ".." in parts[climbs:]:
        raise _leaving(path, target, "climbs by '..' after a name; put every '..' first")


def _refuse_unusable_target(path: str, target: str, limits: Limits) -> None:
    if not target:
        raise ArchiveInvalid(f"symlink {shown(path)!r} points at nothing", member=shown(path))
    if "\0" in target:
        raise _leaving(path, target, "has a NUL in its target, which no file system takes")
    if len(_bytes(target)) >= limits.max_path_bytes:
        message = f"symlink {shown(path)!r} has a target of {limits.max_path_bytes} bytes or more"
        raise _over("maxPathBytes", limits.max_path_bytes, message, path)


def _leaving(path: str, target: str, why: str) -> ArchiveUnsafe:
    message = f"symlink {shown(path)!r} -> {shown(target)!r} {why}"
    return ArchiveUnsafe(message, member=shown(path), target=shown(target))


def hard_link_source(path: str, target: str, limits: Limits = _LIMITS) -> MemberPath:
    """The member that a hard link at ``path`` names, by the rules for names.

    >>> hard_link_source("b", "./a")
    'a'
    >>> hard_link_source("b", "/etc/passwd")
    Traceback (most recent call last):
    protocol.errors.ArchiveUnsafe: hard link 'b' to '/etc/passwd' has an absolute name; pack by 'tar -C DIR .'
    """
    return member_path(target, limits, f"hard link {shown(path)!r} to")


def refuse_through_link(path: str, links: Collection[str]) -> None:
    """Refuse a member below a name that an earlier member made a symlink.

    >>> refuse_through_link("a/b/c", {"a/b"})
    Traceback (most recent call last):
    protocol.errors.ArchiveUnsafe: member 'a/b/c' would be written through the link 'a/b'
    """
    slash = path.find("/") if links else -1
    while slash >= 0:
        if path[:slash] in links:
            link = shown(path[:slash])
            message = f"member {shown(path)!r} would be written through the link {link!r}"
            raise ArchiveUnsafe(message, member=shown(path), link=link)
        slash = path.find("/", slash + 1)


def below_no_directory(path: str) -> ArchiveUnsafe:
    """The refusal of a member whose directory turned out to be a link or a file."""
    message = f"member {shown(path)!r} lies below a name that is a link or a file, not a directory"
    return ArchiveUnsafe(message, member=shown(path))


def changed_kind(path: str, before: str, now: str) -> ArchiveUnsafe:
    """The refusal of a second member of one name and another kind; of one kind, the last counts."""
    message = f"member {shown(path)!r} is in the archive twice, first as a {before}, then as a {now}"
    return ArchiveUnsafe(message, member=shown(path))


class Budget:
    """What an archive may still cost; counted while it is packed or unpacked, so that both ends agree."""

    def __init__(self, limits: Limits = _LIMITS) -> None:
        self._limits = limits
        self.entries = 0
        self.packed = 0
        """Bytes of the archive as sent."""
        self.unpacked = 0
        """Bytes of the tar stream."""
        self.content = 0
        """Bytes of content that the members declare."""

    def member(self, member: Member) -> None:
        """One more member; what it declares is refused before its content is read."""
        self.entries += 1
        limit = self._limits.max_archive_entries
        if self.entries > limit:
            message = f"the archive has more than {limit} entries; {shown(member.name)!r} is one too many"
            raise _over("maxArchiveEntries", limit, message, member.name)
        self.content += member.size
        if self.content > self._limits.max_unpacked_bytes:
            raise self._unpacked_too_large(member.name)

    def took_packed(self, count: int) -> None:
        """``count`` more bytes of the archive as sent."""
        self.packed += count
        limit = self._limits.max_archive_bytes
        if self.packed > limit:
            raise _over("maxArchiveBytes", limit, f"the archive has more than {limit} bytes")

    def took_unpacked(self, count: int) -> None:
        """``count`` more bytes of the tar stream; ``took_packed`` of their source comes first."""
        self.unpacked += count
        if self.unpacked > self._limits.max_unpacked_bytes:
            raise self._unpacked_too_large()
        self._judge_ratio()

    def _judge_ratio(self) -> None:
        limit = self._limits.max_archive_ratio
        if self.unpacked > self._limits.archive_ratio_free_bytes + limit * self.packed:
            message = f"the archive unpacks to more than {limit} times its size"
            raise _over("maxArchiveRatio", limit, message)

    def _unpacked_too_large(self, name: str | None = None) -> TooLarge:
        limit = self._limits.max_unpacked_bytes
        at = f" with member {shown(name)!r}" if name else ""
        return _over("maxUnpackedBytes", limit, f"the archive unpacks to more than {limit} bytes{at}", name)


def _over(limit: str, value: int, message: str, member: str | None = None) -> TooLarge:
    details: dict[str, Any] = {"limit": limit, "value": value}
    return TooLarge(f"{message} ({limit})", **details, **({"member": shown(member)} if member else {}))
