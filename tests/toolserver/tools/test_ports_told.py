"""Whoever asks is told which ports the workspace's programs listen on, and when that changes."""

from __future__ import annotations

import asyncio
import socket as sockets
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builder import PATIENCE_SECONDS, Daemon, Http, Json, Socket, socket_of
from tests.ports import free_port
from tests.toolserver.tools.families import pid_in

LISTEN = """
import os, signal, socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
if sys.argv[3:] == ["hand on"] and os.fork():
    os._exit(0)
signal.pause()
"""


def listening(port: int, *more: str, address: str = "127.0.0.1") -> list[str]:
    return [sys.executable, "-c", LISTEN, address, str(port), *more]


async def opened(socket: Socket, id: str, port: int) -> Json:
    """The event that tells of it; others are passed over."""
    return await told(socket, id, "opened", port)


async def record_of(socket: Socket, started: Json) -> Json:
    """What ``processes`` says of a command now."""
    listed = (await socket.ok("processes"))["processes"]
    return next(each for each in listed if each["processId"] == started["processId"])


async def told(socket: Socket, id: str, kind: str, port: int) -> Json:
    while True:
        frame: Json = (await socket.next_of(id))["event"]
        if (frame["type"], frame["port"]) == (kind, port):
            return frame


@pytest.fixture
def foreign() -> Iterator[int]:
    """A port of this machine that no command opened."""
    with sockets.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_port_is_told_when_it_opens_and_when_it_closes(socket: Socket, root: Path) -> None:
    await socket.send("watch", "ports", {})
    port = free_port()
    started = await socket.ok("command", argv=listening(port), background=True)
    event = await opened(socket, "watch", port)
    assert event["processId"] == started["processId"]
    assert event["address"] == "127.0.0.1"
    assert event["command"].startswith("python")
    await socket.ok("stop", processId=started["processId"])
    assert await told(socket, "watch", "closed", port) == {**event, "type": "closed"}
    await socket.send("watch", "cancel")
    _, last = await socket.end_of("watch")
    assert last["error"]["code"] == "cancelled"


async def test_one_that_is_open_already_is_told_first_and_is_the_answer_of_a_plain_request(
    socket: Socket, http: Http, root: Path
) -> None:
    port = free_port()
    started = await socket.ok("command", argv=listening(port, address="0.0.0.0"), background=True)
    await socket.send("early", "ports", {})
    await opened(socket, "early", port)
    await socket.send("late", "ports", {})
    assert (await opened(socket, "late", port))["address"] == "0.0.0.0"
    for answer in (await http.ok("ports"), await socket.ok("ports", follow=False)):
        found = next(each for each in answer["ports"] if each["port"] == port)
        assert found["processId"] == started["processId"]
    for id in ("early", "late"):
        await socket.send(id, "cancel")
    await socket.ok("stop", processId=started["processId"])


async def test_ports_of_programs_that_no_command_started_are_not_told(http: Http, foreign: int) -> None:
    assert foreign not in [each["port"] for each in (await http.ok("ports"))["ports"]]


async def test_a_socket_that_was_handed_on_is_told_with_its_new_owner(socket: Socket, root: Path) -> None:
    await socket.send("watch", "ports", {})
    port = free_port()
    started = await socket.ok("command", argv=listening(port, "hand on"), background=True)
    while (event := await opened(socket, "watch", port))["pid"] == started.get("pid"):
        pass
    if event["pid"] == (await record_of(socket, started))["pid"]:
        # Seen before it was handed on: then the change is told.
        event = await opened(socket, "watch", port)
    assert event["pid"] in [each["pid"] for each in (await record_of(socket, started))["members"]]
    await socket.send("watch", "cancel")
    await socket.ok("stop", processId=started["processId"])


async def test_a_port_that_closes_and_opens_again_is_told_again(socket: Socket, root: Path) -> None:
    await socket.send("watch", "ports", {})
    port = free_port()
    for _ in range(3):
        started = await socket.ok("command", argv=listening(port), background=True)
        assert (await opened(socket, "watch", port))["processId"] == started["processId"]
        await socket.ok("stop", processId=started["processId"])
        await told(socket, "watch", "closed", port)
    await socket.send("watch", "cancel")


async def test_a_reader_that_never_reads_delays_no_other(daemon: Daemon, socket: Socket, root: Path) -> None:
    async with socket_of(daemon) as lazy:
        await lazy.send("watch", "ports", {})
        await socket.send("watch", "ports", {})
        port = free_port()
        for _ in range(5):
            started = await socket.ok("command", argv=listening(port), background=True)
            await opened(socket, "watch", port)
            await socket.ok("stop", processId=started["processId"])
            await told(socket, "watch", "closed", port)
        with suppress(AssertionError):
            await lazy.send("watch", "cancel")
    await socket.send("watch", "cancel")


async def test_one_in_a_session_of_its_own_without_environment_is_told_too(
    socket: Socket, root: Path
) -> None:
    port = free_port()
    await socket.send("watch", "ports", {})
    line = f'setsid env -i "$0" -c "$1" 127.0.0.1 {port} & echo $! > pid; wait'
    started = await socket.ok("command", argv=["sh", "-c", line, sys.executable, LISTEN], background=True)
    await pid_in(root / "pid")
    assert (await opened(socket, "watch", port))["processId"] == started["processId"]
    await socket.send("watch", "cancel")
    await socket.ok("stop", processId=started["processId"])


async def test_nobody_looks_while_nobody_wants_to_know(daemon: Daemon) -> None:
    """The watch ends with its last reader: a later one is told everything anew."""
    port = free_port()
    async with socket_of(daemon) as one:
        await one.send("watch", "ports", {})
        started = await one.ok("command", argv=listening(port), background=True)
        await opened(one, "watch", port)
    async with asyncio.timeout(PATIENCE_SECONDS), socket_of(daemon) as other:
        await other.send("watch", "ports", {})
        await opened(other, "watch", port)
        await other.ok("stop", processId=started["processId"])
        await told(other, "watch", "closed", port)
