"""A silent socket is asked, and ended when nobody answers; one that still sends is not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import aiohttp

from tests.builder import PATIENCE_SECONDS, running, until
from tests.impatient import HEARTBEAT
from toolserver.wire.heartbeat import receives


async def test_a_client_that_answers_no_ping_is_cut_off_and_its_command_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, module="tests.impatient", **{HEARTBEAT: "1"}) as daemon:
        headers = {"Authorization": f"Bearer {daemon.token}"}
        async with (
            aiohttp.ClientSession(daemon.url, headers=headers) as session,
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            async with session.ws_connect("/v1/ws", autoping=False) as deaf:
                command = "until [ -e go ]; do sleep 0.01; done; touch done"
                await deaf.send_json({"id": "1", "op": "command", "params": {"command": command}})
                seen = []
                while not deaf.closed:
                    seen.append((await deaf.receive()).type)
            assert aiohttp.WSMsgType.PING in seen
            (daemon.root / "go").touch()
            await until((daemon.root / "done").exists)


async def test_a_client_that_pings_or_answers_pings_stays(tmp_path: Path) -> None:
    # With one that gives a busy machine's clients more time, where a second was too short.
    assert await answers_pings(tmp_path, "2") or await answers_pings(tmp_path, "20")


async def answers_pings(directory: Path, heartbeat: str) -> bool:
    """Whether the socket of one who does stays open, past the ping that would be one too many for others."""
    with running(directory, module="tests.impatient", **{HEARTBEAT: heartbeat}) as daemon:
        headers = {"Authorization": f"Bearer {daemon.token}"}
        async with (
            aiohttp.ClientSession(daemon.url, headers=headers) as session,
            session.ws_connect("/v1/ws", autoping=False) as socket,
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            await socket.ping(b"here")
            message = await socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"here")
            asked = 0
            with suppress(ConnectionError):
                while asked < 2 and (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
                    asked += 1
                await socket.send_json({"id": "1", "op": "list"})
                while (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
            return asked == 2 and message.type is aiohttp.WSMsgType.TEXT and "result" in message.json()


async def test_half_a_message_is_a_sign_of_life() -> None:
    taken: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: taken.put_nowait(writer), "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE_SECONDS):
        _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
        theirs = await taken.get()
        transport = theirs.transport
        client.write(b"half")
        await until(lambda: receives(transport, 3600))
        await until(lambda: not receives(transport, 0.001))
        for writer in (client, theirs):
            writer.close()
            await writer.wait_closed()
        assert not receives(transport, 3600)
