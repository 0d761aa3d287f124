"""Isolation as a backend uses it: chosen once for a data directory, then applied to each sandbox.

``settle`` gives a sandbox's fresh directories their owner; ``command`` is what to start instead of the
daemon's own command. Both go by what was found out at the beginning.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.directories import private_directory
from orchestrator.isolation import bubblewrap, identity, network, probe, reach
from orchestrator.isolation.identity import Identity
from orchestrator.isolation.orders import Orders
from orchestrator.isolation.sandbox import (
    Sandbox,
    Settled,
    package_caches,
    write_accounts,
    write_resolver,
)
from orchestrator.isolation.tiers import (
    NAMES,
    NETWORK_OPTION,
    OPTION,
    Facts,
    Network,
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
ONE_USER_VARIABLE = "WORKSPACE_ONE_USER"
_ANY_PORT_FILE = "any-port"
"""In the area of a session that may connect to any port of this host."""
_INFORMATION_FILE = "bwrap.json"


_TRIAL_SECONDS = 20.0
"""0.05 s when quiet."""
_YES = ("1", "true", "yes")


@dataclass(frozen=True)
class Setting:
    """What the operator wants."""

    wish: Wish = Wish.AUTO
    allow_several_users: bool = False
    """Also where nothing keeps them apart."""
    network: Network = Network.AUTO
    one_user: bool = False
    """Nobody else will have a workspace here: ports need not be kept apart where that takes rules on them."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Setting:
        """Out of the four variables; raises InvalidRequest.

        >>> Setting.from_env({"WORKSPACE_ISOLATION": "none"}).wish.value
        'none'
        """
        wish = _one_of(environ, OPTION, [wish.value for wish in Wish])
        network = _one_of(environ, NETWORK_OPTION, [network.value for network in Network])
        allow, one = (yes(environ, name) for name in (ALLOW_VARIABLE, ONE_USER_VARIABLE))
        return cls(Wish(wish), allow, Network(network), one)


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
        tier = decide(setting.wish, facts, setting.network, setting.one_user)
        try:
            reach.lent_ports(environ)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return cls(tier, facts, setting, paths, environ, tuple(needs))

    @functools.cached_property
    def _orders(self) -> Orders:
        return Orders(self.tier, self.facts, self.paths, self.environ, self.needs)

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

    def refuse_company(self, person: str, area: SessionArea | None = None) -> None:
        """Raise Unavailable when others' workspaces are here and nothing would keep them apart.

        ``area`` is that of the session to be started, its directories made: of two users who begin at once,
        each then sees the other.
        """
        if self.setting.allow_several_users:
            return
        if self.tier.any_port and area is not None:
            (area.directory / _ANY_PORT_FILE).touch()
        others = [each for each in self.paths.base_dir.glob("workspaces/*") if each.name != person]
        if any(any(each.glob(f".*/{_ANY_PORT_FILE}")) for each in others):
            raise Unavailable(
                f"a session of another user runs here with {ONE_USER_VARIABLE}=1, so it may connect to every "
                f"port: end it by `workspace down` first, and start it again without that variable",
                isolation=self.tier.name,
            )
        if (not self.promises.several_users or self.tier.any_port) and any(map(_has_entries, others)):
            reason = f"{ONE_USER_VARIABLE}=1 was asked for" if self.tier.any_port else self.reason
            raise Unavailable(
                f"{self.paths.base_dir} holds workspaces of another user, and nothing would keep them "
                f"apart: {reason}; give each user a host, or allow it by {ALLOW_VARIABLE}=1",
                isolation=self.tier.name,
            )

    def refuse_ports(self, ports: Iterable[int]) -> None:
        """Raise InvalidRequest for a port that every workspace may connect to."""
        common = (
            self._orders.outgoing
            if self.tier.ports
            else self._orders.lent
            if self.tier.network
            else frozenset()
        )
        shared = common & {*ports}
        if shared:
            raise InvalidRequest(
                f"every workspace may connect to port {min(shared)}, so none may listen there; choose another"
            )

    def settle(self, sandbox: Sandbox) -> Settled:
        """Give the sandbox's directories to whom it will run as: who had its root before, or nobody yet."""
        if self._orders.own_resolver:
            write_resolver(sandbox.area)
        if not self.tier.users:
            private_directory(self.paths.store_dir)
            for directory in package_caches(sandbox.cache).values():
                private_directory(directory)
            return Settled(sandbox, None, sandbox.cache)
        uid = identity.kept_user(sandbox.root) or identity.choose_user(
            identity.taken_users(self.paths), secrets.randbelow
        )
        whom = Identity(uid, identity.group_of(sandbox.person))
        identity.open_ways(self.paths, sandbox.person)
        identity.give(whom, sandbox.root, sandbox.area)
        shared = identity.share(sandbox.cache, whom.person, package_caches(sandbox.cache).values())
        if self.tier.own_processes:
            write_accounts(sandbox.area, uid)
        return Settled(sandbox, whom, sandbox.cache if shared else sandbox.area.home / ".cache")

    def command(self, settled: Settled, command: Sequence[str]) -> tuple[str, ...]:
        """What to start so that ``command`` runs within the tier."""
        if not self.tier.anything:
            return tuple(command)
        if not self.tier.bwrap:
            return _launched(self._tied(settled), command)
        area = settled.sandbox.area
        inner = _launched([*self._orders.identity(settled), *self._orders.rules(settled)], command)
        wrapped = (probe.bwrap() or "bwrap", *bubblewrap.options(self._orders.inside(settled)), "--", *inner)
        return _launched(
            [*self._orders.network(settled), ("inform", str(area.directory / _INFORMATION_FILE))], wrapped
        )

    def words(self, settled: Settled) -> list[str] | None:
        """The launcher's, for a process that ties itself down; None where a program has to be started."""
        if self.tier.bwrap:
            return None
        return [word for pair in self._tied(settled) for word in pair] if self.tier.anything else []

    def _tied(self, settled: Settled) -> list[tuple[str, str]]:
        orders = self._orders
        parts = (orders.network, orders.view, orders.identity, orders.rules)
        return [pair for part in parts for pair in part(settled)]

    def leader(self, area: SessionArea) -> int | None:
        """The daemon's process id on this host, where that is not the process that was started.

        It is then the first one of its process namespace: nothing in there outlives it.
        """
        return bubblewrap.child(area.directory / _INFORMATION_FILE) if self.tier.bwrap else None

    @staticmethod
    def helpers(area: SessionArea) -> set[tuple[int, int]]:
        """Processes of this host that serve a sandbox, and end by themselves when its daemon has.

        Each with its start time; it may have ended.
        """
        return network.helpers(area.directory)

    def never_ran(self, area: SessionArea) -> bool:
        """Whether it is certain that nothing of a sandbox ran as its user. For a start that has ended.

        It becomes that user in its own network only, and what says that it went there lies where that user
        cannot write: its log, for one, may say anything.
        """
        certain = self.tier.users and self.tier.network and not self.tier.bwrap
        return certain and not network.was_entered(area.directory)

    def network_trial(self) -> str:
        """Why a network of its own does not work here, found by making one; empty when it does."""
        with tempfile.TemporaryDirectory(prefix="network-") as directory:
            words = [("network", probe.pasta() or "pasta"), ("helper", directory)]
            command = _launched(words, ("/bin/true",))
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
        return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""

    def told(self, settled: Settled) -> dict[str, str]:
        """What the daemon has to know to keep its own commands from itself, as variables.

        Nobody in there can list what lies above the directories of which the sandbox consists.
        """
        if self.setting.wish is Wish.NONE:
            return {"TOOL_SERVER_SEPARATION": "none"}
        if not self.tier.landlock:
            return {}
        places = *package_caches(settled.cache).values(), *self._orders.readable()
        return {"TOOL_SERVER_REACH": os.pathsep.join(map(str, places))}

    def search_path(self, value: str) -> str:
        """The part of a PATH that is within reach."""
        if not self.tier.anything:
            return value
        return reach.search_path(
            value, [*map(Path, reach.SYSTEM), *self._orders.readable(), self.paths.tools_dir]
        )

    @property
    def reason(self) -> str:
        """Why nothing keeps several users apart, as a clause; only where that is so."""
        return why_not(self.setting.wish, self.facts)


def _launched(told: Iterable[tuple[str, str]], command: Sequence[str]) -> tuple[str, ...]:
    launcher = str(importlib.resources.files("orchestrator.isolation") / "launcher.py")
    words = (word for pair in told for word in pair)
    return (sys.executable, "-I", "-S", launcher, *words, "--", *command)


def yes(environ: Mapping[str, str], name: str) -> bool:
    """Whether a variable says so.

    >>> yes({"A": "True"}, "A"), yes({"A": "0"}, "A"), yes({}, "A")
    (True, False, False)
    """
    return environ.get(name, "").lower() in _YES


def _one_of(environ: Mapping[str, str], name: str, known: Sequence[str]) -> str:
    """The value of a variable that has to be one of these; the first is what it is when it is not set."""
    value = environ.get(name) or known[0]
    if value not in known:
        raise InvalidRequest(f"{name} is {value!r}; it has to be one of {', '.join(known)}")
    return value


def _has_entries(directory: Path) -> bool:
    return any(directory.iterdir())
