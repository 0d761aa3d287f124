"""One user cannot take all there is: of commands, kept shells, connections, and requests a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.builder import PATIENCE_SECONDS, Daemon, Http, Json, http_of, running, socket_of
from tests.signing import ALL, Signer

SIGNER = Signer()
FLOOD = 60
"""Past the ten seconds' worth that may come at once, also where they take half a minute to come."""
SMALL = {
    "TOOL_SERVER_MAX_PROCESSES": "2",
    "TOOL_SERVER_MAX_PROCESSES_IN_ALL": "3",
    "TOOL_SERVER_MAX_SHELLS": "1",
    "TOOL_SERVER_MAX_SHELLS_IN_ALL": "2",
    "TOOL_SERVER_MAX_SOCKETS": "3",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    keys = {"TOOL_SERVER_PUBLIC_KEY": SIGNER.public, "SESSION_ID": "s1", "TOOL_SERVER_STOP_GRACE_MS": "300"}
    with running(tmp_path_factory.mktemp("shares"), **SMALL, **keys) as daemon:
        yield daemon


def of(user: str) -> dict[str, str]:
    """A token of that user."""
    return {"Authorization": f"Bearer {SIGNER.token(*ALL, sub=user)}"}


async def users(stack: AsyncExitStack, daemon: Daemon) -> list[Http]:
    return [await stack.enter_async_context(http_of(daemon, **of(user))) for user in ("ann", "bob", "eve")]


async def limit_met(http: Http, operation: str, **params: Any) -> Json:
    refused = await http.refused(operation, **params)
    assert (refused.status, refused.code) == (503, "busy")
    return refused.details


async def test_commands(daemon: Daemon) -> None:
    async with AsyncExitStack() as stack:
        ann, bob, eve = await users(stack, daemon)
        sleep: Json = {"command": "sleep 1000", "background": True}
        started = [(await ann.ok("command", **sleep))["processId"] for _ in range(2)]
        assert await limit_met(ann, "command", **sleep) == {"limit": "maxProcesses", "value": 2}
        started.append((await bob.ok("command", **sleep))["processId"])
        assert await limit_met(eve, "command", **sleep) == {"limit": "maxProcessesInAll", "value": 3}
        # What ended, and what could not be started at all, counts no more.
        for each in started:
            await bob.ok("stop", processId=each)
        for _ in range(4):
            assert (await ann.refused("command", argv=["/no/such/program"])).code == "not_found"
        assert (await ann.ok("command", command="echo again"))["stdout"] == "again\n"


async def test_kept_shells(daemon: Daemon) -> None:
    async with AsyncExitStack() as stack:
        ann, bob, eve = await users(stack, daemon)
        await ann.ok("shell", command="true", name="a")
        assert await limit_met(ann, "shell", command="true", name="b") == {"limit": "maxShells", "value": 1}
        await bob.ok("shell", command="true", name="b")
        # Whose it is decides what it counts for, and not who may use it.
        assert (await ann.ok("shell", command="echo both", name="b"))["stdout"] == "both\n"
        told = await limit_met(eve, "shell", command="true", name="c")
        assert told == {"limit": "maxShellsInAll", "value": 2}
        for name in "ab":
            await ann.ok("shell_stop", name=name)
        await ann.ok("shell", command="true", name="c")
        await ann.ok("shell_stop", name="c")


async def test_connections_that_work(daemon: Daemon) -> None:
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(socket_of(daemon, **of("ann"))) for _ in range(3)]
        with pytest.raises(InvalidStatus) as caught:
            await stack.enter_async_context(socket_of(daemon, **of("ann")))
        told = json.loads(caught.value.response.body or b"")["error"]
        assert (told["code"], told["details"]) == ("busy", {"limit": "maxSockets", "value": 3})
        assert (await sockets[0].ok("list"))["entries"] == []
        async with socket_of(daemon, **of("bob")) as other, http_of(daemon, **of("bob")) as http:
            assert (await other.ok("list"))["entries"] == []
            assert (await http.ok("list"))["entries"] == []
    async with http_of(daemon, **of("bob")) as http, asyncio.timeout(PATIENCE_SECONDS):
        while "toolserver_sockets 0" not in await figures(http):
            await asyncio.sleep(0.1)
    async with http_of(daemon, **of("ann")) as http:
        assert (await http.ok("list"))["entries"] == []


@pytest.mark.parametrize("frame", ["no json", '{"id": "7", "op": "nothing"}'], ids=["unreadable", "unknown"])
async def test_frames_that_start_nothing_count_in_the_rate(
    frame: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = {"TOOL_SERVER_PUBLIC_KEY": SIGNER.public, "SESSION_ID": "s1"}
    directory = tmp_path_factory.mktemp("rate")
    with running(directory, **keys, TOOL_SERVER_MAX_REQUESTS_PER_SECOND="1") as daemon:
        async with socket_of(daemon, **of("ann")) as socket, socket_of(daemon, **of("bob")) as other:
            for _ in range(FLOOD):
                await socket.connection.send(frame)
            codes = [json.loads(await socket.connection.recv())["error"]["code"] for _ in range(FLOOD)]
            assert "rate_limited" not in codes[:10]
            assert "rate_limited" in codes
            assert (await other.ok("list"))["entries"] == []
        async with http_of(daemon, **of("eve")) as http:
            refused = await asyncio.gather(*(http.refused_body("list", b"no json") for _ in range(FLOOD)))
            assert {each.code for each in refused} == {"invalid_request", "rate_limited"}


UNANSWERED = {"ping": b"\x89\x80", "pong": b"\x8a\x80", "cancel": b'\x81\x9b{"id": "7", "op": "cancel"}'}
"""Frames, but for the four bytes of the mask, which come after the first two."""


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_who_sends_too_many_frames_that_get_no_answer_is_read_more_slowly(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = {"TOOL_SERVER_PUBLIC_KEY": SIGNER.public, "SESSION_ID": "s1"}
    frame = UNANSWERED[kind][:2] + bytes(4) + UNANSWERED[kind][2:]
    with running(tmp_path_factory.mktemp("rate"), **keys, TOOL_SERVER_MAX_REQUESTS_PER_SECOND="10") as daemon:
        async with asyncio.timeout(PATIENCE_SECONDS), http_of(daemon, **of("eve")) as eve:
            async with socket_of(daemon, **of("ann")) as socket:
                socket.connection.transport.write(frame * 10 * FLOOD)
                while 'limits_met_total{limit="maxRequestsPerSecond"}' not in await figures(eve):
                    await asyncio.sleep(0.1)  # so that eve stays within the rate herself
                socket.connection.transport.abort()
            while "toolserver_sockets 0" not in await figures(eve):
                await asyncio.sleep(0.1)


async def figures(http: Http) -> str:
    async with http.session.get("/metrics") as response:
        return await response.text()
