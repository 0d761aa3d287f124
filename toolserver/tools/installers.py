"""Which programs install packages here, by what can be read of them without starting any. Blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec


def content(path: Path) -> bytes:
    """A file's; nothing when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def program(name: str, env: Mapping[str, str]) -> tuple[str, int, int] | None:
    """Where a program is, its size and its time: another one by the same name is not taken for it."""
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None:
        return None
    info = Path(found).stat()
    return found, info.st_size, info.st_mtime_ns


def manager_version(manager: str, env: Mapping[str, str]) -> str | None:
    """``npm@11.17.0``: read out of the package that the program is part of, for to ask it takes 0.2 s.

    One that is no package (bun's is a binary) is known by its size and time. None when there is none.
    A program of corepack's stands for the version that package.json names, which is in the key anyway.
    """
    found = program(manager, env)
    if found is None:
        return None
    for directory in Path(found[0]).resolve().parents[:4]:
        try:
            package = msgspec.json.decode((directory / "package.json").read_bytes(), type=_Package)
        except (OSError, msgspec.DecodeError):
            continue
        return f"{manager}@{package.name}@{package.version}"
    return f"{manager}@{found[1]}-{found[2]}"


def unheeded_npm(pinned: str, env: Mapping[str, str]) -> str | None:
    """The sentence to tell when the npm on PATH is not the one pinned; Corepack's npm is.

    pnpm, Yarn and bun see to their pins themselves, or complain; npm does neither.
    """
    match (manager_version("npm", env) or "npm@corepack@").split("@"):
        case ["npm", "corepack", _]:
            return None
        case ["npm", "npm", version] if f"{version}.".startswith(f"{pinned}."):
            return None
        case ["npm", "npm", version]:
            here = version
        case _:
            here = "of an unknown version"
    return (
        f"packageManager pins npm@{pinned}, and the npm that is here, {here}, installs instead; for the "
        f"pinned one, install by `npm exec --yes --package=npm@{pinned} -- npm install` (installCommand in "
        "template.json, or 'command')"
    )


class _Package(msgspec.Struct):
    name: str
    version: str


def platform_name() -> str:
    """System, processor and C library, as far as binaries care."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        libc = None
    system = os.uname()
    return f"{system.sysname} {system.machine} {'glibc' if libc else 'other libc'}"
