"""A sandbox as isolation sees it, and the files that are written for it into its area."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.isolation import network, reach
from orchestrator.isolation.identity import Identity
from orchestrator.paths import SessionArea

_ACCOUNTS = Path("/etc/passwd")


@dataclass(frozen=True)
class Sandbox:
    """One to be made."""

    person: str
    root: Path
    area: SessionArea
    cache: Path
    """Package caches, shared by the sessions of one person."""
    ports: tuple[int, ...]
    """Those it may listen on, and which are reached from this host, the daemon's first; 0 is any free one."""


@dataclass(frozen=True)
class Settled:
    """A sandbox whose directories have their owner."""

    sandbox: Sandbox
    identity: Identity | None
    cache: Path
    """Where its package caches are: its own, when no two users can share one here."""


def package_caches(cache: Path) -> dict[str, Path]:
    """Where package managers keep what they fetched, by the variable that tells each.

    They are there before a command is: beside the store, which commands do not see, they could make nothing.
    """
    return {"npm_config_cache": cache / "npm", "COREPACK_HOME": cache / "corepack"}


def accounts(area: SessionArea) -> Path:
    """What is seen as /etc/passwd."""
    return area.directory / "passwd"


def write_accounts(area: SessionArea, uid: int) -> None:
    """The host's accounts and the session's: Node, git and ssh want a name for who runs them."""
    line = f"workspace:x:{uid}:{uid}:workspace:{area.home}:/bin/sh\n"
    known = _ACCOUNTS.read_text() if _ACCOUNTS.exists() else ""
    file = accounts(area)
    file.write_text(known + ("" if not known or known.endswith("\n") else "\n") + line)
    file.chmod(0o644)


def resolver(area: SessionArea) -> Path:
    """What is seen as /etc/resolv.conf, where that is needed."""
    return area.directory / "resolv.conf"


def write_resolver(area: SessionArea) -> None:
    """The host's, but for who is asked: its own server is reached through pasta."""
    file = resolver(area)
    file.write_text(reach.resolver_at(network.NAME_SERVER, text(Path(reach.RESOLVER))))
    file.chmod(0o644)


def text(path: Path) -> str:
    """A file's, or nothing when it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
