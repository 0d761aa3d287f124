"""What the workspace says of itself: its package.json, its lock file, its index.html."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from protocol.errors import InvalidRequest, NotFound, TooLarge, ToolError
from protocol.paths import RESERVED, ROOT, workspace_path
from protocol.templates import MAX_PACKAGE_BYTES, PACKAGE_FILE, package_object
from toolserver.system.disk import Disk

_MAX_LOCK_BYTES = 64 * 1024 * 1024
"""A lock file; that of a very large project has 5 MB."""


@dataclass(frozen=True)
class Project:
    """The names at the root, and package.json if there is one."""

    names: frozenset[str]
    package: dict[str, Any] | None

    @property
    def empty(self) -> bool:
        """Nothing was put in place yet."""
        return not self.names


async def read_files(disk: Disk, names: Iterable[str]) -> dict[str, bytes]:
    """Those of ``names`` that are files at the root; a larger one than any lock file is cut off."""
    return await asyncio.to_thread(_read_files, disk, names)


def _read_files(disk: Disk, names: Iterable[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in names:
        with contextlib.suppress(ToolError):
            found[name] = disk.read(workspace_path(name), _MAX_LOCK_BYTES)[0]
    return found


async def look(disk: Disk) -> Project:
    """Read it; raises InvalidRequest when package.json cannot be understood."""
    return await asyncio.to_thread(_look, disk)


def _look(disk: Disk) -> Project:
    names = disk.names(ROOT) - {RESERVED}
    try:
        data, _ = disk.read(workspace_path(PACKAGE_FILE), MAX_PACKAGE_BYTES)
    except NotFound:
        return Project(names, None)
    return Project(names, parse_package(data))


def parse_package(data: bytes) -> dict[str, Any]:
    """
    >>> parse_package(b'[1]')
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: package.json is not valid: it is no object
    """
    if len(data) > MAX_PACKAGE_BYTES:
        raise TooLarge(
            f"{PACKAGE_FILE} has more than {MAX_PACKAGE_BYTES} bytes; that is no list of packages",
            path=PACKAGE_FILE,
        )
    try:
        return package_object(data)
    except ValueError as error:
        raise InvalidRequest(f"{PACKAGE_FILE} is not valid: {error}", path=PACKAGE_FILE) from None
