"""Trees on the disk: made from a plain description, and described again, so that two can be compared."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """A file's content and permission bits."""

    content: bytes = b""
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symlink's target."""

    target: str


@dataclass(frozen=True)
class Directory:
    """A directory's permission bits."""

    mode: int = 0o755


Node = File | Link | Directory
Tree = dict[str, Node]
"""By path, parents before children, as ``described`` gives it."""


def plant(directory: Path, tree: Tree) -> None:
    """Make ``tree`` in ``directory``; what a path needs above it is made on the way."""
    for path, node in tree.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        match node:
            case File(content, mode):
                place.write_bytes(content)
                place.chmod(mode)
            case Link(target):
                place.symlink_to(target)
            case Directory():
                place.mkdir(exist_ok=True)
    for path, node in reversed(tree.items()):  # last, so that a read-only one could be filled
        if isinstance(node, Directory):
            (directory / path).chmod(node.mode)


def described(directory: Path) -> Tree:
    """All that is in ``directory``, sorted by path."""
    found: Tree = {}
    for above, directories, files in os.walk(directory):
        for name in (*directories, *files):
            place = Path(above, name)
            found[str(place.relative_to(directory))] = _node(place)
    return dict(sorted(found.items()))


def _node(place: Path) -> Node:
    mode = place.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Link(str(place.readlink()))
    bits = stat.S_IMODE(mode)
    return Directory(bits) if stat.S_ISDIR(mode) else File(place.read_bytes(), bits)
