"""An install that need not happen: packages out of the dependency store, and into it.

How packages are kept is ``system.depstore``'s business; what a set of them is known by, ``depkey``'s. Here is
when: before an install the store is asked, and a while after one, when no dev server is about to start, it
gets what was installed. Whatever goes wrong with the store is told, and a real install happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import Conflict
from protocol.limits import Limits
from protocol.messages.base import Log
from protocol.messages.devserver import StoreOutcome, StoreUse
from protocol.package_managers import LOCK_FILES
from protocol.paths import ROOT, WorkspacePath, workspace_path
from protocol.templates import PACKAGE_FILE
from toolserver.system.copying import held
from toolserver.system.depstore.filling import Order, Unfit, fill
from toolserver.system.depstore.pack import CorruptPack, Index
from toolserver.system.depstore.placing import TREE, Placing
from toolserver.system.depstore.probing import Means, Probe
from toolserver.system.depstore.spares import NAME, Spares
from toolserver.system.depstore.store import Found, Store
from toolserver.system.disk import Disk
from toolserver.system.processes import ProcessTable
from toolserver.system.threads import whole
from toolserver.tools import depkey
from toolserver.tools.call import Call
from toolserver.tools.errands import finish
from toolserver.tools.installers import content, manager_version, platform_name, program
from toolserver.tools.project import look, read_files

log = logging.getLogger("toolserver.packages")

_PAUSE_SECONDS = 0.5
"""Between two looks at whether a dev server still starts."""
_ASK_NODE_SECONDS = 20.0
"""0.04 s when quiet."""
_VERSION = re.compile(r"v[0-9]+\.[0-9.]+[-+.\w]*")
_FLAGS = os.O_RDONLY | os.O_DIRECTORY
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Known:
    """A project whose packages the store may have."""

    key: str
    env: Mapping[str, str]
    manager: str
    seen: Mapping[str, tuple[int, int]]
    """Inode and change time, which no program can set, of each file that the key was made from."""


class Packages:
    """The store as installs use it."""

    def __init__(
        self,
        table: ProcessTable,
        disk: Disk,
        limits: Limits,
        store: Store,
        state_dir: Path,
        busy: Callable[[], bool],
    ) -> None:
        """``busy``: a dev server is starting, and is not to be disturbed."""
        self._table = table
        self._disk = disk
        self._limits = limits
        self._store = store
        self._given = Spares(state_dir / NAME)
        """Put there by the host, for this workspace alone."""
        self._busy = busy
        self._probe = Probe(disk.descriptor, state_dir)
        self._placing = Placing(disk.descriptor, str(disk.root), state_dir, self._probe)
        self._looking: asyncio.Task[None] | None = None
        self.means: Mapping[str, Sequence[Means]] = {}
        """Of each layer what the look at start found, the fastest first; empty until then."""
        self._nodes: dict[tuple[str, int, int], str] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._next: Coroutine[None, None, None] | None = None

    @property
    def on(self) -> bool:
        """Whether there is a store at all."""
        return bool(self._store.layers)

    async def look_soon(self, _: object = None) -> None:
        """Find out on a thread by what means packages can be put in place here; nobody waits for it."""
        if self.on:
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            self.means = await whole(self._probe.look, self._store, self._given)
        except OSError as error:
            # Nothing is lost: what is not known is tried when a pack is there.
            log.warning("dependency store not looked at", extra={"data": {"reason": str(error)}})
        else:
            log.info("means of the dependency store", extra={"data": {"means": self.means}})

    async def close(self) -> None:
        """Leave what is being kept."""
        self._store.stop.set()
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._next is not None:
            self._next.close()

    async def known(self, manager: str, env: Mapping[str, str], call: Call) -> Known | StoreUse:
        """The project as it is now; else why its packages are not kept."""
        complaints: list[str] = []
        known = await self._known(manager, env, complaints)
        await _tell(complaints, call)
        return known

    async def _known(self, manager: str, env: Mapping[str, str], complaints: list[str]) -> Known | StoreUse:
        seen = await asyncio.to_thread(self._seen)
        project = await self._project(manager, env)
        if reason := depkey.why_not(project):
            return StoreUse(outcome=StoreOutcome.OFF, reason=reason)
        tools = await self._tools(manager, project, env, complaints)
        if isinstance(tools, StoreUse):
            return tools
        return Known(depkey.key_of(project, tools, env), env, manager, seen)

    async def take(self, known: Known, call: Call) -> StoreUse:
        """Put the packages in place if the store has them."""
        complaints: list[str] = []
        begun = time.monotonic()
        # Whole: a thread that goes on would put them in place after a refusal.
        use = await whole(self._take, known.key, complaints)
        await _tell(complaints, call)
        if use.outcome is StoreOutcome.HIT:
            await call.emit(Log(source="install", text=_told(use, time.monotonic() - begun)))
            self._soon(self._prepare(known.key))
        return use

    def _take(self, key: str, complaints: list[str]) -> StoreUse:
        root = str(self._disk.root)
        for found in self._store.find(key, root, complaints):
            try:
                return self._placed(found, complaints)
            except CorruptPack as error:
                complaints.append(self._store.drop(found.layer, found.path, str(error)))
            except OSError as error:
                complaints.append(f"its packages could not be put in place: {error.strerror}")
        return StoreUse(outcome=StoreOutcome.MISS, key=key, reason="; ".join(complaints) or None)

    def _placed(self, found: Found, complaints: list[str]) -> StoreUse:
        spares = [self._given, *filter(None, [self._store.spares])]
        means = self._placing.place(found, spares, complaints)
        return StoreUse(
            outcome=StoreOutcome.HIT,
            key=found.key,
            layer=found.layer.name,
            means=means,
            files=found.index.files,
            content_bytes=found.index.content_bytes,
        )

    def keep_soon(self, known: Known) -> None:
        """What was just installed goes into the store, later and in nobody's way."""
        if self._store.own is not None:
            self._soon(self._keep(known, time.time_ns()))

    def _soon(self, work: Coroutine[None, None, None]) -> None:
        """One thing at a time: of what comes meanwhile the newest is next, for it is about what is there."""
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._quietly(work))
            return
        if self._next is not None:
            self._next.close()
        self._next = work

    async def _quietly(self, work: Coroutine[None, None, None] | None) -> None:
        while work is not None:
            try:
                await asyncio.sleep(self._limits.store_delay_ms / 1000)
                while self._busy():  # noqa: ASYNC110 - its states have no event
                    await asyncio.sleep(_PAUSE_SECONDS)
            except BaseException:
                work.close()
                raise
            await work
            work, self._next = self._next, None

    async def _keep(self, known: Known, installed_ns: int) -> None:
        if await asyncio.to_thread(self._seen) != known.seen:
            # They would be known by what somebody wrote since: wrong packages for the next workspace.
            log.info(
                "packages are not kept", extra={"data": {"reason": "what they are known by was changed"}}
            )
            return
        if self._store.has(known.key):
            return
        try:
            index = await whole(self._fill, known.key, installed_ns)
        except (Unfit, OSError) as error:
            log.info("packages are not kept", extra={"data": {"reason": str(error)}})
        else:
            told = {"key": known.key, "files": index.files, "bytes": index.content_bytes}
            log.info("packages are kept", extra={"data": told})
            await self._prepare(known.key)

    async def _prepare(self, key: str) -> None:
        """Packages unfolded for the next workspace, if there is a place for them."""
        try:
            await whole(self._make_spare, key)
        except (CorruptPack, Unfit, OSError) as error:
            log.info("no spare packages are made", extra={"data": {"key": key, "reason": str(error)}})
        else:
            log.info("spare packages are made", extra={"data": {"key": key}})

    def _make_spare(self, key: str) -> None:
        self._given.drop()  # given for packages that this workspace turned out not to have
        if (spares := self._store.spares) is not None:
            spares.tidy()
        if self._given.directory.exists():
            raise Unfit("the host has some")
        self._store.make_spare(key, str(self._disk.root))

    def _seen(self) -> dict[str, tuple[int, int]]:
        seen = {}
        for name in (PACKAGE_FILE, *LOCK_FILES, *depkey.SETTINGS):
            with contextlib.suppress(FileNotFoundError):
                info = os.stat(name, dir_fd=self._disk.descriptor, follow_symlinks=False)
                seen[name] = (info.st_ino, info.st_ctime_ns)
        return seen

    def _fill(self, key: str, installed_ns: int) -> Index:
        with held(os.open(TREE, _FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._disk.descriptor)) as tree:
            return self._store.fill(key, tree, str(self._disk.root), installed_ns)

    async def pack_to(self, raw: str, manager: str, env: Mapping[str, str], call: Call) -> StoreUse:
        """What is installed, as a pack in a new file; raises Conflict when it cannot be one."""
        path = self._disk.path(raw)
        known = await self.known(manager, env, call)
        if isinstance(known, StoreUse):
            raise Conflict(f"these packages cannot be kept: {known.reason}")
        index = await whole(self._pack, path)
        return StoreUse(
            outcome=StoreOutcome.OFF,
            key=known.key,
            files=index.files,
            content_bytes=index.content_bytes,
            reason="packed as asked",
        )

    def _pack(self, path: WorkspacePath) -> Index:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        tree = workspace_path(TREE)
        with self._disk.opened(tree, _FLAGS) as source, self._disk.parent(path) as (above, name):
            try:
                out = os.open(name, flags, 0o644, dir_fd=above)
            except FileExistsError:
                raise Conflict(f"{path!r} exists already; 'packTo' names a new file", path=path) from None
            order = Order(source, str(self._disk.root), time.time_ns(), self._store.max_bytes)
            try:
                with held(out):
                    return fill(order, out)
            except Unfit as error:
                os.unlink(name, dir_fd=above)
                raise Conflict(f"these packages cannot be kept: {error}") from None

    async def _project(self, manager: str, env: Mapping[str, str]) -> depkey.Project:
        project = await look(self._disk)
        lock = next((n for n, whose in LOCK_FILES.items() if whose == manager and n in project.names), None)
        files = await read_files(self._disk, [name for name in (lock, *depkey.SETTINGS) if name])
        settings = {name: data for name, data in files.items() if name in depkey.SETTINGS}
        own = await asyncio.to_thread(content, Path(env.get("HOME") or "/nonexistent") / ".npmrc")
        return depkey.Project(
            package=project.package or {},
            lock_name=lock,
            lock=files.get(lock, b"") if lock else b"",
            settings={**settings, **({"~": own} if own else {})},
            names=project.names,
        )

    async def _tools(
        self, manager: str, project: depkey.Project, env: Mapping[str, str], complaints: list[str]
    ) -> depkey.Tools | StoreUse:
        node = await self._node(env, complaints)
        version = await asyncio.to_thread(manager_version, manager, env)
        if node is None or version is None:
            reason = f"there is no {manager if node else 'node'} on PATH"
            return StoreUse(outcome=StoreOutcome.OFF, reason=reason)
        return depkey.Tools(version, node, platform_name())

    async def _node(self, env: Mapping[str, str], complaints: list[str]) -> str | None:
        """Its version: as noted by an earlier session, else asked of it, which takes 40 ms and is noted."""
        found = await asyncio.to_thread(program, "node", env)
        if found is None or found in self._nodes:
            return found and self._nodes[found]
        identity = hashlib.sha256(repr(found).encode()).hexdigest()
        noted = await asyncio.to_thread(self._store.note, identity, complaints)
        version = noted or await self._ask(found[0], env)
        if version:
            self._nodes[found] = version
            await asyncio.to_thread(self._store.note_down, identity, version)
        return version

    async def _ask(self, node: str, env: Mapping[str, str]) -> str | None:
        """As a command of the workspace: the program may be its own."""
        cwd = await asyncio.to_thread(self._disk.directory, ROOT)
        process = await self._table.start_soon([node, "-p", "process.version"], cwd=cwd, env=env, merged=True)
        try:
            async with asyncio.timeout(_ASK_NODE_SECONDS):
                end = await process.wait()
                await process.stdout.wait_settled()
            said = process.stdout.read(0, 100).data.decode(errors="replace").strip()
            return said if end.code == 0 and _VERSION.fullmatch(said) else None
        except TimeoutError:
            return None
        finally:
            await finish(self._table, process)


async def _tell(complaints: list[str], call: Call) -> None:
    for complaint in complaints:
        log.warning("dependency store", extra={"data": {"complaint": complaint}})
        await call.emit(Log(source="install", text=f"dependency store: {complaint}\n"))


def _told(use: StoreUse, seconds: float) -> str:
    size = f"{use.content_bytes / _MIB:.1f} MiB"
    return (
        f"packages taken from the {use.layer} dependency store by {use.means}: "
        f"{use.files} files, {size} in {seconds * 1000:.0f} ms\n"
    )
