"""A user per session: which ids, and whose the directories are.

Ids come from a range that nobody hands out: above the last one that systemd gives to containers, below the
signed 32 bit limit. No account is made; the owner of a session's directories is the record of its id. A
session's own area stays root's, for the backend reads there which process to end: what the session may write
are the root, HOME, TMPDIR and the daemon's state.

The sessions of one person share a package cache, each as another user. A group of that person owns it, and
a default access list makes all that is created in it the group's to write, whatever the umask.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.directories import private_directory, remove_tree
from orchestrator.paths import PathManager, SessionArea

FIRST_USER, USERS = 0x7000_0000, 0x0400_0000
"""One per session: 1879048192 to 1946157055."""
FIRST_GROUP, GROUPS = 0x7400_0000, 0x0400_0000
"""One per person: 1946157056 to 2013265919."""

_LIST_VERSION = 2
_OWNER, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x10, 0x20
_ALL, _NONE = 7, 0
_NOBODY_IN_PARTICULAR = 0xFFFF_FFFF
_PASS = 0o011


@dataclass(frozen=True)
class Identity:
    """Whom a session's programs run as. The primary group has the user's number, and no one else in it."""

    uid: int
    person: int
    """The group that its person's sessions share."""


def choose_user(taken: Collection[int], random_below: Callable[[int], int]) -> int:
    """An id that is not ``taken``.

    >>> numbers = iter([5, 5, 6])
    >>> choose_user({FIRST_USER + 5}, lambda _: next(numbers)) - FIRST_USER
    6
    """
    while (uid := FIRST_USER + random_below(USERS)) in taken:
        pass
    return uid


def group_of(person: str) -> int:
    """A person's group: always the same, so that two sessions that start at once agree.

    >>> FIRST_GROUP <= group_of("ann") < FIRST_GROUP + GROUPS, group_of("ann") == group_of("bob")
    (True, False)
    """
    return FIRST_GROUP + int.from_bytes(hashlib.sha256(person.encode()).digest()[:8], "big") % GROUPS


def taken_users(paths: PathManager) -> set[int]:
    """The owners of all workspaces in this data directory."""
    return {_owner(path) for path in paths.base_dir.glob("workspaces/*/*")}


def kept_user(root: Path) -> int | None:
    """Whose an earlier run of the session has left its root: all in it is that user's already."""
    owner = _owner(root)
    return owner if FIRST_USER <= owner < FIRST_USER + USERS else None


def give(identity: Identity, root: Path, area: SessionArea) -> None:
    """Make a session's fresh directories its user's."""
    for directory in (root, area.home, area.temporary, area.state):
        os.chown(directory, identity.uid, identity.uid)
    os.chown(area.directory, -1, identity.uid)
    area.directory.chmod(0o710)


def open_ways(paths: PathManager, person: str) -> None:
    """Let every user pass, and none list, the directories above those of sessions."""
    for directory in (paths.tools_dir, paths.store_dir):
        private_directory(directory)
    above_caches = paths.tools_dir.parent
    workspaces = paths.user_workspace_root(person)
    shared = (paths.tools_dir, paths.store_dir)
    for directory in (paths.base_dir, above_caches, *shared, workspaces.parent, workspaces):
        directory.chmod(directory.stat().st_mode & 0o7777 | _PASS)


def share(directory: Path, group: int, below: Iterable[Path] = ()) -> bool:
    """Make a cache, and what is to be ``below`` it, that of ``group``; one of another's is emptied first.

    False when its file system has no access lists: then no two users can share it.
    """
    with _alone(private_directory(directory.parent)):
        return all(_shared(each, group) for each in (directory, *below))


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Of two first sessions of a person, the second would take what the first is making for another's."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _shared(directory: Path, group: int) -> bool:
    if directory.exists() and directory.stat().st_gid != group:
        remove_tree(directory)
    private_directory(directory)
    os.chown(directory, -1, group)
    directory.chmod(0o2770)
    try:
        os.setxattr(directory, "system.posix_acl_default", access_list(_group_only()))
    except OSError:
        return False
    return True


def access_list(entries: Iterable[tuple[int, int]]) -> bytes:
    """An access list as the kernel stores it: (tag, rights) in the order of their tags.

    >>> len(access_list([(1, 7), (4, 7), (32, 0)]))
    28
    """
    packed = (struct.pack("<HHI", tag, rights, _NOBODY_IN_PARTICULAR) for tag, rights in entries)
    return struct.pack("<I", _LIST_VERSION) + b"".join(packed)


def _group_only() -> tuple[tuple[int, int], ...]:
    return ((_OWNER, _ALL), (_GROUP, _ALL), (_MASK, _ALL), (_OTHERS, _NONE))


def _owner(path: Path) -> int:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return 0
