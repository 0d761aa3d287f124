"""The WebSocket door: many at once, events in order, one last reply each; no client harms another."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.http import WSMsgType
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from protocol.limits import Limits
from protocol.messages.files import ListAnswer
from tests.builder import (
    PATIENCE_SECONDS,
    TOKEN,
    Daemon,
    Http,
    Json,
    Socket,
    http_of,
    is_alive,
    running,
    socket_of,
    tree_of,
    until,
)
from toolserver.tools.access import Access
from toolserver.tools.admission import EVERYTHING
from toolserver.tools.call import Call
from toolserver.tools.ledger import Ledger
from toolserver.tools.presence import Presence
from toolserver.wire.ws import _Peer

FOREVER = "echo $$; exec sleep 1000"


def code(last: Json) -> str:
    return str(last["error"]["code"])


async def started(socket: Socket, id: str) -> Json:
    """Wait for the first event of a command."""
    frame = await socket.next_of(id)
    assert frame["event"]["type"] == "started", frame
    event: Json = frame["event"]
    return event


def url_of(daemon: Daemon) -> str:
    return daemon.url.replace("http", "ws", 1) + "/v1/ws"


class Request(dict[str, Any]):
    """What a peer asks of one; its socket takes nothing more."""

    transport = SimpleNamespace(get_write_buffer_size=lambda: 1 << 20)


class Deaf:
    """A client that has asked a lot, reads nothing, and goes once it is let."""

    closed = False

    def __init__(self) -> None:
        self.goes = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for number in range(20):
            frame = b'{"id":"%d","op":"dev_status","params":{}}' % number
            yield SimpleNamespace(type=WSMsgType.TEXT, data=frame)
        await self.goes.wait()

    async def send_frame(self, frame: bytes, kind: WSMsgType) -> None:
        await asyncio.Event().wait()


async def test_nothing_waits_for_ever_for_a_client_that_is_gone() -> None:
    socket, answered = Deaf(), list[str]()

    async def run(operation: object, request: object, call: Call) -> ListAnswer:
        answered.append(call.request_id)
        return ListAnswer(path=".", entries=[], truncated=False)

    dispatcher = SimpleNamespace(ledger=Ledger(), at_once=lambda *_: None, run=run)
    access = Access(cast(Any, None), Presence(lambda _: False))
    asked = Request(admission=EVERYTHING)
    before = asyncio.all_tasks()
    peer = _Peer(*cast(Any, (socket, asked, "json", dispatcher, access, Limits(max_queued_frames=2))))
    speaking = asyncio.create_task(peer.speak())
    await until(lambda: len(answered) == 20)
    socket.goes.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await speaking
    assert asyncio.all_tasks() == before


class TestComingIn:
    async def test_a_token_in_the_subprotocol_is_taken_and_not_given_back(self, daemon: Daemon) -> None:
        offered = [Subprotocol("workspace.v1+json"), Subprotocol(f"bearer.{TOKEN}")]
        async with connect(url_of(daemon), subprotocols=offered) as connection:
            assert connection.subprotocol == "workspace.v1+json"
            await connection.send('{"id": "1", "op": "processes"}')
            assert json.loads(await connection.recv())["id"] == "1"

    async def test_the_handshake_tells_the_version_that_health_tells(
        self, daemon: Daemon, http: Http
    ) -> None:
        async with http.session.get("/health") as response:
            version = (await response.json())["version"]
        async with connect(url_of(daemon), additional_headers={"X-Workspace-Token": TOKEN}) as connection:
            assert connection.response is not None
            assert connection.response.headers["X-Tool-Server-Version"] == version

    async def test_messagepack_is_chosen_when_it_is_offered_first(self, daemon: Daemon) -> None:
        offered = [Subprotocol("workspace.v1+msgpack"), Subprotocol("workspace.v1+json")]
        headers = {"X-Workspace-Token": TOKEN}
        async with connect(url_of(daemon), subprotocols=offered, additional_headers=headers) as connection:
            assert connection.subprotocol == "workspace.v1+msgpack"

    @pytest.mark.parametrize("offered", [None, [Subprotocol("chat")], [Subprotocol(f"bearer.{TOKEN}")]])
    async def test_nothing_known_offered_means_json(self, daemon: Daemon, offered: Any) -> None:
        headers = {"X-Workspace-Token": TOKEN}
        async with connect(url_of(daemon), subprotocols=offered, additional_headers=headers) as connection:
            assert connection.subprotocol is None
            await connection.send('{"id": "1", "op": "processes"}')
            assert isinstance(await connection.recv(), str)

    async def test_the_token_is_in_no_line_of_the_log(self, daemon: Daemon) -> None:
        async with connect(url_of(daemon), subprotocols=[Subprotocol(f"bearer.{TOKEN}")]):
            pass
        assert TOKEN not in daemon.errors.read_text()

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({}, 401, "unauthorized"),
            ({"Authorization": "Bearer wrong-wrong-wrong"}, 401, "unauthorized"),
            ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403, "forbidden"),
        ],
    )
    async def test_who_may_not_come_in_is_told_why(
        self, daemon: Daemon, headers: dict[str, str], status: int, code: str
    ) -> None:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url_of(daemon), additional_headers=headers):
                pass
        response = caught.value.response
        assert response.status_code == status
        assert json.loads(response.body or b"")["error"]["code"] == code

    async def test_a_request_that_is_no_upgrade_is_refused(self, http: Http) -> None:
        async with http.session.get("/v1/ws") as response:
            body = await response.json()
        assert (response.status, body["error"]["code"]) == (400, "invalid_request")


class TestManyAtOnce:
    async def test_answers_come_by_id_and_in_any_order(self, either_socket: Socket, root: Path) -> None:
        socket = either_socket
        await socket.send(
            "slow", "command", {"command": "while [ ! -e go ]; do sleep 0.02; done"}, stream=False
        )
        for number in range(100):
            await socket.send(f"r{number}", "write", {"path": f"f{number}", "content": str(number)})
        for number in reversed(range(100)):
            events, last = await socket.end_of(f"r{number}")
            assert (events, last["result"]["path"]) == ([], f"f{number}")
        (root / "go").touch()
        assert (await socket.end_of("slow"))[1]["result"]["exitCode"] == 0

    async def test_what_needs_no_wait_is_answered_beside_what_does(
        self, either_socket: Socket, root: Path
    ) -> None:
        # 300 times 60 KB: more than the socket has room for while nobody reads, so both ways are gone.
        for number in range(3):
            (root / f"large{number}").write_bytes(bytes([ord("a") + number]) * 60_000)
        for number in range(300):
            await either_socket.send(f"r{number}", "read", {"path": f"large{number % 3}"})
            await either_socket.send(f"s{number}", "dev_status")
        for number in range(300):
            (events, last), (_, status) = [await either_socket.end_of(f"{id}{number}") for id in "rs"]
            assert (events, last["result"]["content"]) == ([], "abc"[number % 3] * 60_000)
            assert status["result"]["state"] == "down"

    async def test_what_cannot_be_answered_at_once_is_refused_as_ever(self, either_socket: Socket) -> None:
        _, last = await either_socket.call("read", path="../outside")
        assert code(last) == "outside_workspace"
        _, last = await either_socket.call("read", path="nothing")
        assert code(last) == "not_found"

    async def test_events_are_in_order_and_one_reply_is_last(self, either_socket: Socket, root: Path) -> None:
        socket = either_socket
        for id in ("a", "b", "c"):
            await socket.send(id, "command", {"command": f"for n in $(seq 2000); do echo {id}$n; done"})
        for id in ("a", "b", "c"):
            events, last = await socket.end_of(id)
            assert events[0]["type"] == "started"
            assert [event["type"] for event in events[1:]] == ["stdout"] * (len(events) - 1)
            text = "".join(event["data"] for event in events[1:])
            assert text == "".join(f"{id}{n}\n" for n in range(1, 2001))
            assert last["result"]["stdoutBytes"] == len(text)
        assert await socket.ok("processes")
        assert not any(socket._waiting.values())

    async def test_without_stream_there_are_no_events(self, either_socket: Socket, root: Path) -> None:
        await either_socket.send("1", "command", {"command": "echo x"}, stream=False)
        events, last = await either_socket.end_of("1")
        assert (events, last["result"]["stdout"]) == ([], "x\n")

    async def test_an_id_in_flight_is_refused_and_the_first_goes_on(self, socket: Socket, root: Path) -> None:
        await socket.send("1", "command", {"command": "while [ ! -e go ]; do sleep 0.02; done; echo first"})
        await started(socket, "1")
        await socket.send("1", "processes")
        assert (await socket.next_of(""))["error"]["message"] == "id '1' is in flight already; use another"
        (root / "go").touch()
        assert (await socket.end_of("1"))[1]["result"]["stdout"] == "first\n"
        await socket.send("1", "list")
        assert "result" in (await socket.end_of("1"))[1]

    async def test_more_in_flight_than_the_limit_are_refused(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_IN_FLIGHT="2", TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
            async with socket_of(daemon) as socket:
                for id in ("1", "2", "3"):
                    await socket.send(id, "command", {"command": FOREVER})
                refused = (await socket.next_of("3"))["error"]
                await socket.send("1", "cancel")
                await socket.end_of("1")
                await socket.send("4", "processes")
                assert "result" in (await socket.end_of("4"))[1]
        assert (refused["code"], refused["details"]) == ("busy", {"limit": "maxInFlight", "value": 2})
        assert refused["message"] == "2 requests are in flight on this socket, which is the limit"


class TestCancel:
    async def test_a_cancelled_command_ends_with_all_it_started(
        self, either_socket: Socket, daemon: Daemon
    ) -> None:
        socket = either_socket
        line = "sleep 1000 & (setsid sleep 1001 &); echo on; sleep 1002; true"
        await socket.send("1", "command", {"command": line})
        pid = (await started(socket, "1"))["pid"]
        await socket.next_of("1")
        await until(lambda: len(daemon.children()) >= 4)
        await socket.send("1", "cancel")
        _, last = await socket.end_of("1")
        assert (code(last), last["error"]["message"]) == ("cancelled", "command was cancelled")
        assert last["error"]["retryable"]
        left = last["error"]["details"]
        assert (left["stdoutBytes"], left["stderrBytes"], left["signal"]) == (3, 0, "SIGTERM")
        assert (await socket.ok("output", processId=left["processId"]))["data"] == "on\n"
        assert not is_alive(pid)
        assert daemon.children() == set()

    async def test_a_cancel_right_after_the_request_still_gets_its_one_reply(self, socket: Socket) -> None:
        for number in range(20):
            await socket.send(f"c{number}", "command", {"command": FOREVER})
            await socket.send(f"c{number}", "cancel")
        for number in range(20):
            assert code((await socket.end_of(f"c{number}"))[1]) == "cancelled"
        running = [each for each in (await socket.ok("processes"))["processes"] if each["state"] == "running"]
        assert running == []

    async def test_a_second_cancel_changes_nothing(self, socket: Socket) -> None:
        await socket.send("1", "command", {"command": "trap '' TERM; echo on; while :; do sleep 0.05; done"})
        pid = (await started(socket, "1"))["pid"]
        await socket.next_of("1")
        for _ in range(5):
            await socket.send("1", "cancel")
        _, last = await socket.end_of("1")
        assert (code(last), last["error"]["details"]["signal"]) == ("cancelled", "SIGKILL")
        assert not is_alive(pid)
        assert "result" in (await socket.call("processes"))[1]

    async def test_a_cancel_of_an_unknown_id_gets_no_reply(self, socket: Socket) -> None:
        await socket.send("nobody", "cancel")
        await socket.send("1", "processes")
        assert (await socket.receive())["id"] == "1"

    async def test_a_cancelled_attach_leaves_the_command(self, socket: Socket, root: Path) -> None:
        process = (await socket.ok("command", command=FOREVER, background=True))["processId"]
        await socket.send("1", "attach", {"processId": process})
        pid = (await started(socket, "1"))["pid"]
        await socket.send("1", "cancel")
        assert code((await socket.end_of("1"))[1]) == "cancelled"
        assert is_alive(pid)
        killed = (await socket.ok("stop", processId=process))["killed"]
        assert [each["pid"] for each in killed] == [pid]


class TestOutliving:
    async def test_a_command_outlives_its_socket_and_attach_goes_on(self, daemon: Daemon, root: Path) -> None:
        line = "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second; echo err >&2"
        async with socket_of(daemon) as first:
            await first.send("1", "command", {"command": line, "commandId": "outlives"})
            await started(first, "1")
            assert (await first.next_of("1"))["event"]["data"] == "first\n"
        (root / "go").touch()
        async with socket_of(daemon, "msgpack") as second:
            events, last = await second.call("attach", processId="outlives", fromOffset=6)
        assert [event for event in events if event["type"] == "stdout"] == [
            {"type": "stdout", "offset": 6, "nextOffset": 13, "data": "second\n"}
        ]
        assert [event for event in events if event["type"] == "stderr"] == [
            {"type": "stderr", "offset": 0, "nextOffset": 4, "data": "err\n"}
        ]
        assert (last["result"]["exitCode"], last["result"]["stdout"]) == (0, "second\n")

    async def test_two_sockets_follow_the_same_command(self, daemon: Daemon, root: Path) -> None:
        async with socket_of(daemon) as one, socket_of(daemon) as two:
            await one.send(
                "1",
                "command",
                {"command": "while [ ! -e go ]; do sleep 0.02; done; seq 3", "commandId": "shared"},
            )
            await started(one, "1")
            await two.send("2", "attach", {"processId": "shared"})
            await started(two, "2")
            (root / "go").touch()
            ends = await asyncio.gather(one.end_of("1"), two.end_of("2"))
        for events, last in ends:
            assert "".join(event["data"] for event in events) == "1\n2\n3\n"
            assert last["result"]["stdout"] == "1\n2\n3\n"

    async def test_a_socket_that_is_cut_leaves_no_request_behind(
        self, daemon: Daemon, http: Http, root: Path
    ) -> None:
        before = daemon.descriptors()
        for _ in range(5):
            async with socket_of(daemon) as socket:
                await socket.send("1", "attach", {"processId": "cut"})
                await socket.send("2", "command", {"command": "sleep 0.2"})
                socket.connection.transport.abort()
        await until(lambda: len(daemon.descriptors()) <= len(before) + 1, "all sockets and pipes are closed")


class TestWrongFrames:
    @pytest.mark.parametrize(
        ("frame", "id", "message"),
        [
            ("{", "", "the request is not valid JSON: input data was truncated"),
            ("[]", "", "expected 'object', got 'array'"),
            ('{"op": "list"}', "", "required field 'id' is missing"),
            ('{"id": 1, "op": "list"}', "", "expected 'str', got 'int' in 'id'"),
            ('{"id": "", "op": "list"}', "", "'id' has 1 to 128 characters"),
            ('{"id": "7", "op": "lst"}', "7", "there is no operation 'lst'; did you mean 'list'?"),
            (
                '{"id": "7", "op": "list", "params": {"pth": "."}}',
                "7",
                "unknown field 'pth'; did you mean 'path'?",
            ),
            (
                '{"id": "7", "op": "list", "params": {"depth": "1"}}',
                "7",
                "expected 'int', got 'str' in 'depth'",
            ),
            (
                '{"id": "7", "op": "list", "params": ' + '{"x":' * 50_000,
                "",
                "the request is not valid JSON: ",
            ),
        ],
    )
    async def test_a_wrong_frame_is_refused_and_the_socket_goes_on(
        self, socket: Socket, root: Path, frame: str, id: str, message: str
    ) -> None:
        await socket.send_raw(frame)
        reply = await socket.receive()
        assert (reply.get("id", ""), code(reply) != "internal") == (id, True)
        assert reply["error"]["message"].startswith(message)
        assert (await socket.ok("list"))["path"] == "."

    async def test_text_that_is_not_utf8_is_refused_and_the_socket_goes_on(
        self, socket: Socket, root: Path
    ) -> None:
        await socket.send_raw(b'{"id": "1", "op": "read", "params": {"path": "\xff"}}', text=True)
        reply = await socket.receive()
        assert reply["error"]["message"].startswith(
            "the request is not valid JSON: 'utf-8' codec can't decode"
        )
        assert (await socket.ok("list"))["path"] == "."

    async def test_messagepack_that_is_none_is_refused(self, daemon: Daemon, root: Path) -> None:
        async with socket_of(daemon, "msgpack") as socket:
            await socket.send_raw(b"\xc1")
            assert (await socket.receive())["error"]["message"].startswith(
                "the request is not valid MessagePack: "
            )
            assert (await socket.ok("list"))["path"] == "."

    @pytest.mark.parametrize("form", ["json", "msgpack"])
    async def test_a_frame_over_the_limit_closes_the_socket_with_its_reason(
        self, daemon: Daemon, root: Path, form: str
    ) -> None:
        async with http_of(daemon) as http:
            await http.ok("list")
        before = daemon.memory()
        async with socket_of(daemon, form) as socket:
            frame = b'{"id": "1", "op": "write", "params": {"path": "a", "content": "' + b"x" * 100_000_000
            sending = asyncio.create_task(socket.send_raw(frame, text=form == "json"))
            assert (await socket.closed())[0] == 1009
            await asyncio.gather(sending, return_exceptions=True)
        assert daemon.memory() - before < 64 * 2**20
        assert tree_of(root) == {}


class TestSlowClients:
    async def test_a_client_that_does_not_read_delays_nobody(self, daemon: Daemon, root: Path) -> None:
        """It asks for more than any buffer holds, and reads nothing."""
        raw = sockets.create_connection(("127.0.0.1", daemon.port))
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        try:
            raw.sendall(
                f"GET /v1/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            raw.sendall(
                masked({"id": "1", "op": "command", "params": {"command": "seq 3000000; touch done"}})
            )
            await until((root / "done").exists, "the program ends although its output is not read")
            async with socket_of(daemon) as other:
                assert (await other.ok("command", command="echo quick"))["stdout"] == "quick\n"
        finally:
            raw.close()
        assert daemon.memory() < 400 * 2**20

    async def test_a_client_that_does_not_read_its_refusals_is_not_kept_in_memory(
        self, daemon: Daemon
    ) -> None:
        before = daemon.memory("VmRSS")
        raw = sockets.create_connection(("127.0.0.1", daemon.port))
        raw.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(
                raw,
                f"GET /v1/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode(),
            )
            frames = masked({"id": "1", "op": "nope"}) * 1000
            with suppress(TimeoutError):
                # Until neither side takes any more: nobody reads the refusals.
                while True:
                    async with asyncio.timeout(0.5):
                        await loop.sock_sendall(raw, frames)
        finally:
            raw.close()
        assert daemon.memory("VmRSS") - before < 64 * 2**20


def masked(message: Json) -> bytes:
    """A client's text frame, with a mask of zeros."""
    data = json.dumps(message).encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data
