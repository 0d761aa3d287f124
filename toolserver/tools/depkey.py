"""What a set of installed packages is known by, and which projects are not to be kept: pure.

Two installs of the same key must come to the same packages. What else an install may depend on is in the key,
or the project is refused: a missed chance costs an install, a wrong match costs a day.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

FORMAT = 1
"""Of key and pack: another one means that no older pack is found."""

SETTINGS = (".npmrc", ".yarnrc", ".yarnrc.yml", "bunfig.toml", "pnpm-workspace.yaml", ".pnpmfile.cjs")
"""Beside package.json; each may change what is installed."""
_IRRELEVANT = frozenset(
    "scripts description keywords author contributors homepage license bugs repository funding".split()
)
_OWN_SCRIPTS = ("preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare")
_DEPENDENCIES = ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies")
_LOCAL = re.compile(r"(file|link|portal|workspace):|\.{0,2}/|~/")
_PREFIXES = ("npm_config_", "pnpm_config_", "yarn_", "bun_")
_PLACES = re.compile(
    r"_(cache|cafile|registry|https?_?proxy|proxy|noproxy|userconfig|prefix|tmp|offline|enable_network)$"
)
"""From where packages come, and by which way, changes none that a lock file names by digest."""


@dataclass(frozen=True)
class Tools:
    """What installs, and on what."""

    manager: str
    """With its version."""
    node: str
    platform: str
    """System, processor and C library."""


@dataclass(frozen=True)
class Project:
    """What a project says of its packages."""

    package: Mapping[str, Any]
    lock_name: str | None
    """None: its package manager has no lock file here."""
    lock: bytes
    settings: Mapping[str, bytes]
    """Of SETTINGS those that are there, and the user's own .npmrc as ``~``."""
    names: frozenset[str]
    """At the root."""


def why_not(project: Project) -> str | None:
    """Why its packages are not kept, as a clause; None when they are.

    >>> why_not(Project({}, "package-lock.json", b"{}", {}, frozenset()))
    >>> why_not(Project({"scripts": {"postinstall": "x"}}, "yarn.lock", b"", {}, frozenset()))
    "its own script 'postinstall' has to run"
    >>> why_not(Project({"dependencies": {"a": "file:../a"}}, "yarn.lock", b"", {}, frozenset()))
    "'a' comes from a directory, whose content may change"
    """
    package = project.package
    if project.lock_name is None:
        return "there is no lock file"
    scripts = package.get("scripts")
    own = next((name for name in _OWN_SCRIPTS if isinstance(scripts, dict) and name in scripts), None)
    if own or "binding.gyp" in project.names:
        return f"its own script {own!r} has to run" if own else "its own binding.gyp has to be built"
    if "workspaces" in package or b"packages:" in project.settings.get("pnpm-workspace.yaml", b""):
        return "it has workspaces, each with packages of its own"
    local = next((name for name, wanted in _wanted(package) if _LOCAL.match(wanted)), None)
    return f"{local!r} comes from a directory, whose content may change" if local else None


def _wanted(package: Mapping[str, Any]) -> list[tuple[str, str]]:
    groups = (package.get(name) for name in _DEPENDENCIES)
    return [
        (name, str(wanted)) for group in groups if isinstance(group, dict) for name, wanted in group.items()
    ]


def key_of(project: Project, tools: Tools, env: Mapping[str, str]) -> str:
    """The key: 64 hexadecimal digits.

    >>> lock, tools = ("package-lock.json", b"{}"), Tools("npm@11", "24.1.0", "linux x86_64 glibc")
    >>> one = Project({"description": "x"}, *lock, {}, frozenset())
    >>> key_of(one, tools, {}) == key_of(Project({}, *lock, {}, frozenset("ab")), tools, {"HOME": "/h"})
    True
    >>> key_of(one, tools, {}) == key_of(one, tools, {"NODE_ENV": "production"})
    False
    """
    said = {name: value for name, value in project.package.items() if name not in _IRRELEVANT}
    parts = {
        "format": FORMAT,
        "package": said,
        "lock": [project.lock_name, _digest(project.lock)],
        "settings": {name: _digest(data) for name, data in project.settings.items()},
        "tools": [tools.manager, tools.node, tools.platform],
        "env": {name: value for name, value in env.items() if _matters(name)},
    }
    return _digest(msgspec.json.encode(parts, order="deterministic"))


def _matters(name: str) -> bool:
    """Whether a variable may change what is installed.

    >>> [_matters(name) for name in ("NODE_ENV", "npm_config_omit", "npm_config_cache", "PATH")]
    [True, True, False, False]
    """
    lower = name.lower()
    return lower == "node_env" or (lower.startswith(_PREFIXES) and not _PLACES.search(lower))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
