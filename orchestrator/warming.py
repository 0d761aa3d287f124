"""Templates' packages put into the shared dependency store, by a host for itself.

Each is installed in a sandbox of a data directory that exists for this alone: no user's cache, no user's
programs, the registry and the lock file's digests. Its dev server runs once, so that what it makes of its
packages comes along where that is safe.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.dependency_store import SharedStore
from orchestrator.directories import private_directory, remove_tree
from orchestrator.launch import Observer
from orchestrator.paths import PathManager
from orchestrator.workspace.host import WorkspaceHost
from protocol.errors import InvalidRequest

_PACK = "dependencies.pack"


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
            return [await _warmed(host, each, store, backend, observer) for each in templates]
    finally:
        remove_tree(place)


async def _warmed(
    host: WorkspaceHost, template: str, store: SharedStore, backend: str, observer: Observer
) -> Warmed:
    workspace = await host.create(template, backend=backend, keep_files=False, observer=observer)
    async with workspace:
        sessions = await host.sessions()
        async with sessions.client(workspace.hosted.record) as client:
            packed = (await client.install(command="", pack_to=_PACK)).store
            if packed is None or packed.key is None:
                raise InvalidRequest(f"{template} has no packages to keep")
            path = await store.put(packed.key, client.get_file(_PACK))
    return Warmed(template, packed.key, packed.files, packed.content_bytes, path)
