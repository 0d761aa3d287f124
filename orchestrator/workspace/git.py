"""What git says, understood. Pure.

Asked as ``status --porcelain=v2 -z``: names come between NUL bytes, as they are, so none has to be unquoted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from orchestrator.workspace.results import GitChange, GitChangeStatus

STATUS = (
    "git", "status", "--porcelain=v2", "-z", "--untracked-files=all", "--ignored=no", "--renames", "--", ".",
)  # fmt: skip
PREFIX = ("git", "rev-parse", "--show-prefix")
"""Where in its repository a directory is: ``sub/``, or nothing at the top."""
HEAD = ("git", "rev-parse", "--quiet", "--verify", "HEAD^{commit}")

_FIELDS = {"1": 8, "2": 9, "u": 10}
"""Fields before the name, by the kind of entry."""


def changes(status: bytes, prefix: str, directory: PurePosixPath) -> list[GitChange]:
    """The entries below ``directory`` (of the workspace, ``prefix`` in its repository), sorted by path.

    >>> out = b"1 .M N... 100644 100644 100644 a1 a2 a b.txt\\0? n\\newline\\0"
    >>> for change in changes(out, "", PurePosixPath("repo")):
    ...     print(change.status.value, ascii(str(change.path)))
    UPDATED 'repo/a b.txt'
    ADDED 'repo/n\\newline'
    """
    found: dict[PurePosixPath, GitChange] = {}
    for status_, name, original in _entries(status):
        path = _placed(name, prefix, directory)
        if path is None:
            continue
        before = _placed(original, prefix, directory) if original is not None else None
        if path in found:  # taken out of the index, and there again without being known to it
            found[path] = GitChange(GitChangeStatus.UPDATED, path)
        else:
            found[path] = GitChange(status_, path, before)
    return sorted(found.values(), key=lambda change: change.path)


def top(directory: str, prefix: str) -> tuple[str, str]:
    """The repository's own top, or the workspace's root when that is further in; and what is above it then.

    >>> top("repo/sub", "sub/"), top("src", "project/src/"), top(".", "")
    (('repo', ''), ('.', 'project/'), ('.', ''))
    """
    below = [part for part in directory.split("/") if part != "."]
    within = [part for part in prefix.split("/") if part]
    while below and within and below[-1] == within[-1]:
        below.pop()
        within.pop()
    return "/".join(below) or ".", "".join(f"{part}/" for part in within)


def _entries(status: bytes) -> Iterator[tuple[GitChangeStatus, str, str | None]]:
    parts = iter(os.fsdecode(part) for part in status.split(b"\0"))
    for part in parts:
        kind = part[:1]
        if kind == "?":
            yield GitChangeStatus.ADDED, part[2:], None
        elif kind in _FIELDS:
            *fields, name = part.split(" ", _FIELDS[kind])
            original = next(parts) if kind == "2" else None
            if (status_ := _status(kind, fields[1])) is not None:
                moved = status_ is GitChangeStatus.MOVED
                yield status_, name, original if moved else None


def _status(kind: str, letters: str) -> GitChangeStatus | None:
    """Of an entry's letters: the first is the index beside the commit, the second the file beside the index.

    >>> [_status("1", letters) for letters in (".M", "AD")]
    [<GitChangeStatus.UPDATED: 'UPDATED'>, None]
    """
    if kind == "u":
        return GitChangeStatus.UPDATED
    added = letters[0] in "AC" or letters[1] == "A"
    if "D" in letters:
        return None if added else GitChangeStatus.DELETED
    if "R" in letters:
        return GitChangeStatus.MOVED
    return GitChangeStatus.ADDED if added or "C" in letters else GitChangeStatus.UPDATED


def _placed(name: str, prefix: str, directory: PurePosixPath) -> PurePosixPath | None:
    """None for what lies outside: a file may have been moved in from there.

    >>> _placed("sub/a", "sub/", PurePosixPath(".")), _placed("other/a", "sub/", PurePosixPath("."))
    (PurePosixPath('a'), None)
    """
    return directory / name[len(prefix) :] if name.startswith(prefix) else None
