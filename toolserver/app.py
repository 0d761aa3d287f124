"""The wiring: the only file that knows every room.

``open_app`` builds the daemon out of a ``Config`` and gives it back running; leaving the context ends
everything that it started, in order: doors, dev server, commands, disk.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web

from protocol import routes
from protocol.limits import Limits
from protocol.messages.devserver import DevState
from protocol.paths import RESERVED
from toolserver import logs
from toolserver.config import VARIABLES, Config
from toolserver.system import edit_journal, manifests, swap, tree
from toolserver.system.checkpoint_store import Store as CheckpointStore
from toolserver.system.depstore.probing import discard_litter
from toolserver.system.depstore.store import Layer, Store
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.lag import Lag
from toolserver.system.processes import ProcessTable
from toolserver.system.pulse import Pulse
from toolserver.system.separation import Separation, places_of
from toolserver.system.token_memory import TokenMemory
from toolserver.system.trail import Trail
from toolserver.system.trust import combined_bundle
from toolserver.system.users import work_as
from toolserver.system.watcher import Watcher
from toolserver.tools.access import Access
from toolserver.tools.activity import Activities, Standing
from toolserver.tools.archives import Archives
from toolserver.tools.auditing import Auditing
from toolserver.tools.call import Dispatcher
from toolserver.tools.checkpoints import CheckpointFamily
from toolserver.tools.commands import Commands
from toolserver.tools.devserver import DevServer
from toolserver.tools.devview import DevView
from toolserver.tools.diagnostics import Diagnostics
from toolserver.tools.edit import Edits
from toolserver.tools.files import Files
from toolserver.tools.install import Installs
from toolserver.tools.ledger import Ledger
from toolserver.tools.locks import PathLocks
from toolserver.tools.names import Names
from toolserver.tools.packages import Packages
from toolserver.tools.places import Places
from toolserver.tools.presence import Presence
from toolserver.tools.processes import ProcessControl
from toolserver.tools.raw import RawFiles
from toolserver.tools.reads import Reads
from toolserver.tools.renewal import Renewal
from toolserver.tools.replace import Replaces
from toolserver.tools.search import Searches, find_ripgrep
from toolserver.tools.separation import Separations
from toolserver.tools.shell import package_caches, workspace_environment
from toolserver.tools.shells import KeptShells
from toolserver.tools.start import Starts
from toolserver.tools.terminals import SharedTerminals
from toolserver.tools.tokens import Tokens
from toolserver.tools.undo import Undoing
from toolserver.tools.watch import Watches
from toolserver.wire import archive, pages, raw
from toolserver.wire.browsers import answering
from toolserver.wire.connections import Runner, raise_open_files
from toolserver.wire.counting import counting
from toolserver.wire.guard import Guard
from toolserver.wire.hmr import DevChannel
from toolserver.wire.http import PRESENCE, middleware, operation_handler
from toolserver.wire.mcp import mcp_handler
from toolserver.wire.metrics import metrics
from toolserver.wire.ws import WebSocketDoor

_SHUTDOWN_SECONDS = 1.0
"""For answers under way when the daemon stops; commands then have their own grace."""

log = logging.getLogger("toolserver")


@dataclass(frozen=True)
class Running:
    """A daemon that listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True)
class _Entrance:
    """What every request passes."""

    guard: Guard
    access: Access
    ledger: Ledger

    def application(self, pulse: Pulse, limits: Limits) -> web.Application:
        """Without a door yet."""
        app = web.Application(
            middlewares=[middleware(self.guard, self.ledger, limits), counting(pulse)],
            client_max_size=limits.max_frame_bytes,
        )
        app[PRESENCE] = self.access.presence
        app.on_response_prepare.append(answering(self.guard))
        return app


@asynccontextmanager
async def open_app(config: Config, environ: Mapping[str, str], tool_path: str) -> AsyncIterator[Running]:
    """A daemon. ``environ`` is what commands may inherit from; ``tool_path`` is where ripgrep is."""
    begun = time.monotonic()
    raise_open_files(config.limits.max_open_files)
    # Before hiding, which makes our own files in /proc root's: see tree.Handicap.
    table = ProcessTable(config.limits, config.state_dir)
    if config.command_user is not None:
        work_as(config.command_user, (config.root, config.state_dir))
    tree.hide_memory_and_environ()
    await asyncio.to_thread(prepare_directories, config, package_caches(environ))
    if config.extra_ca_bundle is not None:
        bundle = await asyncio.to_thread(combined_bundle, config.extra_ca_bundle, config.state_dir)
        config = replace(config, extra_ca_bundle=bundle)
    async with AsyncExitStack() as stack:
        disk = Disk(config.root, config.limits)
        stack.callback(disk.close)
        table.open(_separation(config, environ))
        stack.push_async_callback(_end_all, table)
        memory = await asyncio.to_thread(TokenMemory, config.state_dir, config.limits.max_spent_tokens)
        tokens = Tokens(memory, config.public_keys, config.session_id)
        ledger = await _open_ledger(config, tokens, stack)
        guard = Guard(config.token, config.token_sha256, tokens, config.allowed_hosts, config.allowed_origins)
        entrance = _Entrance(guard, Access(tokens, Presence(tokens.is_revoked)), ledger)
        web_app = _assemble(config, environ, tool_path, disk, table, stack, begun, entrance)
        running = await _listen(web_app, config, stack, ledger)
        log.info("listening", extra={"data": {"url": running.url, "root": str(config.root)}})
        if not config.guarded:
            log.warning("no token is set: every program on this machine may use this tool server")
        yield running
        log.info("stopping")


def _separation(config: Config, environ: Mapping[str, str]) -> Separation:
    bundle = [config.extra_ca_bundle] if config.extra_ca_bundle is not None else []
    shown = [KeptShells.area(config.state_dir), *bundle]
    stores = [config.store_dir] if config.store_dir is not None else []
    hidden = [config.state_dir, *stores, *config.shared_stores]
    places = places_of(hidden, config.root, shown, config.reach, environ)
    return Separation(config.separation, places, config.command_user)


def prepare_directories(config: Config, caches: Iterable[Path]) -> None:
    """Make root and state directory, and finish or undo what a killed injection or edit has left.

    ``caches`` are made too: beside what commands do not see they could make nothing (``domain.rules``).
    """
    config.root.mkdir(parents=True, exist_ok=True)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    KeptShells.area(config.state_dir).mkdir(mode=0o700, exist_ok=True)
    for beside in (config.state_dir, config.root / RESERVED):
        discard_litter(beside)
    # Trash may be a whole tree: it is taken apart once the daemon is up.
    outcome = swap.recover(config.root, config.state_dir, stop=lambda: True)
    manifests.sweep(config.state_dir)
    edits = [each.value for each in edit_journal.recover(config.root, config.state_dir)]
    for cache in caches:
        with suppress(OSError):  # of a command that tries it again, the error is told
            cache.mkdir(parents=True, exist_ok=True)
    log.info("directories ready", extra={"data": {"recovery": str(outcome), "edits": edits}})


async def _open_ledger(config: Config, tokens: Tokens, stack: AsyncExitStack) -> Ledger:
    auditing = Auditing(config.limits, Trail(config.state_dir, config.limits.max_audit_bytes))
    await asyncio.to_thread(auditing.remember)
    stack.push_async_callback(auditing.close)
    lag = Lag(auditing.write_soon)
    lag.begin()
    stack.callback(lag.end)
    return Ledger(config.limits, auditing, lag, tokens.is_revoked)


def _assemble(
    config: Config,
    environ: Mapping[str, str],
    tool_path: str,
    disk: Disk,
    table: ProcessTable,
    stack: AsyncExitStack,
    begun: float,
    entrance: _Entrance,
) -> web.Application:
    limits, gate, locks, ledger, pulse = config.limits, Gate(), PathLocks(), entrance.ledger, Pulse()
    env = workspace_environment(environ, VARIABLES, config.extra_ca_bundle)
    commands = Commands(table, disk, env, limits)
    stack.push_async_callback(commands.close)
    control = ProcessControl(table, limits)
    stack.push_async_callback(control.close)
    shells = KeptShells(table, disk, env, limits, config.state_dir)
    stack.push_async_callback(shells.close)
    dev = DevServer(table, disk, env, limits, _dev_host(config), config.dev_port)
    stack.push_async_callback(dev.close)
    packages = Packages(
        table, disk, limits, _store(config), config.state_dir, lambda: dev.state is DevState.STARTING
    )
    stack.push_async_callback(packages.close)
    installs = Installs(table, disk, env, limits, packages)
    diagnostics = Diagnostics(dev, disk, DevChannel())
    stack.push_async_callback(diagnostics.close)
    archives = Archives(disk, config.state_dir, gate, limits, replacing=dev.leaving)
    stack.push_async_callback(archives.close)
    store = CheckpointStore(config.state_dir, limits)
    undoing = Undoing(disk, store, limits)
    places = Places(disk, config.state_dir, gate, locks, limits, undoing.kept)
    stack.push_async_callback(places.close)
    watcher = Watcher(disk.descriptor, limits)
    stack.push_async_callback(watcher.close)
    watches = Watches(watcher, disk)
    checkpoints = CheckpointFamily(disk, config.state_dir, gate, watcher, store, undoing, limits)
    stack.push_async_callback(checkpoints.close)
    searches = Searches(table, disk, limits, find_ripgrep(tool_path), env, Names(watcher, disk, limits))
    renewal = Renewal(watcher, disk, dev, installs, limits)
    stack.push_async_callback(renewal.close)
    starts = Starts(archives, installs, dev)
    stack.push_async_callback(starts.close)
    edits = Edits(disk, config.state_dir, gate, locks, limits, watches.mark, undoing.kept, diagnostics)
    dispatcher = Dispatcher(
        SharedTerminals(table, disk, env, limits),
        watches,
        places,
        checkpoints,
        diagnostics,
        Reads(disk, gate, limits),
        Files(disk, gate, locks, limits, undoing.kept, diagnostics),
        searches,
        edits,
        Replaces(searches, edits, disk, limits),
        commands,
        control,
        shells,
        archives,
        installs,
        dev,
        DevView(dev),
        starts,
        Separations(lambda: table.separation, lambda: table.held),
        Activities(
            table,
            pulse,
            lambda: Standing(dev.process_id, shells.process_ids),
            lambda: dev.port,
            watches.changed,
        ),
        ledger.auditing,
        entrance.access,
        pulse=pulse,
        ledger=ledger,
        around=watches.around,
    )
    socket_door = WebSocketDoor(dispatcher, entrance.access, limits)
    app = entrance.application(pulse, limits)
    app.on_shutdown.append(socket_door.close)
    app.on_startup.extend((packages.look_soon, places.tidy_soon))
    app.router.add_get(routes.HEALTH, pages.health(begun))
    app.router.add_get(routes.READY, pages.ready(begun, disk, dev, installs))
    app.router.add_get(routes.PAGE, pages.index)
    app.router.add_get(routes.OPENAPI, pages.openapi)
    app.router.add_get(routes.METRICS, metrics(ledger, pulse, table, dev, packages, logs.dropped_lines))
    app.router.add_get(routes.WEBSOCKET, socket_door.handle)
    app.router.add_put(routes.ARCHIVE, archive.put(archives, limits, watches.mark, ledger))
    app.router.add_get(routes.ARCHIVE, archive.get(archives, ledger))
    app.router.add_get(routes.MANIFEST, archive.manifest(archives, ledger))
    files = RawFiles(disk, config.state_dir, gate, locks, limits, undoing.kept)
    raw.add_routes(app.router, files, limits, watches.mark, ledger)
    app.router.add_post(routes.MCP, mcp_handler(dispatcher, limits))
    app.router.add_post(routes.OPERATION, operation_handler(dispatcher, limits))
    return app


async def _listen(app: web.Application, config: Config, stack: AsyncExitStack, ledger: Ledger) -> Running:
    # A handler whose client is gone is cancelled: otherwise searches and waits would go on for nobody.
    runner = Runner(
        app, config.limits, ledger.hit, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await _site(runner, config).start()
    host, port = runner.addresses[0][:2]
    return Running(host, port)


def _site(runner: web.AppRunner, config: Config) -> web.BaseSite:
    if config.listen_fd is None:
        return web.TCPSite(runner, config.host, config.port)
    listener = socket.socket(fileno=config.listen_fd)
    # No command is to have it: whoever accepts on it would be given our clients' tokens.
    listener.set_inheritable(False)
    return web.SockSite(runner, listener)


async def _end_all(table: ProcessTable) -> None:
    if survivors := await table.close():
        log.error("processes would not end", extra={"data": {"pids": survivors}})


def _store(config: Config) -> Store:
    # One that is not there is nothing to ask about at every install.
    shared = tuple(Layer(each, shared=True) for each in config.shared_stores if each.is_dir())
    own = () if config.store_dir is None else (Layer(config.store_dir, shared=False),)
    return Store((*shared, *own), config.limits.max_store_bytes, config.limits.max_spares)


def _dev_host(config: Config) -> str:
    """Dev servers are as reachable as the tool server itself, and no more."""
    return "127.0.0.1" if config.loopback else "0.0.0.0"
