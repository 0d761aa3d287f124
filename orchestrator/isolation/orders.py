"""What the launcher and bubblewrap are told about one sandbox: a tier, spelled out as pairs of words."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.isolation import bubblewrap, probe, reach
from orchestrator.isolation.network import NAME_SERVER
from orchestrator.isolation.sandbox import Settled, accounts, resolver, text
from orchestrator.isolation.tiers import Facts, Tier
from orchestrator.paths import PathManager

_OWN_PACKAGE = Path(__file__).parents[1]
"""Of which the launcher needs a part, also inside bubblewrap."""


@dataclass(frozen=True)
class Orders:
    """For all sandboxes of one data directory."""

    tier: Tier
    facts: Facts
    paths: PathManager
    environ: Mapping[str, str]
    needs: tuple[Path, ...]
    """Beside the system and the sandbox's own directories."""

    @property
    def outgoing(self) -> frozenset[int]:
        return reach.outgoing_ports(self.environ)

    @property
    def lent(self) -> frozenset[int]:
        return reach.lent_ports(self.environ)

    @functools.cached_property
    def own_resolver(self) -> bool:
        """Whether names are resolved by a server on this host's loopback, out of reach from a network."""
        return self.tier.network and reach.has_loopback_resolver(text(Path(reach.RESOLVER)))

    def network(self, settled: Settled) -> Iterator[tuple[str, str]]:
        """What the launcher is told of the network, as pairs."""
        if not self.tier.network:
            return
        box = settled.sandbox
        yield "network", probe.pasta() or "pasta"
        yield "helper", str(box.area.directory)
        # Not through pasta: that of 2023 forgets the end of what is sent in faster than it is read.
        tool = {*box.ports[:1]} - {0}
        yield from (("listen", str(port)) for port in tool)
        yield from (("publish", str(port)) for port in sorted({*box.ports} - {0} - tool))
        yield from (("borrow", str(port)) for port in sorted(self.lent))
        tables = (text(Path("/proc/net", name)) for name in ("fib_trie", "if_inet6"))
        shut = {*reach.host_addresses(*tables)} - reach.named_hosts(self.environ)
        yield from (("shut", address) for address in sorted(shut))
        if self.own_resolver:
            yield "forward", NAME_SERVER
            yield from () if self.tier.bwrap else (("resolver", str(resolver(box.area))),)

    def view(self, settled: Settled) -> Iterator[tuple[str, str]]:
        if not self.tier.view:
            return
        covers = probe.outermost([*self.facts.closed, *probe.closed([self.paths.base_dir]), "/tmp"])
        yield from (("cover", directory) for directory in covers)
        for path in (self.paths.base_dir, *self.needs):
            yield from (("keep", each) for each in sorted({str(path), str(path.resolve())}) if path.exists())
        yield "tmp", str(settled.sandbox.area.temporary)
        yield "passwd", str(accounts(settled.sandbox.area))

    def identity(self, settled: Settled) -> Iterator[tuple[str, str]]:
        if (whom := settled.identity) is not None:
            yield from (("uid", str(whom.uid)), ("gid", str(whom.uid)), ("group", str(whom.person)))

    def rules(self, settled: Settled) -> Iterator[tuple[str, str]]:
        if self.tier.landlock:
            yield "landlock", str(self.tier.landlock)
            yield from self._files(settled)
        if self.tier.ports:
            yield from (("bind", str(port)) for port in {0, *settled.sandbox.ports})
            own = {port for port in settled.sandbox.ports if port}
            yield from (("connect", str(port)) for port in sorted(self.outgoing | own))
        if self.tier.filter:
            yield "filter", os.uname().machine

    def inside(self, settled: Settled) -> bubblewrap.Inside:
        area = settled.sandbox.area
        shown = {"/etc/passwd": str(accounts(area))} if settled.identity is not None else {}
        if self.own_resolver:
            shown[str(Path(reach.RESOLVER).resolve())] = str(resolver(area))
        return bubblewrap.Inside(
            readable=tuple(map(str, [*self.readable(), *self._linked(), _OWN_PACKAGE])),
            writable=tuple(map(str, self._own(settled))),
            temporary=str(area.temporary),
            shown=shown,
            directory=str(area.directory),
            becomes_another=settled.identity is not None,
            root=self.facts.root,
        )

    def _linked(self) -> Iterator[Path]:
        """What is to be read and has another name: a link such as /lib, or a path that leads over one."""
        data = self.paths.base_dir.resolve()
        for path in (*map(Path, reach.SYSTEM), *self.needs):
            if path.exists() and path != path.resolve() and not data.is_relative_to(path.resolve()):
                yield path

    @staticmethod
    def _own(settled: Settled) -> tuple[Path, ...]:
        area = settled.sandbox.area
        return (settled.sandbox.root, area.home, area.temporary, area.state, settled.cache)

    def _files(self, settled: Settled) -> Iterator[tuple[str, str]]:
        yield from (("write", str(path)) for path in self._own(settled))
        yield from (("write", path) for path in ("/tmp", "/dev/shm") if self.tier.own_processes)
        yield from (("device", path) for path in reach.DEVICES)
        # Another's /proc/PID/oom_score_adj is this user's to write, unless each session has its own.
        yield ("device" if self.tier.users else "read"), "/proc"
        yield from (("read", str(path)) for path in self.readable())
        # There they are places of their own, not ways to others.
        yield from (("read", str(path)) for path in self._linked() if self.tier.bwrap)
        yield from (("list", str(path.parent)) for path in reach.package_directories())

    def readable(self) -> list[Path]:
        """Existing paths to read and run; of the data directory the tools' links and the shared packages."""
        data = self.paths.base_dir.resolve()
        wanted = [*map(Path, reach.SYSTEM), Path(reach.RESOLVER).resolve(), *self.needs]
        real = reach.distinct(path.resolve() for path in wanted if path.exists())
        system = (each for path in real for each in reach.carved(path, data))
        return [*system, self.paths.tools_dir, self.paths.store_dir]
