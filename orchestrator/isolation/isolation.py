"""Isolation as a backend uses it: chosen once for a data directory, then applied to each sandbox.

``settle`` gives a sandbox's fresh directories their owner; ``command`` is what to start instead of the
daemon's own command. Both go by what was found out at the beginning.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.directories import private_directory
from orchestrator.isolation import identity, probe, reach
from orchestrator.isolation.identity import Identity
from orchestrator.isolation.tiers import (
    NAMES,
    OPTION,
    Facts,
    Promises,
    Tier,
    Wish,
    decide,
    left_open,
    promises,
    why_not,
)
from orchestrator.paths import PathManager, SessionArea
from protocol.errors import InvalidRequest, Unavailable

ALLOW_VARIABLE = "WORKSPACE_ALLOW_SEVERAL_USERS"
_ACCOUNTS = Path("/etc/passwd")


@dataclass(frozen=True)
class Setting:
    """What the operator wants."""

    wish: Wish = Wish.AUTO
    allow_several_users: bool = False
    """Also where nothing keeps them apart."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Setting:
        """Out of WORKSPACE_ISOLATION and WORKSPACE_ALLOW_SEVERAL_USERS; raises InvalidRequest.

        >>> Setting.from_env({"WORKSPACE_ISOLATION": "none"}).wish.value
        'none'
        """
        raw = environ.get(OPTION) or Wish.AUTO.value
        if raw not in {wish.value for wish in Wish}:
            known = ", ".join(wish.value for wish in Wish)
            raise InvalidRequest(f"{OPTION} is {raw!r}; it has to be one of {known}")
        return cls(Wish(raw), environ.get(ALLOW_VARIABLE, "").lower() in ("1", "true", "yes"))


@dataclass(frozen=True)
class Sandbox:
    """One to be made."""

    person: str
    root: Path
    area: SessionArea
    cache: Path
    """Package caches, shared by the sessions of one person."""
    ports: tuple[int, ...]
    """Those it may listen on; 0 is any free one."""


@dataclass(frozen=True)
class Settled:
    """A sandbox whose directories have their owner."""

    sandbox: Sandbox
    identity: Identity | None
    cache: Path
    """Where its package caches are: its own, when no two users can share one here."""


@dataclass(frozen=True)
class Isolation:
    """A tier, on one data directory."""

    tier: Tier
    facts: Facts
    setting: Setting
    paths: PathManager
    environ: Mapping[str, str]
    needs: tuple[Path, ...]
    """Beside the system and the sandbox's own directories."""

    @classmethod
    def choose(
        cls,
        setting: Setting,
        paths: PathManager,
        environ: Mapping[str, str],
        tools: Path | None,
        command: Sequence[str],
    ) -> Isolation:
        """By a look at the host; raises Unavailable when what is wished for is not to be had."""
        words = [Path(word) for word in command if word.startswith("/") and Path(word).is_file()]
        given = [path for word in words[1:] for path in reach.links(word)]
        needs = [*reach.python_needs(), *reach.tool_needs(tools), *reach.certificates(environ), *given]
        facts = probe.look(needs, paths.base_dir)
        return cls(decide(setting.wish, facts), facts, setting, paths, environ, tuple(needs))

    @property
    def promises(self) -> Promises:
        """What holds."""
        return promises(self.tier)

    @functools.cached_property
    def left_open(self) -> tuple[str, ...]:
        """What does not."""
        listed = any(self.paths.base_dir.is_relative_to(each.parent) for each in reach.package_directories())
        names = (NAMES,) if listed and self.tier.landlock and not self.tier.users else ()
        return (*names, *left_open(self.tier))

    def refuse_company(self, person: str) -> None:
        """Raise Unavailable when others' workspaces are here and nothing would keep them apart."""
        if self.promises.several_users or self.setting.allow_several_users:
            return
        for workspaces in self.paths.base_dir.glob("workspaces/*"):
            if workspaces.name != person and any(workspaces.iterdir()):
                raise Unavailable(
                    f"{self.paths.base_dir} holds workspaces of another user, and nothing would keep them "
                    f"apart: {self.reason}; give each user a host, or allow it by {ALLOW_VARIABLE}=1",
                    isolation=self.tier.name,
                )

    def refuse_ports(self, ports: Iterable[int]) -> None:
        """Raise InvalidRequest for a port that every workspace may connect to."""
        shared = self._outgoing & {*ports} if self.tier.landlock else frozenset()
        if shared:
            raise InvalidRequest(
                f"every workspace may connect to port {min(shared)}, so none may listen there; choose another"
            )

    def settle(self, sandbox: Sandbox) -> Settled:
        """Give the sandbox's directories to whom it will run as: who had its root before, or nobody yet."""
        if not self.tier.users:
            private_directory(sandbox.cache)
            return Settled(sandbox, None, sandbox.cache)
        uid = identity.kept_user(sandbox.root) or identity.choose_user(
            identity.taken_users(self.paths), secrets.randbelow
        )
        whom = Identity(uid, identity.group_of(sandbox.person))
        identity.open_ways(self.paths, sandbox.person)
        identity.give(whom, sandbox.root, sandbox.area)
        shared = identity.share(sandbox.cache, whom.person)
        if self.tier.view:
            _write_accounts(sandbox.area, uid)
        return Settled(sandbox, whom, sandbox.cache if shared else sandbox.area.home / ".cache")

    def command(self, settled: Settled, command: Sequence[str]) -> tuple[str, ...]:
        """What to start so that ``command`` runs within the tier."""
        if not (self.tier.landlock or self.tier.users):
            return tuple(command)
        launcher = str(importlib.resources.files("orchestrator.isolation") / "launcher.py")
        told = [word for pair in self._order(settled) for word in pair]
        return (sys.executable, "-I", "-S", launcher, *told, "--", *command)

    def search_path(self, value: str) -> str:
        """The part of a PATH that is within reach."""
        if not (self.tier.landlock or self.tier.users):
            return value
        return reach.search_path(value, [*map(Path, reach.SYSTEM), *self._readable(), self.paths.tools_dir])

    @property
    def reason(self) -> str:
        """Why nothing keeps several users apart, as a clause; only where that is so."""
        return why_not(self.setting.wish, self.facts)

    @property
    def _outgoing(self) -> frozenset[int]:
        return reach.outgoing_ports(self.environ)

    def _order(self, settled: Settled) -> Iterator[tuple[str, str]]:
        """What the launcher is told, as pairs."""
        if self.tier.view:
            yield from self._view(settled)
        if (whom := settled.identity) is not None:
            yield from (("uid", str(whom.uid)), ("gid", str(whom.uid)), ("group", str(whom.person)))
        if self.tier.landlock:
            yield "landlock", str(self.tier.landlock)
            yield from self._files(settled)
            yield from (("bind", str(port)) for port in {0, *settled.sandbox.ports})
            own = {port for port in settled.sandbox.ports if port}
            yield from (("connect", str(port)) for port in sorted(self._outgoing | own))
        if self.tier.filter:
            yield "filter", os.uname().machine

    def _view(self, settled: Settled) -> Iterator[tuple[str, str]]:
        covers = probe.outermost([*self.facts.closed, *probe.closed([self.paths.base_dir]), "/tmp"])
        yield from (("cover", directory) for directory in covers)
        for path in (self.paths.base_dir, *self.needs):
            yield from (("keep", each) for each in sorted({str(path), str(path.resolve())}) if path.exists())
        yield "tmp", str(settled.sandbox.area.temporary)
        yield "passwd", str(_accounts(settled.sandbox.area))

    def _files(self, settled: Settled) -> Iterator[tuple[str, str]]:
        area = settled.sandbox.area
        own = (settled.sandbox.root, area.home, area.temporary, area.state, settled.cache)
        yield from (("write", str(path)) for path in own)
        yield from (("write", path) for path in ("/tmp", "/dev/shm") if self.tier.view)
        yield from (("device", path) for path in reach.DEVICES)
        # Another's /proc/PID/oom_score_adj is this user's to write, unless each session has its own.
        yield ("device" if self.tier.users else "read"), "/proc"
        yield from (("read", str(path)) for path in self._readable())
        yield from (("list", str(path.parent)) for path in reach.package_directories())

    def _readable(self) -> list[Path]:
        """Existing paths to read and run; nothing of the data directory but the tools' links."""
        data = self.paths.base_dir.resolve()
        wanted = [*map(Path, reach.SYSTEM), Path(reach.RESOLVER).resolve(), *self.needs]
        real = reach.distinct(path.resolve() for path in wanted if path.exists())
        return [*(each for path in real for each in reach.carved(path, data)), self.paths.tools_dir]


def _accounts(area: SessionArea) -> Path:
    return area.directory / "passwd"


def _write_accounts(area: SessionArea, uid: int) -> None:
    """The host's accounts and the session's: Node, git and ssh want a name for who runs them."""
    line = f"workspace:x:{uid}:{uid}:workspace:{area.home}:/bin/sh\n"
    known = _ACCOUNTS.read_text() if _ACCOUNTS.exists() else ""
    file = _accounts(area)
    file.write_text(known + ("" if not known or known.endswith("\n") else "\n") + line)
    file.chmod(0o644)
