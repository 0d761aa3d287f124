"""What the journeys share: where packages are cached, what a template's edit is, what a tree is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from orchestrator.toolchain import find_toolchain

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / "data" / "tests"
"""Kept between runs, so that after the first one npm needs no network."""
NPM_CACHE = DATA / "npm"
"""For the programs that are not ours: a person's own cache below ``DATA`` is for that person's sessions."""


@dataclass(frozen=True)
class Route:
    """One template, and an edit whose effect the dev server must tell."""

    template: str
    path: str
    old: str
    new: str
    kept: str
    """A line that the page, or the file, shows after the edit."""


ROUTES = (
    Route("vite-vanilla", "src/style.css", "--hue: 285", "--hue: 20", "--hue: 20"),
    Route("astro-minimal", "src/pages/index.astro", "<h1", '<h1 data-edited="yes"', 'data-edited="yes"'),
)


def tree(root: Path) -> dict[str, tuple[str, int, str]]:
    """Every path that a save holds: kind, mode, content hash or link target."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.split("/")[0] in {"node_modules", ".astro", "dist", ".workspace-core"}:
            continue
        info = path.lstat()
        if path.is_symlink():
            found[name] = ("link", 0, str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", stat.S_IMODE(info.st_mode), "")
        else:
            found[name] = (
                "file",
                stat.S_IMODE(info.st_mode),
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
    return found


def tools(directory: Path) -> str:
    """A PATH with Node, npm and ripgrep first."""
    directory.mkdir(parents=True, exist_ok=True)
    bin_directory = find_toolchain(os.environ).make_bin(directory)
    return f"{bin_directory}:/usr/local/bin:/usr/bin:/bin"


async def npm_registry() -> str:
    """The one that npm asks here: other programs read no .npmrc."""
    process = await asyncio.create_subprocess_exec(
        find_toolchain(os.environ).npm, "config", "get", "registry", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        told, _ = await process.communicate()
    return told.decode().strip()
