"""Sandboxes as containers of the core image, on this machine's Docker engine.

The engine is the only memory: a container's labels say whose it is, so any orchestrator of the same data
directory finds it again. Content goes to the tool server over HTTP, as everywhere; or it is in an image of
its own, which is made for one container and goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orchestrator.backends import Destroyed, Endpoint, Guest, GuestState, Host, Launch, Properties, guest_id
from orchestrator.backends.docker_container import (
    ADDRESS,
    CONTAINER,
    LOOPBACK,
    NAME,
    OWNER,
    PUBLISHED,
    SESSION,
    USER,
    Settings,
    container_config,
    container_name,
    derived_tag,
    guest_of,
    labels_of,
    plan_of,
    split_guest_id,
)
from orchestrator.backends.docker_engine import Engine, open_engine
from orchestrator.backends.docker_provision import provision
from orchestrator.backends.turns import Turns
from orchestrator.dependency_store import SharedStore
from orchestrator.derived_image import build_context
from orchestrator.directories import private_directory
from orchestrator.paths import PathManager
from protocol.errors import AlreadyExists, Conflict, NotFound, Unavailable
from protocol.routes import HEALTH

if TYPE_CHECKING:
    import aiohttp

PROPERTIES = Properties(
    isolates_files=True,
    isolates_processes=True,
    isolates_network=True,
    keeps_files=False,
    survives_host_restart=False,
    makes_images=True,
    revives=True,
)

START_SECONDS = 60.0
"""From the container's start to /health: 0.5 s when quiet. The rest is for fifty that start at once."""
STOP_SECONDS = 10
"""What the engine waits between TERM and KILL; the daemon ends its own commands within it."""
_POLL_SECONDS = 0.03
_PROBE_SECONDS = 5.0
_LOG_LINES = 20
_KILLED = 128 + 9


def open_backend(host: Host) -> DockerBackend:
    """As the entry point names it."""
    store = host.paths.store_dir
    return DockerBackend(host.paths, replace(Settings.from_env(host.environ), shared_store=store))


class DockerBackend:
    """One data directory's containers."""

    name = NAME
    properties = PROPERTIES

    def __init__(self, paths: PathManager, settings: Settings) -> None:
        self._owner = _Owner(paths.base_dir / NAME / "owner")
        self._settings = settings
        self._turns = Turns()

    async def create(self, launch: Launch) -> Guest:
        """Make the container, start it, wait until its tool server answers."""
        id = guest_id(launch.user_id, launch.session_id)
        split_guest_id(id)  # checked again: it becomes a name
        owner = await asyncio.to_thread(self._owner.made)
        async with self._turns, open_engine() as engine:
            image = await self._image(engine, owner, launch)
            making = asyncio.create_task(self._made(engine, owner, launch, image))
            try:
                container = await asyncio.shield(making)
                if launch.plan and launch.plan.trust_agents:
                    await provision(engine, container, launch.plan)
                await self._start(engine, container)
                guest = await _started(engine, container, labels_of(owner, launch))
                await self._answers(engine, guest)
            except BaseException:
                # The engine makes what it was asked for, also when nobody waits for it any more.
                await asyncio.shield(_undo(making, labels_of(owner, launch) if image else None))
                raise
            return guest

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        """TERM, the grace, KILL; then the container goes, and its volumes. Files cannot be kept."""
        user, session = split_guest_id(guest_id)
        owner = await asyncio.to_thread(self._owner.read)
        if owner is None:
            return Destroyed(found=False)
        async with open_engine() as engine:
            found = await engine.find({OWNER: owner, USER: user, SESSION: session})
            killed = [await _ended(engine, each["Id"]) for each in found]
            images = await engine.remove_images({OWNER: owner, USER: user, SESSION: session})
        return Destroyed(found=bool(found or images), killed=sum(killed))

    async def revive(self, guest_id: str) -> Guest:
        """Start the container again: its volumes, its ports and the token's digest are as they were."""
        user, session = split_guest_id(guest_id)
        owner = await asyncio.to_thread(self._owner.read)
        labels = {OWNER: owner or "", USER: user, SESSION: session}
        async with open_engine() as engine:
            found = await engine.find(labels) if owner else []
            if not found:
                raise NotFound(f"there is no container of {guest_id}")
            container = str(found[0]["Id"])
            await self._start(engine, container)
            guest = await _started(engine, container, labels)
            await self._answers(engine, guest)
            return guest

    async def guests(self) -> list[Guest]:
        """By their labels; one that was only half made is among them, dead."""
        owner = await asyncio.to_thread(self._owner.read)
        if owner is None:  # nor is an engine asked by who never made a container
            return []
        async with open_engine() as engine:
            found = await engine.find({OWNER: owner})
        return sorted(map(guest_of, found), key=lambda guest: guest.id)

    def endpoint(self, guest: Guest, port: int) -> Endpoint:
        """A published port on this host's loopback; any other at the container's own address."""
        if published := guest.labels.get(f"{PUBLISHED}{port}"):
            return Endpoint(url=f"http://{LOOPBACK}:{published}")
        if address := guest.labels.get(ADDRESS):
            return Endpoint(url=f"http://{address}:{port}")
        raise Unavailable(
            f"the container of {guest.id} does not run; end it by `workspace down {guest.session_id}`"
        )

    async def _image(self, engine: Engine, owner: str, launch: Launch) -> str | None:
        """The image that the launch's content is in; None when it has none, and the core image will do."""
        if launch.content is None:
            return None
        labels = labels_of(owner, launch)
        if await engine.find(labels):  # its image is not ours to replace
            raise _second(launch)
        tag = derived_tag(container_name(owner, guest_id(launch.user_id, launch.session_id)))
        try:
            with tempfile.TemporaryFile() as context:
                await asyncio.to_thread(_write_context, context, self._settings.image, launch)
                await engine.build(tag, context, labels)
        except BaseException:
            await asyncio.shield(_remove_images(labels))
            raise
        return tag

    async def _present_settings(self) -> Settings:
        """Without the host's store while that is empty: it may be made later, and a mount needs it."""
        store = self._settings.shared_store
        if store is None or await asyncio.to_thread(SharedStore(store).has_packs):
            return self._settings
        return replace(self._settings, shared_store=None)

    async def _made(self, engine: Engine, owner: str, launch: Launch, image: str | None) -> str:
        network = await engine.network(self._settings.network)
        config = container_config(await self._present_settings(), owner, launch, network, image)
        name = container_name(owner, guest_id(launch.user_id, launch.session_id))
        try:
            return await engine.create(name, config)
        except AlreadyExists as error:
            raise _second(launch) from error

    async def _start(self, engine: Engine, container: str) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while True:
            try:
                return await engine.start(container)
            except Conflict:  # another orchestrator has just made the network too, or removed the one it was
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await engine.network(self._settings.network)

    async def _answers(self, engine: Engine, guest: Guest) -> None:
        """Wait for its tool server; raises Unavailable with its last words."""
        import aiohttp

        url = self.endpoint(guest, guest.tool_port).url + HEALTH
        container = guest.labels[CONTAINER]
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PROBE_SECONDS)) as session:
            while not await _is_healthy(session, url):
                if not (await engine.state(container))["Running"]:
                    raise await _failure(engine, container, "ended at once")
                if asyncio.get_running_loop().time() > deadline:
                    raise await _failure(engine, container, f"was not up after {START_SECONDS:g} s")
                await asyncio.sleep(_POLL_SECONDS)


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    import aiohttp

    # The engine takes connections before anybody listens inside, and then drops them.
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(url) as response:
            return response.status == 200
    return False


async def _started(engine: Engine, container: str, labels: dict[str, str]) -> Guest:
    listed = [each for each in await engine.find(labels) if each["Id"] == container]
    if not listed:
        raise Unavailable("the container was removed while it started")
    guest = guest_of(listed[0])
    if guest.state is GuestState.DEAD:  # then it has no ports to look for
        raise await _failure(engine, container, "ended at once")
    return guest


async def _failure(engine: Engine, container: str, how: str) -> Unavailable:
    state = await engine.state(container)
    code = "" if state["Running"] else f" with code {state['ExitCode']}"
    lines = await engine.logs(container, _LOG_LINES)
    said = lines[-1] if lines else "it said nothing"
    return Unavailable(f"the tool server {how}{code}: {said}", output=lines)


async def _undo(making: asyncio.Task[str], image_labels: dict[str, str] | None) -> None:
    with contextlib.suppress(Exception):  # then there is nothing to remove
        container = await making
        async with open_engine() as engine:
            await engine.remove(container)
    if image_labels is not None:
        await _remove_images(image_labels)


async def _remove_images(labels: dict[str, str]) -> None:
    with contextlib.suppress(Exception):  # what failed before it is what a person has to know
        async with open_engine() as engine:
            await engine.remove_images(labels)


def _second(launch: Launch) -> AlreadyExists:
    return AlreadyExists(
        f"session {launch.session_id} has a container already; remove it by `workspace down "
        f"{launch.session_id} --remove`, or choose another id",
        sessionId=launch.session_id,
    )


def _write_context(file: IO[bytes], base_image: str, launch: Launch) -> None:
    """What the engine builds from; from its start again when it returns."""
    pieces = launch.content.pieces() if launch.content else ()
    for chunk in build_context(plan_of(launch), base_image, pieces):
        file.write(chunk)
    file.seek(0)


async def _ended(engine: Engine, container: str) -> int:
    """1 when it had to be killed."""
    with contextlib.suppress(Unavailable):  # somebody else may be removing it
        await engine.stop(container, STOP_SECONDS)
        code = (await engine.state(container))["ExitCode"]
        await engine.remove(container)
        return int(code == _KILLED)
    await engine.remove(container)
    return 0


class _Owner:
    """The random name of a data directory, kept in it: it moves along, and two of one path are two."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> str | None:
        """None when this data directory never had a container."""
        with contextlib.suppress(FileNotFoundError):
            return self._file.read_text().strip()
        return None

    def made(self) -> str:
        """The name, written down first when there is none."""
        if found := self.read():
            return found
        draft = private_directory(self._file.parent) / f"owner.{secrets.token_hex(8)}"
        draft.write_text(secrets.token_hex(8))
        # Linked, not renamed: of two who write at once the first one has named it.
        with contextlib.suppress(FileExistsError):
            self._file.hardlink_to(draft)
        draft.unlink()
        return self._file.read_text()
