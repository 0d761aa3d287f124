"""A start whose socket breaks: followed by another one to its end, and no event lost or told twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator import following
from orchestrator.client import Client, open_client
from orchestrator.following import Following
from protocol.errors import InstallFailed, Unavailable
from protocol.messages.base import Log
from protocol.messages.devserver import DevStart, Install, Start, StartEvent
from tests.builder import running, until

BREAKS = 2


class Relay:
    """A proxy between a client and its tool server that can be torn."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, outer}
        self._tasks |= {asyncio.create_task(carry(*pair)) for pair in ((reader, outer), (inner, writer))}

    async def tear(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Place:
    """A tool server behind a relay."""

    def __init__(self, root: Path, relay: Relay, url: str, token: str | None) -> None:
        self.root, self.relay, self.url, self.token = root, relay, url, token
        self.told: list[StartEvent] = []

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with open_client(self.url, self.token) as client:
            yield client

    async def follow(self, command: str) -> None:
        request = Start(install=Install(command=command), dev=DevStart(command=""))
        async with self.client() as client:
            await Following(request, self.told.append).to_its_end(client, self.client)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.told if isinstance(event, Log))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    with running(tmp_path) as daemon:
        relay = Relay(daemon.port)
        server = await asyncio.start_server(relay.take, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield Place(daemon.root, relay, f"http://127.0.0.1:{port}", daemon.token)
            server.close()
            await relay.tear()


WAITING = "; ".join(f"echo {n}; while [ ! -e go{n} ]; do sleep 0.02; done" for n in range(BREAKS))


async def test_it_is_followed_by_another_socket_and_nothing_is_told_twice(place: Place) -> None:
    started = asyncio.create_task(place.follow(f"{WAITING}; echo end"))
    for number in range(BREAKS):
        await until(lambda number=number: place.text.count("\n") > number)  # type: ignore[misc]
        await place.relay.tear()
        (place.root / f"go{number}").touch()
    async with asyncio.timeout(60):
        await started
    assert place.text == "".join(f"{n}\n" for n in range(BREAKS)) + "end\n"
    numbers = [event.number for event in place.told]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_how_it_failed_meanwhile_is_told(place: Place) -> None:
    started = asyncio.create_task(place.follow(f"{WAITING}; exit 7"))
    await until(lambda: place.text)
    await place.relay.tear()
    for number in range(BREAKS):
        (place.root / f"go{number}").touch()
    with pytest.raises(InstallFailed) as caught:
        async with asyncio.timeout(60):
            await started
    assert caught.value.details["exitCode"] == 7


async def test_one_that_stays_away_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSES_SECONDS", (0.0, 0.0))
    tries = 0

    @asynccontextmanager
    async def nobody() -> AsyncIterator[Client]:
        nonlocal tries
        tries += 1
        raise Unavailable(f"nobody is there, {tries}")
        yield place  # type: ignore[unreachable]

    async with place.client() as client:
        begun = Following(Start(install=Install(command=WAITING)), place.told.append)
        started = asyncio.create_task(begun.to_its_end(client, nobody))
        await until(lambda: place.text)
        await place.relay.tear()
        async with asyncio.timeout(60):
            await asyncio.wait([started])
    for number in range(BREAKS):
        (place.root / f"go{number}").touch()
    with pytest.raises(Unavailable, match="nobody is there, 2"):
        started.result()
