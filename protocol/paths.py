"""Which strings name a place in a workspace, before any disk is asked.

A path in a request is relative and POSIX. Three absolute spellings mean the root as well: the real root,
``/app/`` and ``/workspace/``. This decides on components, never on string prefixes; whether a *link* on the
way leaves the workspace is the kernel's decision, at open time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType

from protocol.errors import InvalidRequest, OutsideWorkspace
from protocol.limits import Limits

WorkspacePath = NewType("WorkspacePath", str)
"""A checked path, relative, in normal form, ``"."`` for the root. Only ``workspace_path`` makes one."""

ROOT = WorkspacePath(".")
GUEST_ROOTS = ("/app", "/workspace")
"""Spellings of the root that hold on every backend, whatever the real root is."""

RESERVED = ".workspace-core"
"""The one name at the root that is the tool server's own: for staging, where no sibling can be had."""

MAX_NAME_BYTES = 255
"""NAME_MAX of the Linux file systems."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
"""In normal form already: no name is empty or begins with a dot."""


def workspace_path(raw: str, root: str = "/app", max_bytes: int = Limits().max_path_bytes) -> WorkspacePath:
    """The normal, relative form of ``raw``; ``root`` is the real root's absolute path.

    Raises OutsideWorkspace when it climbs out or is absolute elsewhere, InvalidRequest when no file system
    takes it.

    >>> workspace_path("./src//a.ts"), workspace_path("/app/src/../b"), workspace_path("/srv/w/x", "/srv/w")
    ('src/a.ts', 'b', 'x')
    >>> workspace_path("/application/x")
    Traceback (most recent call last):
    protocol.errors.OutsideWorkspace: '/application/x' is outside the workspace; use a path below its root
    """
    if raw == ".":
        return ROOT
    # Nearly every other path that is ever asked for; no name in it is longer than all of it.
    if len(raw) <= min(MAX_NAME_BYTES, max_bytes) and _PLAIN.fullmatch(raw):
        return WorkspacePath(raw)
    _refuse_unusable(raw, max_bytes)
    parts: list[str] = []
    for part in _below_root(raw, root):
        if part == "..":
            if not parts:
                raise _outside(raw)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if parts[:1] == [RESERVED]:
        raise OutsideWorkspace(f"{RESERVED!r} belongs to the tool server; use another name", path=raw)
    return WorkspacePath("/".join(parts) or ".")


def _refuse_unusable(raw: str, max_bytes: int) -> None:
    if not raw:
        raise InvalidRequest("a path is empty; use '.' for the workspace root", path=raw)
    if "\0" in raw:
        raise InvalidRequest("a path holds a NUL character, which no file system takes", path=raw)
    try:
        encoded = raw.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest("a path holds half a character", path=ascii(raw)[:200]) from None
    if len(encoded) > max_bytes or any(len(name) > MAX_NAME_BYTES for name in encoded.split(b"/")):
        raise InvalidRequest(
            f"a path is too long: at most {max_bytes} bytes, and {MAX_NAME_BYTES} a name",
            path=raw[:200],
        )


def _below_root(raw: str, root: str) -> list[str]:
    parts = raw.split("/")
    if not raw.startswith("/"):
        return parts
    names = [part for part in parts if part not in ("", ".")]
    for base in (root, *GUEST_ROOTS):
        above = [part for part in base.split("/") if part]
        if names[: len(above)] == above:
            return names[len(above) :]
    raise _outside(raw)


def _outside(raw: str) -> OutsideWorkspace:
    return OutsideWorkspace(f"{raw!r} is outside the workspace; use a path below its root", path=raw)


def directory_above(path: str) -> WorkspacePath:
    """The directory that holds ``path``.

    >>> directory_above("src/a.ts"), directory_above("a.ts")
    ('src', '.')
    """
    return WorkspacePath(path.rpartition("/")[0] or ROOT)


def is_within(path: str, tops: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``tops`` or below one.

    >>> is_within("a/b", ["a"]), is_within("ab", ["a"]), is_within("x", ["."])
    (True, False, True)
    """
    return any(top in (ROOT, path) or path.startswith(f"{top}/") for top in tops)


def base_name(path: WorkspacePath) -> str:
    """The last component.

    >>> base_name(WorkspacePath("src/a.ts"))
    'a.ts'
    """
    return path.rpartition("/")[2]
