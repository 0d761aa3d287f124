"""Peers come from PyPI and npm into directories of their own, outside of the project, and stay there.

Pinned, because an adapter is written against one release; ``BENCH_CACHE`` names another place for them. The
figure of a peer that cannot be had says why.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

INSTALL_SECONDS = 300.0
"""For one peer; the largest took 40 s with a registry near by."""


class Unobtainable(Exception):
    """The peer cannot be had here; the message says why, and what would help."""


def cache(environ: Mapping[str, str]) -> Path:
    """Where peers live.

    >>> cache({"BENCH_CACHE": "/x"}), cache({"HOME": "/h"})
    (PosixPath('/x'), PosixPath('/h/.cache/workspace-core/peers'))
    """
    if found := environ.get("BENCH_CACHE"):
        return Path(found)
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/root")) / ".cache")
    return Path(base) / "workspace-core/peers"


async def python_environment(name: str, packages: Sequence[str], least: tuple[int, int] = (3, 11)) -> Path:
    """A virtual environment with ``packages``: its bin directory. Raises Unobtainable."""
    place, marker = _place(name, packages)
    if not marker.exists():
        python = await newest_python(least)
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        await _installed(name, python, "-m", "venv", str(place))
        await _installed(name, str(place / "bin/pip"), "install", "--quiet", *packages)
        marker.touch()
    return place / "bin"


async def node_environment(name: str, package: str, npm: str) -> Path:
    """A directory with ``package`` in its node_modules. Raises Unobtainable."""
    place, marker = _place(name, (package,))
    if not marker.exists():
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        place.mkdir(parents=True)
        await _installed(name, npm, "install", "--prefix", str(place), "--no-audit", "--no-fund", package)
        marker.touch()
    return place


async def newest_python(least: tuple[int, int]) -> str:
    """An interpreter of this machine that is no older than ``least`` and runs. Raises Unobtainable."""
    if sys.version_info[:2] >= least:
        return sys.executable
    for minor in range(19, least[1] - 1, -1):
        for found in _python(f"python{least[0]}.{minor}"):
            # The name alone says nothing: a version manager leaves names of what is not installed.
            asked = asyncio.create_subprocess_exec(
                *(found, "-c", "import venv, ensurepip"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            if await (await asked).wait() == 0:
                return found
    name = f"Python {least[0]}.{least[1]} or newer"
    raise Unobtainable(f"it needs {name}: have one on PATH, or among pyenv's versions")


def _python(name: str) -> list[str]:
    on_path = shutil.which(name)
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [*([on_path] if on_path else []), *map(str, sorted(versions.glob(f"*/bin/{name}")))]


async def _installed(name: str, *argv: str) -> None:
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(INSTALL_SECONDS):
            told, _ = await process.communicate()
    except TimeoutError:
        raise Unobtainable(f"its installation took longer than {INSTALL_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        errors = [line for line in told.decode(errors="replace").splitlines() if "rror" in line]
        raise Unobtainable(f"its installation failed: {errors[-1][:160] if errors else process.returncode}")


def _place(name: str, packages: Sequence[str]) -> tuple[Path, Path]:
    place = cache(os.environ) / name
    stem = "-".join(packages).replace("/", "_").replace("@", "")
    return place, place / f"installed-{stem}"
