"""What goes on in a workspace: told by the daemon, and not made by asking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.builder import Daemon, Socket, emptied, http_of, running, socket_of
from tests.ports import free_port
from toolserver.system.pulse import Pulse


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(tmp_path_factory.mktemp("activity")) as daemon:
        yield daemon


@pytest.fixture
async def socket(daemon: Daemon) -> Any:
    emptied(daemon.root)
    async with socket_of(daemon) as socket:
        yield socket


async def activity(socket: Socket) -> Any:
    return await socket.ok("activity")


async def test_asking_is_no_activity_over_any_door(daemon: Daemon, socket: Socket) -> None:
    async with http_of(daemon) as http:
        first = await http.ok("activity")
        assert (first["requests"], first["sockets"], first["processes"]) == (0, 1, [])
        await activity(socket)  # from now on it is one that only watches
        told = [await http.ok("activity"), await activity(socket)]
        assert [(each["requests"], each["sockets"]) for each in told] == [(0, 0), (0, 0)]
        assert told[1]["idleMs"] >= told[0]["idleMs"] >= first["idleMs"]


async def test_a_request_ends_the_idling_and_its_socket_counts(daemon: Daemon, socket: Socket) -> None:
    async with http_of(daemon) as http:

        async def idled() -> bool:
            return bool((await http.ok("activity"))["idleMs"] >= 50)

        while not await idled():
            pass
        await socket.ok("list")
        told = await http.ok("activity")
        assert told["sockets"] == 1
        again = await http.ok("activity")
        assert told["idleMs"] <= again["idleMs"]


async def test_a_running_command_is_named_as_it_was_written(socket: Socket) -> None:
    started = await socket.ok("command", command="sleep 1000 # tests", background=True)
    (one,) = (await activity(socket))["processes"]
    assert (one["processId"], one["command"]) == (started["processId"], "sleep 1000 # tests")
    await socket.ok("stop", processId=started["processId"])
    told = await activity(socket)
    assert told["processes"] == []


async def test_what_a_command_left_running_is_work_too(socket: Socket) -> None:
    done = await socket.ok("command", command="setsid sleep 1000 >/dev/null 2>&1 & echo $!")
    # Between fork and exec it still has the shell's name.
    while (left := (await activity(socket))["processes"])[0]["command"] != "sleep 1000":
        pass
    assert [each["processId"] for each in left] == [done["processId"]]
    await socket.ok("stop", processId=done["processId"])
    assert (await activity(socket))["processes"] == []


async def test_a_kept_shell_at_its_prompt_is_no_work_and_what_it_started_is(socket: Socket) -> None:
    await socket.ok("shell", command="true")
    assert (await activity(socket))["processes"] == []
    await socket.ok("shell", command="sleep 1000 &")
    while [each["command"] for each in (await activity(socket))["processes"]] != ["sleep 1000"]:
        pass
    await socket.ok("shell_stop")


async def test_a_dev_server_is_no_work_and_a_page_that_is_open_is_seen(
    daemon: Daemon, socket: Socket
) -> None:
    (daemon.root / "index.html").write_text("<p>Here</p>")
    status = await socket.ok("dev_start", port=free_port())
    assert (await activity(socket))["processes"] == []
    host, port = "127.0.0.1", status["port"]
    _, writer = await asyncio.open_connection(host, port)

    async def seen() -> bool:
        return bool((await activity(socket))["devConnections"] == 1)

    while not await seen():
        pass
    writer.close()
    await socket.ok("dev_stop")


def test_requests_within_requests_and_sockets_are_counted_until_they_end() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    with pulse.socket(), pulse.request("read"):
        now[0] = 5.0
        assert (pulse.requests, pulse.sockets, pulse.idle_seconds()) == (1, 1, 5.0)
    assert (pulse.requests, pulse.sockets, pulse.idle_seconds()) == (0, 0, 0.0)
    with pulse.socket(), pulse.request("activity"):
        now[0] = 9.0
        assert (pulse.requests, pulse.sockets, pulse.idle_seconds()) == (0, 0, 4.0)
    assert pulse.idle_seconds() == 4.0
    assert pulse.idle_seconds(8.0) == 1.0
