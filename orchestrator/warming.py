"""Templates' packages put into the shared dependency store, by a host for itself.

Each is installed in a sandbox of a data directory that exists for this alone: no user's cache, no user's
programs, the registry and the lock file's digests. Its dev server runs once, so that what it makes of its
packages comes along where that is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from orchestrator.backends.local import NAME as LOCAL
from orchestrator.client import Client
from orchestrator.dependency_store import SharedStore
from orchestrator.directories import private_directory, remove_tree
from orchestrator.launch import Observer
from orchestrator.paths import PathManager
from orchestrator.spares import SpareTrees, lock_digest
from orchestrator.workspace.host import WorkspaceHost
from protocol.errors import InvalidRequest, NotFound, ToolError

READY_SECONDS = 60.0
"""For a visit; the page has answered once already."""
_PACK = "dependencies.pack"


_CACHE = "node_modules/.vite/deps/_metadata.json"
_MAKING = "node_modules/.vite", "node_modules/.vite/deps_temp"
"""A directory, and how what Vite is at work in is called there; by its last step it becomes the cache."""
_CACHED = b"/node_modules/.vite/deps/"
"""What a script names when it loads out of the cache, made or not: then it will be made."""
_CACHE_SECONDS = 3.0
"""From a visit until Vite begins to make a cache that no script of the page names: many pages need none. When
quiet it is done after 0.3 s; one that is named, or that Vite is at work on, has ``READY_SECONDS``."""
_PAUSE_SECONDS = 0.1
_SCRIPT = re.compile(r'<script[^>]+src="(/[^"]+)"')


@dataclass(frozen=True)
class Warmed:
    """A template whose packages are in the store."""

    template: str
    key: str
    files: int
    content_bytes: int
    path: Path


async def warm(
    templates: Sequence[str],
    paths: PathManager,
    store: SharedStore,
    backend: str,
    environ: Mapping[str, str],
    directory: Path,
    observer: Observer,
) -> list[Warmed]:
    """One after the other; raises what the first one that fails would say to ``workspace up``.

    Raises InvalidRequest for a template whose packages are not to be kept.
    """
    above = private_directory(paths.base_dir / "cache")
    place = Path(tempfile.mkdtemp(prefix=".warming-", dir=above))
    try:
        async with WorkspaceHost(place, environ=environ, directory=directory) as host:
            shared = paths.store_dir
            return [await _warmed(host, each, store, shared, backend, observer) for each in templates]
    finally:
        remove_tree(place)


async def _visit(page: str, client: Client) -> None:
    """Have the page made with all that it loads: only then does Vite know what to optimise.

    Whatever fails here costs the cache, and nothing else.
    """
    import aiohttp

    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ToolError):
        async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as web:
            async with web.get(page) as response:
                scripts = _SCRIPT.findall(await response.text())
            named = False
            for script in scripts:
                async with web.get(urljoin(page, script)) as response:
                    named |= _CACHED in await response.read()
        async with asyncio.timeout(READY_SECONDS):
            await _cache_made(client, named)


async def _cache_made(client: Client, named: bool) -> None:
    """Until Vite has its cache, or is seen to need none. One that a script has ``named`` is needed."""
    loop = asyncio.get_running_loop()
    at_work = loop.time()
    while not await _is_there(client, _CACHE):
        if named or await _is_being_made(client):
            at_work = loop.time()
        elif loop.time() - at_work > _CACHE_SECONDS:
            return
        await asyncio.sleep(_PAUSE_SECONDS)


async def _is_there(client: Client, path: str) -> bool:
    try:
        await client.stat(path=path)
    except NotFound:
        return False
    return True


async def _is_being_made(client: Client) -> bool:
    directory, begins = _MAKING
    try:
        entries = (await client.list(path=directory)).entries
    except NotFound:
        return False
    return any(entry.path.startswith(begins) for entry in entries)


async def _warmed(
    host: WorkspaceHost, template: str, store: SharedStore, shared: Path, backend: str, observer: Observer
) -> Warmed:
    workspace = await host.create(template, backend=backend, keep_files=False, observer=observer)
    async with workspace:
        sessions = await host.sessions()
        async with sessions.client(workspace.hosted.record) as client:
            if workspace.preview_url is not None:
                await _visit(workspace.preview_url, client)
            packed = (await client.install(command="", pack_to=_PACK)).store
            if packed is None or packed.key is None:
                raise InvalidRequest(f"{template} has no packages to keep")
            path = await store.put(packed.key, client.get_file(_PACK))
    if backend == LOCAL and store.directory == shared:
        await _spare(host.source(template).path, packed.key, store, observer)
    return Warmed(template, packed.key, packed.files, packed.content_bytes, path)


async def _spare(template: Path, key: str, store: SharedStore, observer: Observer) -> None:
    """A tree for who comes first; to containers the store is another mount, which no tree can leave."""
    spares = SpareTrees(store.directory)
    if lock := await asyncio.to_thread(lock_digest, template):
        await asyncio.to_thread(spares.note, lock, key)
        if problem := await asyncio.to_thread(spares.make, key):
            observer.remark(problem)
