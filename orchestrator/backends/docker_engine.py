"""The few questions that are asked of a Docker engine, and nothing about what they are for.

Containers are named by the engine's ids. Whatever the engine refuses is raised as the protocol's own error.
aiodocker is imported when an engine is first opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator.backends.docker_errors import (
    NO_ENGINE,
    NO_PACKAGE,
    open_network,
    refusal,
    remote,
    several_networks,
)
from protocol.errors import NotFound, ToolError, Unavailable

if TYPE_CHECKING:
    import tarfile

    from aiodocker import Docker

ANSWER_SECONDS = 60.0
"""For one question. Most take milliseconds; fifty starts at once on two cores queue up in the engine."""
BUILD_SECONDS = 600.0
"""For an image that is a copy of a directory: a second for a small one, the rest is for a busy disk."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_AGAIN_SECONDS = 0.1
_NO_TRAFFIC = {"com.docker.network.bridge.enable_icc": "false"}


@contextlib.asynccontextmanager
async def open_engine() -> AsyncIterator[Engine]:
    """The engine that DOCKER_HOST or the Docker context names, else this machine's.

    For one task's work, so that nothing hangs on an event loop. Raises Unavailable.
    """
    try:
        import aiodocker
        import aiohttp
    except ImportError:
        raise Unavailable(NO_PACKAGE) from None
    with _translated():
        try:
            docker = aiodocker.Docker(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        except (AssertionError, ValueError):
            raise Unavailable(NO_ENGINE) from None
    async with docker:
        if not is_local(docker._connection_info):
            raise remote(docker._connection_info)
        yield Engine(docker)


class Engine:
    """Made by ``open_engine`` only."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    async def network(self, name: str) -> str:
        """The network ``name``, made when it is missing, without traffic between its containers.

        An engine lets several be made at once of one name, and then starts no container on any of them: so
        everybody removes what is ``superfluous``, and goes on when there is one. Raises Unavailable.
        """
        refused: ToolError | None = None
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS
        while len(found := await self._networks(name)) != 1:
            if asyncio.get_running_loop().time() > deadline:
                raise refused or several_networks(name)
            if not found:
                refused = await self._make_network(name)
            for other in superfluous(found):
                refused = await self._remove_network(other["Id"])
            await asyncio.sleep(_AGAIN_SECONDS if refused else 0)
        if any((found[0].get("Options") or {}).get(key) != value for key, value in _NO_TRAFFIC.items()):
            raise open_network(name)
        return name

    async def create(self, name: str, config: dict[str, Any]) -> str:
        """A container's id. Raises AlreadyExists when there is one of that name."""
        with _translated(config["Image"]):
            return (await self._docker.containers.create(config, name=name)).id

    async def build(self, tag: str, context: IO[bytes], labels: Mapping[str, str]) -> None:
        """An image of that name out of a plain tar with a Dockerfile in it. Nothing is pulled."""
        import aiohttp

        patient = aiohttp.ClientTimeout(total=BUILD_SECONDS)
        with _translated(seconds=BUILD_SECONDS):
            await self._docker.images.build(
                fileobj=context,
                encoding="identity",
                tag=tag,
                labels=labels,
                forcerm=True,
                timeout=patient,
            )

    async def remove_images(self, labels: Mapping[str, str]) -> int:
        """Remove all images with these labels; how many there were."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with _translated():
            found = await self._docker.images.list(filters={"label": wanted})
        for image in found:
            with contextlib.suppress(NotFound), _translated():  # another one may be removing it
                await self._docker.images.delete(image["Id"], force=True)
        return len(found)

    async def read(self, id: str, path: str) -> tarfile.TarFile | None:
        """What is at ``path`` in a container, running or not, as an archive; None when there is nothing."""
        try:
            with _translated():
                return await self._docker.containers.container(id).get_archive(path)
        except NotFound:
            return None

    async def put(self, id: str, directory: str, archive: bytes) -> None:
        """Unpack a tar into ``directory``, which is in a volume: elsewhere it is refused, or not seen."""
        container: Any = self._docker.containers.container(id)  # this method of it has no types
        with _translated():
            await container.put_archive(directory, archive)

    async def start(self, id: str) -> None:
        """Start it. Raises Conflict while there are several networks of the name that it is on, or none."""
        with _translated():
            await self._docker.containers.container(id).start()

    async def find(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """All containers with these labels, also such as never ran: the engine's own lines about them."""
        filters = json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})
        with _translated():
            found = await self._docker.containers.list(all="true", filters=filters)
        return [dict(container._container) for container in found]

    async def state(self, id: str) -> dict[str, Any]:
        """``Running``, ``ExitCode``, ``OOMKilled`` and more, as the engine calls them."""
        with _translated():
            state: dict[str, Any] = (await self._docker.containers.container(id).show())["State"]
        return state

    async def stop(self, id: str, seconds: int) -> None:
        """TERM, and KILL after that many seconds; nothing happens to one that does not run."""
        import aiohttp

        patient = aiohttp.ClientTimeout(total=seconds + ANSWER_SECONDS)
        with _translated():
            await self._docker.containers.container(id).stop(t=seconds, timeout=patient)

    async def remove(self, id: str) -> None:
        """Remove it with its volumes, whatever state it is in; also when somebody else is at it already."""
        try:
            with _translated():
                await self._docker.containers.container(id).delete(force=True, v=True)
        except ToolError as refused:
            # Gone, or under way elsewhere, or refused: in the end it is there or it is not.
            try:
                await self._gone(id)
            except TimeoutError:
                raise refused from None

    async def logs(self, id: str, lines: int) -> list[str]:
        """The last ``lines`` of both its outputs."""
        with _translated():
            text = await self._docker.containers.container(id).log(stdout=True, stderr=True, tail=lines)
        return "".join(text).splitlines()

    async def _networks(self, name: str) -> list[dict[str, Any]]:
        """All of that name; when there are several, each with the containers that run on it."""
        with _translated():
            found = await self._docker.networks.list(filters={"name": [name]})
        exact = [network for network in found if network["Name"] == name]  # the filter takes parts of names
        return exact if len(exact) < 2 else [shown for each in exact if (shown := await self._shown(each))]

    async def _shown(self, network: Mapping[str, Any]) -> dict[str, Any] | None:
        with contextlib.suppress(ToolError), _translated():  # another one may have removed it
            shown: dict[str, Any] = await (await self._docker.networks.get(network["Id"])).show()
            return shown
        return None

    async def _make_network(self, name: str) -> ToolError | None:
        body = {"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Options": _NO_TRAFFIC}
        return await _refused(self._docker.networks.create(body))

    async def _remove_network(self, id: str) -> ToolError | None:
        async def remove() -> None:
            await (await self._docker.networks.get(id)).delete()

        return await _refused(remove())

    async def _gone(self, id: str) -> None:
        import aiodocker

        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                try:
                    await self._docker.containers.container(id).show()
                except aiodocker.DockerError as error:
                    if error.status == 404:
                        return
                await asyncio.sleep(0.1)


async def _refused(asked: Awaitable[object]) -> ToolError | None:
    """Ask; the engine's refusal, if it was one: another orchestrator may be at the same."""
    try:
        with _translated():
            await asked
    except ToolError as error:
        return error
    return None


@contextlib.contextmanager
def _translated(asked_for: str = "", seconds: float = ANSWER_SECONDS) -> Iterator[None]:
    import aiodocker

    try:
        yield
    except aiodocker.DockerError as error:
        raise refusal(error.status, error.message, asked_for) from error
    except TimeoutError as error:
        raise Unavailable(f"the Docker engine did not answer within {seconds:g} s") from error


def superfluous(networks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of networks of one name, those to remove: all but the one that is in use, else all but the oldest.

    The oldest is not always the one that was there first: an engine tells when it began to make it.

    >>> old, new = {"Id": "o", "Created": "1"}, {"Id": "n", "Created": "2"}
    >>> [each["Id"] for each in superfluous([new, old])]
    ['n']
    >>> [each["Id"] for each in superfluous([new | {"Containers": {"c": {}}}, old])]
    ['o']
    """
    unused_last = sorted(networks, key=lambda each: (not each.get("Containers"), each["Created"], each["Id"]))
    return unused_last[1:]


def is_local(address: str) -> bool:
    """Whether an engine's published ports are on this machine's loopback.

    >>> is_local("unix:///run/docker.sock"), is_local("tcp://127.0.0.1:2375"), is_local("ssh://me@far")
    (True, True, False)
    """
    parts = urlsplit(address)
    return parts.scheme in ("unix", "npipe") or parts.hostname in _LOOPBACK
