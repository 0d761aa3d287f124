"""start belongs to the workspace: it outlives its socket, is joined, and followed from any event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builder import Daemon, Http, Json, Socket, http_of, socket_of, until
from tests.ports import free_port

GATE = "touch on; echo one; while [ ! -e go ]; do sleep 0.02; done; echo two"
SERVE = "exec python3 -m http.server {port} --bind {host}"


@pytest.fixture(autouse=True)
async def clean(daemon: Daemon, root: Path) -> AsyncIterator[None]:
    yield
    (root / "go").touch()
    async with http_of(daemon) as http:
        await http.ok("dev_stop")


@pytest.fixture
def gated() -> Json:
    """An install that waits for the file ``go``, and a dev server after it."""
    return {"install": {"command": GATE}, "dev": {"command": SERVE, "port": free_port()}}


async def begun(socket: Socket, root: Path, params: Json) -> Json:
    """Start, until its install waits and has told its first line; that event."""
    await socket.send("1", "start", params)
    event: Json = {"type": ""}
    while event["type"] != "log":
        event = (await socket.next_of("1"))["event"]
    assert event["text"] == "one\n"
    await until((root / "on").exists)
    return event


async def test_events_are_numbered_without_holes(http: Http, root: Path, gated: Json) -> None:
    (root / "go").touch()
    *frames, last = await http.stream("start", **gated)
    numbers = [frame["event"]["number"] for frame in frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert (last["result"]["nextEvent"], last["result"]["running"]) == (numbers[-1] + 1, False)


async def test_who_lost_its_socket_asks_for_the_rest(
    daemon: Daemon, http: Http, root: Path, gated: Json
) -> None:
    async with socket_of(daemon) as socket:
        seen = await begun(socket, root, gated)
    following = asyncio.create_task(http.stream("start", fromEvent=seen["number"] + 1))
    (root / "go").touch()
    *frames, last = await following
    assert frames[0]["event"]["number"] == seen["number"] + 1
    told = [(each.get("step"), each.get("state"), each.get("text")) for each in (f["event"] for f in frames)]
    assert told[:3] == [(None, None, "two\n"), ("install", "done", None), ("dev_server", "started", None)]
    assert last["result"]["dev"]["state"] == "ready"
    again = await http.stream("start", fromEvent=seen["number"] + 1)
    assert again == [*frames, last]


async def test_the_same_start_is_joined_and_another_one_refused(
    http: Http, socket: Socket, root: Path, gated: Json
) -> None:
    seen = await begun(socket, root, gated)
    joined = asyncio.create_task(http.ok("start", **gated))
    refused = await http.refused("start")
    assert (refused.status, refused.code) == (503, "busy")
    first = refused.details["fromEvent"]
    assert first < seen["number"]
    assert refused.message == (
        f"a start is under way in this workspace, at install; follow it by 'fromEvent': {first}, "
        "or 'dev_stop' it"
    )
    assert refused.details["step"] == "install"
    (root / "go").touch()
    _, last = await socket.end_of("1")
    assert (await joined)["dev"] == last["result"]["dev"]
    assert (root / "on").exists()


async def test_curl_waits_as_long_as_it_likes(http: Http, root: Path, gated: Json) -> None:
    first = await http.ok("start", **gated, waitMs=0)
    assert first["running"] is True
    await until((root / "on").exists)
    texts: list[str] = []
    number = first["nextEvent"] - len(first["events"])
    while "one\n" not in texts:
        part = await http.ok("start", fromEvent=number, waitMs=50)
        texts += [each["text"] for each in part["events"] if each["type"] == "log"]
        number = part["nextEvent"]
        assert (part["running"], part["install"]["command"]) == (True, None)
    (root / "go").touch()
    last = await http.ok("start", fromEvent=number)
    assert (last["running"], last["dev"]["state"], last["install"]["command"]) == (False, "ready", GATE)
    assert last["events"][0]["text"] == "two\n"
    assert (await http.ok("start"))["events"] == []


async def test_a_failure_is_told_to_everybody_and_later_too(
    http: Http, socket: Socket, root: Path, gated: Json
) -> None:
    gated["install"]["command"] += "; exit 9"
    await begun(socket, root, gated)
    joined = asyncio.create_task(http.refused("start", **gated))
    waiting = asyncio.create_task(http.stream("start", fromEvent=1))
    (root / "go").touch()
    events, last = await socket.end_of("1")
    assert last["error"]["code"] == "install_failed"
    assert (events[-1]["step"], events[-1]["state"]) == ("install", "failed")
    assert (await joined).message == last["error"]["message"] == events[-1]["message"]
    assert (await waiting)[-1]["error"]["code"] == "install_failed"
    assert (await http.refused("start", fromEvent=1)).code == "install_failed"


async def test_who_began_it_may_cancel_it_and_a_follower_only_leaves(
    http: Http, socket: Socket, daemon: Daemon, root: Path, gated: Json
) -> None:
    await begun(socket, root, gated)
    await socket.send("2", "start", {"fromEvent": 1})
    await socket.next_of("2")
    await socket.send("2", "cancel")
    assert (await socket.end_of("2"))[1]["error"]["code"] == "cancelled"
    assert (await http.ok("start", fromEvent=1, waitMs=0))["running"] is True
    await socket.send("1", "cancel")
    assert (await socket.end_of("1"))[1]["error"]["code"] == "cancelled"
    assert (await http.refused("start", fromEvent=1)).message == "the start was cancelled"
    assert daemon.children() == set()


async def test_a_stop_ends_one_that_has_no_dev_server_yet(
    http: Http, socket: Socket, daemon: Daemon, root: Path, gated: Json
) -> None:
    await begun(socket, root, gated)
    assert (await http.ok("dev_stop"))["state"] == "down"
    assert (await socket.end_of("1"))[1]["error"]["code"] == "cancelled"
    assert daemon.children() == set()


async def test_what_cannot_be_followed_is_told(http: Http) -> None:
    mixed = await http.refused("start", fromEvent=1, install={"command": "x"})
    assert mixed.message == (
        "'fromEvent' follows a start that was begun before: nothing but 'waitMs' goes with it"
    )
    assert (await http.refused("start", waitMs=-1)).details == {"field": "waitMs"}
