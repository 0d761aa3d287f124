"""Connections that hold the daemon up: by asking slowly, by asking too much at once, by being too many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from tests.builder import (
    PATIENCE_SECONDS,
    TOKEN,
    Daemon,
    Http,
    Refusal,
    Socket,
    http_of,
    raw_of,
    running,
    socket_of,
)

REQUEST = f"GET /v1/list HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
HANDSHAKE = (
    f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
).encode()
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BODY = f"POST /v1/list HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n".encode()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One of little patience with what comes."""
    with running(
        tmp_path_factory.mktemp("daemon"),
        TOOL_SERVER_BODY_STALL_MS="2000",  # longer than a busy machine keeps one who drips from it
        TOOL_SERVER_MIN_BODY_BYTES_PER_SECOND="1000",
        TOOL_SERVER_MAX_HEADER_BYTES="2000",
        TOOL_SERVER_MAX_HEADERS="50",
    ) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One of little patience with who asks: for a busy machine's clients too little."""
    with running(tmp_path_factory.mktemp("hasty"), TOOL_SERVER_HEADER_TIMEOUT_MS="400") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One of few connections."""
    with running(tmp_path_factory.mktemp("crowded"), TOOL_SERVER_MAX_SOCKETS_IN_ALL="8") as daemon:
        yield daemon


async def answer_to(daemon: Daemon, sent: bytes) -> Refusal:
    """The error that comes before the connection is closed."""
    async with raw_of(daemon, sent) as reader:
        head = await reader.readuntil(b"\r\n\r\n")
        body = json.loads(await reader.read())
    return Refusal.of(int(head.split()[1]), body)


async def opened(stack: AsyncExitStack, daemon: Daemon, count: int) -> list[Socket]:
    """So many sockets, one after the other."""
    return [await stack.enter_async_context(socket_of(daemon)) for _ in range(count)]


@pytest.mark.parametrize("begun", [b"G", REQUEST, HANDSHAKE], ids=["a byte", "headers", "a handshake"])
async def test_a_request_whose_headers_never_end_is_told_so_and_cut(hasty: Daemon, begun: bytes) -> None:
    refused = await answer_to(hasty, begun)
    assert (refused.status, refused.code, refused.details) == (
        408,
        "timeout",
        {"limit": "headerTimeoutMs", "value": 400},
    )


async def test_headers_that_drip_are_no_headers(hasty: Daemon) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty.port)
    writer.write(REQUEST)

    async def drip() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"X-More: 1\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.readline()).split()[1] == b"408"
    dripping.cancel()
    writer.close()


async def test_who_connects_and_says_nothing_is_cut(hasty: Daemon) -> None:
    async with raw_of(hasty, b"") as reader:
        assert b'"headerTimeoutMs"' in await reader.read()


async def answered(daemon: Daemon) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a request was answered, though a busy machine may be too slow to send it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
            writer.write(HEALTH)
            if (await reader.readline()).split()[1] == b"200":
                await reader.readuntil(b"}\n")
                return reader, writer
            writer.close()


async def test_a_connection_between_two_requests_may_be_silent(hasty: Daemon) -> None:
    reader, writer = await answered(hasty)
    for _ in range(2):
        # Meanwhile one that came later was looked at, and cut.
        assert (await answer_to(hasty, b"G")).code == "timeout"
        writer.write(HEALTH)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"200 OK" in await reader.readuntil(b"}\n")
    writer.close()


async def test_a_body_that_stops_is_told_so(daemon: Daemon) -> None:
    async with raw_of(daemon, BODY + b'Content-Length: 99\r\n\r\n{"pa') as reader:
        assert (await reader.readline()).split()[1] == b"504"
        assert b'"limit":"bodyStallMs"' in await reader.readuntil(b"}}")


@pytest.mark.parametrize("path", ["POST /v1/list", "PUT /v1/files/slow", "PUT /v1/archive"])
async def test_a_body_that_drips_is_told_so(daemon: Daemon, path: str) -> None:
    head = BODY.replace(b"POST /v1/list", path.encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(head + b"Content-Length: 100000\r\n\r\n")

    async def drip() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.readline()).split()[1] == b"504"
        answer = await reader.readuntil(b"}}")
    assert b'"limit":"minBodyBytesPerSecond"' in answer
    dripping.cancel()
    writer.close()
    assert not (daemon.root / "slow").exists()


async def test_a_header_that_is_too_long_names_the_limit(daemon: Daemon) -> None:
    refused = await answer_to(daemon, REQUEST + b"X-Bomb: " + b"x" * 5000 + b"\r\n\r\n")
    assert (refused.status, refused.code) == (431, "too_large")
    assert refused.details == {"limit": "maxHeaderBytes", "value": 2000}


async def test_a_header_without_end_is_cut_and_not_kept(daemon: Daemon) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(REQUEST + b"X-Bomb: ")

    async def sent() -> None:
        for _ in range(1024):  # 64 MiB, of which the sockets between hold some
            writer.write(b"x" * 65536)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await sent()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_too_many_headers_name_the_limit(daemon: Daemon) -> None:
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(100))
    refused = await answer_to(daemon, REQUEST + many + b"\r\n")
    assert (refused.status, refused.code) == (431, "too_large")
    assert refused.details == {"limit": "maxHeaders", "value": 50}


async def test_what_is_no_http_gets_a_sentence(daemon: Daemon) -> None:
    refused = await answer_to(daemon, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
    assert (refused.status, refused.code) == (400, "invalid_request")


async def health_of(http: Http) -> aiohttp.ClientResponse:
    async with http.session.get("/health") as response:
        await response.read()
        return response


@pytest.mark.timeout(300)
async def test_a_thousand_sockets_are_served(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        async with AsyncExitStack() as stack:
            sockets: list[Socket] = []
            for _ in range(20):
                sockets += await opened(stack, daemon, 50)
            answers = await asyncio.gather(*(each.ok("list") for each in sockets))
            assert len(answers) == 1000
            assert daemon.memory() < 200 * 2**20


async def test_one_socket_too_many_is_refused_while_all_are_at_work(crowded: Daemon) -> None:
    async with AsyncExitStack() as stack:
        await opened(stack, crowded, 8)
        with pytest.raises(InvalidStatus) as caught:
            await stack.enter_async_context(socket_of(crowded))
    answer = caught.value.response
    assert answer.status_code == 503
    assert json.loads(answer.body or b"")["error"]["details"] == {"limit": "maxSocketsInAll", "value": 8}


async def test_who_asks_for_nothing_makes_room(crowded: Daemon) -> None:
    """A flood of connections that send nothing, or half a request, keeps nobody out."""
    async with AsyncExitStack() as stack:
        for _ in range(30):
            await stack.enter_async_context(raw_of(crowded, b"GET /"))
        async with http_of(crowded) as http, socket_of(crowded) as socket:
            assert (await http.ok("list"))["entries"] == []
            assert (await socket.ok("list"))["entries"] == []


async def test_connections_are_refused_before_descriptors_run_out(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_OPEN_FILES="80") as daemon:
        async with AsyncExitStack() as stack:
            with pytest.raises(InvalidStatus) as caught:
                await opened(stack, daemon, 80)
            details = json.loads(caught.value.response.body or b"")["error"]["details"]
            assert details == {"limit": "maxOpenFiles", "value": 80}
            open_ones = stack.pop_all()
            await open_ones.aclose()
        async with http_of(daemon) as http:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await health_of(http)).status == 503:
                    pass  # the daemon closes its ends in its own time
            assert (await http.ok("command", command="echo ran"))["stdout"] == "ran\n"
