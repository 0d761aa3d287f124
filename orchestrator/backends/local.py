"""Sandboxes without Docker: one daemon process per workspace, on this host.

The daemon is started by command line, never imported: the wall stays a wall. ``guest.json`` in the session's
area (``local_place``) is the label by which any orchestrator finds the daemon again; the process is told from
a later one of the same id by its start time. What keeps workspaces apart is the business of
``orchestrator.isolation``; it depends on the host, and ``properties`` says what holds on this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator import processes
from orchestrator.backends import Destroyed, Endpoint, Guest, GuestState, Host, Launch, Properties, guest_id
from orchestrator.backends.environment import area_marker, host_environment, sandbox_environment
from orchestrator.backends.local_daemons import Daemons, Start
from orchestrator.backends.local_nursery import Nursery
from orchestrator.backends.local_place import LABEL_FILE, PID, STARTED, WRAPPER, Place, observed, read_label
from orchestrator.backends.local_provision import provision_home
from orchestrator.backends.turns import Turns
from orchestrator.directories import give_tree
from orchestrator.isolation.isolation import Isolation, Setting, yes
from orchestrator.isolation.sandbox import Sandbox, Settled
from orchestrator.paths import PathManager
from orchestrator.spares import SpareTrees
from protocol.errors import Busy, Unavailable

T = TypeVar("T")

NAME = "local"
DAEMON = "toolserver"
PREFORK_VARIABLE = "WORKSPACE_PREFORK"
HOST = "127.0.0.1"

MEMORY = "addresses in memory: tool servers that are forked share their layout, canaries and hash seed"

START_SECONDS = 60.0
"""From exec to ``listening on``; 0.4 s when quiet. The rest is for a machine on which others start too."""
TERM_SECONDS = 10.0
"""The daemon ends its own commands within this after TERM; also what a container engine gives."""
KILL_SECONDS = 5.0
"""KILL takes effect at once, but for a process stuck in the kernel, which is then reported."""

_LISTENING = re.compile(rb"listening on http://\S+:(\d+)\s*\n")
_LOST_PORT = re.compile(r"(?:Failed to bind any port for '-t 127\.0\.0\.1/|port (?=\d+ is taken))(\d+)")
"""What the way into a network of its own says of a port that another program took since it was chosen."""
MISSED_SECONDS = 30.0
"""Between two orders of a spare tree that was missed: it takes 10 s and what the tree takes."""


@dataclass(frozen=True)
class Settings:
    """What is the same for all sandboxes of this backend."""

    environ: Mapping[str, str]
    """The host's environment, of which an allowlist is handed on."""
    tools: Path | None = None
    """A directory with node, npm and rg, to be first on PATH."""
    command: tuple[str, ...] = (sys.executable, "-P", "-m", DAEMON)
    """The daemon. -P: the directory it starts in is no place to import from."""
    term_seconds: float = TERM_SECONDS
    isolation: Setting = field(default_factory=Setting)
    prefork: bool = False
    """Tool servers are forked from a process that has loaded them: for a host that begins many."""


def open_backend(host: Host) -> LocalBackend:
    """As the entry point names it."""
    isolation = Setting.from_env(host.environ)
    prefork = yes(host.environ, PREFORK_VARIABLE)
    return LocalBackend(
        host.paths,
        Settings(environ=host.environ, tools=host.tools, isolation=isolation, prefork=prefork),
    )


class LocalBackend:
    """The reference backend."""

    name = NAME

    def __init__(self, paths: PathManager, settings: Settings) -> None:
        self._paths = paths
        self._settings = settings
        self._turns = Turns()
        self._isolation = Isolation.choose(
            settings.isolation, paths, settings.environ, settings.tools, settings.command
        )
        self._missed: dict[str, float] = {}
        """When a spare tree that was missed was last ordered, by the key of its packages."""
        self._daemons = Daemons(self._nursery() if self._forks else None)

    @property
    def properties(self) -> Properties:
        """What holds here: found out at the start."""
        promises = self._isolation.promises
        return Properties(
            isolates_files=promises.files,
            isolates_processes=promises.processes,
            isolates_network=promises.network,
            keeps_files=True,
            survives_host_restart=False,
            isolation=self._isolation.tier.name,
            left_open=(*self._isolation.left_open, *((MEMORY,) if self._forks else ())),
        )

    async def create(self, launch: Launch) -> Guest:
        """Make the directories, start the daemon, wait until it listens."""
        guest = Guest(
            id=guest_id(launch.user_id, launch.session_id),
            backend=NAME,
            user_id=launch.user_id,
            session_id=launch.session_id,
            tool_port=launch.tool_port,
            dev_port=launch.dev_port,
        )
        self._isolation.refuse_ports((launch.tool_port, launch.dev_port))
        place = Place.of(self._paths, guest.id)
        made = False

        def make() -> None:
            nonlocal made
            place.make(launch.existing)
            made = True

        try:
            await _to_the_end(make)
            async with self._turns:
                with self._tool_port(launch) as told:
                    guest = await _to_the_end(self._spawned, guest, told, place)
                    port = await self._listening_port(guest, place)
            guest = msgspec.structs.replace(guest, tool_port=port, labels=self._labels(guest, place))
            await _to_the_end(place.write_label, guest)
        except BaseException:
            # Also when cancelled: an orphan would hold the port, and nobody would know of it. But not what
            # another one has made, and not the files that were there before.
            if made:
                await asyncio.shield(self._undone(guest, place, launch.existing))
            raise
        return guest

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        """TERM to the daemon, then KILL to all that is left of the sandbox; then the directories."""
        place = Place.of(self._paths, guest_id)
        if not await asyncio.to_thread(place.exists):
            return Destroyed(found=False)
        killed, survivors = await self._end(await asyncio.to_thread(place.read_label), place)
        await asyncio.to_thread(place.remove, keep_files)
        kept = str(place.root) if keep_files else None
        return Destroyed(found=True, killed=killed, survivors=tuple(sorted(survivors)), kept=kept)

    async def guests(self) -> list[Guest]:
        """By their labels."""
        return await asyncio.to_thread(self._guests)

    def endpoint(self, guest: Guest, port: int) -> Endpoint:
        """Loopback: a port inside is the same port outside."""
        return Endpoint(url=f"http://{HOST}:{port}")

    def _guests(self) -> list[Guest]:
        self._daemons.reap()
        labels = sorted(self._paths.base_dir.glob(f"workspaces/*/.*/{LABEL_FILE}"))
        found = (read_label(label) for label in labels)
        return [observed(guest) for guest in found if guest is not None]

    @property
    def _forks(self) -> bool:
        return self._settings.prefork and not self._isolation.tier.bwrap

    def _nursery(self) -> Nursery:
        log = self._paths.base_dir / "nursery.log"
        return Nursery(DAEMON, host_environment(self._settings.environ), log)

    @contextlib.contextmanager
    def _tool_port(self, launch: Launch) -> Iterator[Launch]:
        """With a number, where a network of its own needs one in advance.

        The port is bound here meanwhile, so that nobody is given it; that keeps no one from listening who,
        like us, says that the address may be in use.
        """
        if launch.tool_port or not self._isolation.tier.network:
            yield launch
            return
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((HOST, 0))
            yield dataclasses.replace(launch, tool_port=holder.getsockname()[1])

    def _labels(self, guest: Guest, place: Place) -> dict[str, str]:
        """Those of a daemon that runs: it may be another process than the one that we started."""
        if (pid := self._isolation.leader(place.area)) is None:
            return guest.labels
        seen = processes.look_up(pid)
        wrapper = f"{guest.labels[PID]}:{guest.labels[STARTED]}"
        return {PID: str(pid), STARTED: str(seen.started if seen else 0), WRAPPER: wrapper}

    def _settled(self, launch: Launch, place: Place) -> Settled:
        # Only now that our own directories are there: of two users who begin at once, one sees the other.
        self._isolation.refuse_company(launch.user_id, place.area)
        cache = self._paths.cache_dir(launch.user_id, "npm").parent
        ports = (launch.tool_port, launch.dev_port)
        owner = place.root.stat().st_uid
        settled = self._isolation.settle(Sandbox(launch.user_id, place.root, place.area, cache, ports))
        if launch.existing and settled.identity is not None and settled.identity.uid != owner:
            give_tree(place.root, settled.identity.uid)
        return settled

    def _spawned(self, guest: Guest, launch: Launch, place: Place) -> Guest:
        settled = self._settled(launch, place)
        provision_home(launch.plan, place.area.home, place.root, settled.identity)
        owner = settled.identity.uid if settled.identity else None
        spares = SpareTrees(self._paths.store_dir)
        # Out of a view the root is a mount of its own, which no tree can be moved into.
        lock = "" if self._isolation.tier.bwrap else launch.lock
        spare = spares.reserve(lock, place.area, owner)
        if spare is None:
            guest = self._begun(guest, launch, place, settled)
            self._refill(spares, self._lacking(spares, lock), place)
            return guest
        try:
            guest = self._begun(guest, launch, place, settled)
            # While it starts: that takes longer.
            with contextlib.suppress(OSError):
                spare.hand_over()
            return guest
        finally:
            spare.close()
            self._refill(spares, spare.key, place)

    async def _undone(self, guest: Guest, place: Place, keep_files: bool) -> None:
        await asyncio.to_thread(self._take_back, guest, place)
        await self.destroy(guest.id, keep_files=keep_files)

    def _take_back(self, guest: Guest, place: Place) -> None:
        """Its spare tree, for whoever begins next: mostly the same one, on another port."""
        with contextlib.suppress(OSError):
            if PID in guest.labels and not self._runs(guest) and self._isolation.never_ran(place.area):
                SpareTrees(self._paths.store_dir).take_back(place.area)

    def _refill(self, spares: SpareTrees, key: str, place: Place) -> None:
        with contextlib.suppress(OSError), place.log.open("ab") as stderr:
            if key:
                self._daemons.leave(spares.refill(key, stderr))

    def _begun(self, guest: Guest, launch: Launch, place: Place, settled: Settled) -> Guest:
        # Its first line goes to a file, not into a pipe: it outlives us, and must not then write to nobody.
        with place.log.open("ab") as stderr, place.stdout.open("wb") as stdout:
            pid, started = self._daemons.begin(
                Start(
                    program=self._isolation.command(settled, self._settings.command),
                    command=self._settings.command,
                    words=self._isolation.words(settled),
                    environ=self._environment(launch, place, settled),
                    directory=place.area.directory,
                    out=stdout,
                    error=stderr,
                )
            )
        labels = {PID: str(pid), STARTED: str(started)}
        guest = msgspec.structs.replace(guest, labels=labels)
        place.write_label(guest)
        return guest

    def _lacking(self, spares: SpareTrees, lock: str) -> str:
        """What nobody replaces, as far as we know; of many who miss it at once the first one sees to it."""
        now, key = time.monotonic(), spares.lacking(lock)
        if not key or now - self._missed.get(key, -MISSED_SECONDS) < MISSED_SECONDS:
            return ""
        self._missed[key] = now
        return key

    def _environment(self, launch: Launch, place: Place, settled: Settled) -> dict[str, str]:
        settings = self._settings
        base = sandbox_environment(
            settings.environ, place.area, settled.cache, settings.tools, launch.session_id
        )
        return {
            **base,
            "PATH": self._isolation.search_path(base["PATH"]),
            **self._isolation.told(settled),
            **launch.environment,
            "TOOL_SERVER_HOST": HOST,
            "TOOL_SERVER_PORT": str(launch.tool_port),
            **launch.access,
            "TOOL_SERVER_STATE_DIR": str(place.area.state),
            "TOOL_SERVER_STORE_DIR": str(settled.cache / "store"),
            "TOOL_SERVER_SHARED_STORE": str(self._paths.store_dir),
            "WORKSPACE_ROOT": str(place.root),
            "DEV_SERVER_PORT": str(launch.dev_port),
        }

    async def _listening_port(self, guest: Guest, place: Place) -> int:
        def told() -> re.Match[bytes] | None:
            return _LISTENING.match(place.stdout.read_bytes())

        await processes.wait_until(lambda: bool(told()) or not self._runs(guest), START_SECONDS)
        if found := await asyncio.to_thread(told):
            return int(found[1])
        how = f"was not up after {START_SECONDS:g} s" if self._runs(guest) else "ended at once"
        lines = await asyncio.to_thread(place.last_lines)
        if (lost := _LOST_PORT.search("\n".join(lines[-1:]))) is not None:
            port = int(lost[1])
            raise Busy(f"port {port} was taken by another program meanwhile", lost_port=port)
        raise Unavailable(
            f"the tool server {how}: {lines[-1] if lines else 'it said nothing'} (its log is {place.log})",
            log=str(place.log),
            output=lines,
        )

    async def _end(self, guest: Guest | None, place: Place) -> tuple[int, set[int]]:
        """How many had to be killed, and who could not be."""
        marked, leader = area_marker(place.area), None
        family: set[tuple[int, int]] = set()
        if guest is not None:
            await processes.wait_until(lambda: not self._enters_network(guest, place), KILL_SECONDS)
        around = await asyncio.to_thread(self._around, guest, place)
        if guest is not None and self._runs(guest):
            leader = int(guest.labels[PID])
            # Whom it started is asked before it goes: afterwards they are nobody's children.
            family = await asyncio.to_thread(processes.family, marked, leader)
            processes.send([leader], signal.SIGTERM)
            await processes.wait_until(lambda: not self._runs(guest), self._settings.term_seconds)

        def inside() -> set[int]:
            found = processes.members(marked, leader) | processes.still_running(family)
            return found - {pid for pid, _ in around}

        killed, survivors = await processes.kill_all(inside, KILL_SECONDS)
        await processes.wait_until(lambda: not self._still_around(around), KILL_SECONDS)
        more, stuck = await processes.kill_all(lambda: self._still_around(around), KILL_SECONDS)
        return killed + more, survivors | stuck

    def _runs(self, guest: Guest) -> bool:
        self._daemons.reap()
        return observed(guest).state is GuestState.RUNNING

    def _enters_network(self, guest: Guest, place: Place) -> bool:
        """Whether who is to serve it from outside is not known yet: ended now, it would leave that behind."""
        known = not self._isolation.tier.network or self._isolation.helpers(place.area)
        return not known and not place.has_listened() and self._runs(guest)

    def _around(self, guest: Guest | None, place: Place) -> set[tuple[int, int]]:
        """What serves the sandbox from outside, and ends by itself when the daemon has."""
        pid, _, started = (guest.labels if guest else {}).get(WRAPPER, "").partition(":")
        wrapper = {(int(pid), int(started))} if pid else set()
        return wrapper | self._isolation.helpers(place.area)

    def _still_around(self, around: set[tuple[int, int]]) -> set[int]:
        self._daemons.reap()
        return processes.still_running(around)


async def _to_the_end(work: Callable[..., T], *arguments: object) -> T:
    """Like ``to_thread``, but a cancellation waits: a thread goes on, and what it makes is to be removed."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # nobody else asks for it
        raise
