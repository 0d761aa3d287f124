"""A command's output on its way to readers of every kind: slow ones, dead ones, ones that come again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from protocol.limits import MIB
from tests.builder import (
    PATIENCE_SECONDS,
    Daemon,
    Http,
    Json,
    Socket,
    http_of,
    running,
    socket_of,
    until,
)

WAIT = "while [ ! -e go ]; do sleep 0.02; done; "
LINES = 3_000_000
"""Of ``seq``: 23 MB, far more than sockets and queues between the daemon and a reader hold."""


def seq(count: int) -> bytes:
    return b"".join(b"%d\n" % n for n in range(1, count + 1))


def text_of(events: list[Json], stream: str = "stdout") -> str:
    return "".join(each["data"] for each in events if each["type"] == stream)


def gaps_of(events: list[Json]) -> list[Json]:
    return [each for each in events if each["type"] == "gap"]


def hold_order(events: list[Json], end: int) -> None:
    """Data and gaps follow each other without a hole, up to ``end``."""
    position = 0
    for each in events:
        if each["type"] == "stdout":
            assert each["offset"] == position
            position = each["nextOffset"]
        elif each["type"] == "gap":
            assert each["offset"] == position
            position += each["missingBytes"]
    assert position == end


async def ended(http: Http, process_id: str) -> Json:
    """Its answer without output, once it has ended; however long that takes."""
    while (answer := await http.ok("attach", processId=process_id, maxOutputBytes=0, yieldMs=5000))[
        "running"
    ]:
        pass
    return answer


async def stuck_on(socket: Socket, process_id: str, **params: object) -> None:
    """Attach, and read no more than the first event from here on."""
    await socket.send("stuck", "attach", {"processId": process_id, "maxOutputBytes": 0, **params})
    assert (await socket.next_of("stuck"))["event"]["type"] == "started"


class TestSlowReaders:
    async def test_a_reader_that_never_reads_delays_neither_the_command_nor_another_reader(
        self, daemon: Daemon, socket: Socket, root: Path
    ) -> None:
        """Elsewhere one stuck reader stalls all others, and then the process."""
        async with socket_of(daemon) as stuck:
            params = {"command": WAIT + f"seq {LINES}", "background": True, "commandId": "watched"}
            await socket.ok("command", **params)
            await stuck_on(stuck, "watched")
            (root / "go").touch()
            events, last = await socket.call("attach", processId="watched", maxOutputBytes=0)
            assert last["result"]["exitCode"] == 0
            whole = seq(LINES)
            assert text_of(events).encode() == whole
            # And once it does read, it has missed nothing.
            late, _ = await stuck.end_of("stuck")
            assert text_of(late).encode() == whole

    async def test_a_reader_that_drops_goes_on_near_the_newest_and_is_told_what_it_missed(
        self, daemon: Daemon, socket: Socket, root: Path
    ) -> None:
        async with socket_of(daemon) as stuck:
            stuck.hold_little()
            params = {"command": WAIT + f"seq {LINES}", "background": True, "commandId": "dropped"}
            await socket.ok("command", **params)
            await stuck_on(stuck, "dropped", whenSlow="drop")
            (root / "go").touch()
            end = (await socket.ok("attach", processId="dropped", maxOutputBytes=0))["stdoutBytes"]
            events, _ = await stuck.end_of("stuck")
        hold_order(events, end)
        gaps = gaps_of(events)
        assert gaps
        assert {gap["reason"] for gap in gaps} == {"skipped"}
        assert text_of(events).encode().endswith(seq(LINES)[-1000:])
        gap = gaps[0]
        page = await socket.ok("output", processId="dropped", fromOffset=gap["offset"], maxBytes=1000)
        assert page["data"].encode() == seq(LINES)[gap["offset"] :][:1000]

    async def test_a_command_that_waits_for_its_reader_loses_nothing_however_little_is_kept(
        self, tmp_path: Path
    ) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_KEPT_OUTPUT_BYTES=str(MIB)) as daemon:
            async with socket_of(daemon) as socket:
                params = {"command": f"seq {LINES}", "whenSlow": "wait", "maxOutputBytes": 0}
                events, last = await socket.call("command", **params)
        assert gaps_of(events) == []
        assert text_of(events).encode() == seq(LINES)
        assert last["result"]["exitCode"] == 0

    async def test_a_reader_that_takes_nothing_is_not_waited_for_for_ever(self, tmp_path: Path) -> None:
        small = {"TOOL_SERVER_MAX_KEPT_OUTPUT_BYTES": str(MIB), "TOOL_SERVER_READER_PATIENCE_MS": "300"}
        with running(tmp_path, **small) as daemon:
            async with socket_of(daemon) as stuck, http_of(daemon) as http:
                stuck.hold_little()
                line = {"command": f"seq {LINES}", "commandId": "left", "whenSlow": "wait"}
                await stuck.send("stuck", "command", {**line, "maxOutputBytes": 0})
                assert (await stuck.next_of("stuck"))["event"]["type"] == "started"
                answer = await ended(http, "left")
                assert answer["exitCode"] == 0
                events, _ = await stuck.end_of("stuck")
                hold_order(events, answer["stdoutBytes"])
                assert {gap["reason"] for gap in gaps_of(events)} == {"lost"}


class TestLostClients:
    async def test_a_killed_client_is_followed_by_another_at_the_byte_where_it_stopped(
        self, daemon: Daemon, http: Http, root: Path
    ) -> None:
        """kill -9 in the middle of a stream; what both received together is what was written."""
        line = "seq 200000; " + WAIT + "seq 200001 400000"
        client = await asyncio.to_thread(_start_client, daemon, {"command": line, "commandId": "survivor"})
        try:
            received = await asyncio.to_thread(_read_some, client, 500_000)
        finally:
            os.kill(client.pid, signal.SIGKILL)
            await asyncio.to_thread(client.communicate)
        (root / "go").touch()
        frames = await http.stream("attach", processId="survivor", fromOffset=len(received))
        rest = text_of([frame["event"] for frame in frames if "event" in frame]).encode()
        assert received + rest == seq(400_000)
        assert frames[-1]["result"]["exitCode"] == 0

    async def test_output_with_nobody_listening_is_kept(self, http: Http, root: Path) -> None:
        """Elsewhere it is dropped, or replayed from an arbitrary place."""
        await http.ok("command", command="seq 500000", background=True, commandId="unheard")
        await ended(http, "unheard")
        frames = await http.stream("attach", processId="unheard")
        assert text_of([frame["event"] for frame in frames if "event" in frame]).encode() == seq(500_000)

    async def test_a_gibibyte_that_nobody_reads_costs_the_daemon_next_to_nothing(
        self, daemon: Daemon, http: Http, root: Path
    ) -> None:
        await http.ok("command", command="true")
        before = daemon.memory()
        await http.ok("command", command="head -c 1G /dev/zero", background=True, commandId="gibibyte")
        answer = await ended(http, "gibibyte")
        assert (answer["exitCode"], answer["stdoutBytes"]) == (0, 2**30)
        assert daemon.memory() - before < 24 * MIB
        page = await http.ok("output", processId="gibibyte", fromOffset=0, maxBytes=100)
        assert page["offset"] == page["missingBytes"] >= 2**30 - 66 * MIB
        assert page["end"] == 2**30

    async def test_what_many_ended_commands_wrote_is_not_held_in_memory(
        self, daemon: Daemon, http: Http
    ) -> None:
        await http.ok("command", command="true")
        before = daemon.memory("VmRSS")
        for number in range(200):
            line = {"command": "head -c 300000 /dev/zero", "commandId": f"c{number}", "maxOutputBytes": 0}
            await http.ok("command", **line)
        await until(lambda: daemon.memory("VmRSS") - before < 40 * MIB)
        page = await http.ok("output", processId="c0", fromOffset=299_999)
        assert (page["data"], page["end"]) == ("\0", 300_000)


class TestSilence:
    async def test_a_silent_command_is_kept_alive_by_pings_and_ended_by_nothing(self, tmp_path: Path) -> None:
        """In between, connections that are silent are cut: so they are not silent, and no clock runs."""
        with running(tmp_path, module="tests.impatient") as daemon:
            headers = {"Authorization": f"Bearer {daemon.token}"}
            async with (
                aiohttp.ClientSession(daemon.url, headers=headers) as session,
                session.ws_connect("/v1/ws", autoping=False) as socket,
                asyncio.timeout(PATIENCE_SECONDS),
            ):
                await socket.send_json({"id": "1", "op": "command", "params": {"command": WAIT + "echo x"}})
                assert (await socket.receive_json())["event"]["type"] == "started"
                for _ in range(2):
                    message = await socket.receive()
                    assert message.type is aiohttp.WSMsgType.PING
                    await socket.pong(message.data)
                (daemon.root / "go").touch()
                while (message := await socket.receive()).type is aiohttp.WSMsgType.PING:
                    await socket.pong(message.data)
                assert message.json()["event"]["data"] == "x\n"

    @pytest.mark.parametrize(
        ("accept", "nothing"), [("application/x-ndjson", b"\n"), ("text/event-stream", b":\n")]
    )
    async def test_a_silent_stream_over_http_is_kept_alive_by_lines_that_mean_nothing(
        self, tmp_path: Path, accept: str, nothing: bytes
    ) -> None:
        with running(tmp_path, module="tests.impatient") as daemon:
            async with http_of(daemon, Accept=accept) as http, asyncio.timeout(PATIENCE_SECONDS):
                body = json.dumps({"command": WAIT + "echo x"}).encode()
                async with http.session.post("/v1/command", data=body) as response:
                    # On a busy machine the start itself may take long enough for such lines.
                    while (line := await response.content.readline()) in (nothing, b"\n"):
                        pass
                    assert b"started" in line
                    while await response.content.readline() != nothing:
                        pass
                    (daemon.root / "go").touch()
                    text = await response.text()
        frames = [line.removeprefix("data: ") for line in text.splitlines() if line not in ("", ":")]
        event, result = map(json.loads, frames)
        assert (event["event"]["data"], result["result"]["exitCode"]) == ("x\n", 0)


class TestChildren:
    async def test_the_answer_comes_when_the_program_ends_and_what_its_child_writes_later_is_kept(
        self, http: Http, root: Path
    ) -> None:
        """Elsewhere a child that holds the pipe hangs the call."""
        line = "(" + WAIT + "echo from the child) & echo own"
        answer = await http.ok("command", command=line, commandId="held")
        assert (answer["stdout"], answer["exitCode"], answer["running"]) == ("own\n", 0, False)
        page = await http.ok("output", processId="held")
        assert (page["data"], page["closed"], page["running"]) == ("own\n", False, False)
        (root / "go").touch()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not page["closed"]:
                page = await http.ok("output", processId="held", fromOffset=4)
        assert (page["data"], page["offset"], page["end"]) == ("from the child\n", 4, 19)
        assert (await http.ok("attach", processId="held"))["stdout"] == "own\nfrom the child\n"


class TestBytes:
    async def test_zeros_and_what_is_no_text_arrive_as_they_are(self, socket: Socket, root: Path) -> None:
        data = bytes(range(256)) * 400 + b"\0" * 1000 + b"\xff\xfe\xc3"
        (root / "bytes").write_bytes(data)
        params = {"command": "cat bytes; cat bytes >&2", "encoding": "base64", "commandId": "bytes"}
        events, last = await socket.call("command", **params)
        for stream in ("stdout", "stderr"):
            told = b"".join(base64.b64decode(each["data"]) for each in events if each["type"] == stream)
            assert told == data
            assert base64.b64decode(last["result"][stream]) == data
        page = await socket.ok("output", processId="bytes", stream="stderr", encoding="base64", fromOffset=9)
        assert base64.b64decode(page["data"]) == data[9:]
        text = await socket.ok("attach", processId="bytes")
        assert text["replaced"]
        assert text["stdout"] == data.decode(errors="replace")

    async def test_raw_events_hold_the_bytes_and_the_answer_the_text(
        self, socket: Socket, root: Path
    ) -> None:
        data = b"a\xff\0" + bytes(range(256)) * 400
        (root / "bytes").write_bytes(data)
        line = "cat bytes; cat bytes >&2"
        events, last = await socket.call("command", command=line, rawEvents=True, maxOutputBytes=4)
        for stream in ("stdout", "stderr"):
            told = [each for each in events if each["type"] == f"{stream}_bytes"]
            assert b"".join(base64.b64decode(each["data"]) for each in told) == data
            assert (told[0]["offset"], told[-1]["nextOffset"]) == (0, len(data))
            assert last["result"][stream].startswith("a\ufffd")
        again, _ = await socket.call(
            "attach", processId=last["result"]["processId"], rawEvents=True, fromOffset=2
        )
        told = [each for each in again if each["type"] == "stdout_bytes"]
        assert b"".join(base64.b64decode(each["data"]) for each in told) == data[2:]

    async def test_a_line_of_ten_megabytes_is_one_line(self, socket: Socket, root: Path) -> None:
        program = "import os, sys\nsys.stdout.write('x' * 10_000_000 + '\\n')"
        events, last = await socket.call("command", argv=[sys.executable, "-c", program], commandId="line")
        assert text_of(events) == "x" * 10_000_000 + "\n"
        assert last["result"]["omittedBytes"] == 10_000_001 - MIB

    async def test_what_an_answer_leaves_out_is_fetched_page_by_page(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="seq 100000", maxOutputBytes=1000, commandId="paged")
        (missing,) = answer["omitted"]
        assert (missing["stream"], missing["bytes"]) == ("stdout", answer["omittedBytes"])
        head = answer["stdout"].encode()[: missing["offset"]]
        middle, at = b"", missing["offset"]
        while at < missing["offset"] + missing["bytes"]:
            left = missing["offset"] + missing["bytes"] - at
            page = await http.ok("output", processId="paged", fromOffset=at, maxBytes=min(100_000, left))
            assert (page["offset"], page["missingBytes"], page["closed"]) == (at, 0, True)
            middle += page["data"].encode()
            at = page["nextOffset"]
        tail = answer["stdout"].encode()[-500:]
        assert hashlib.sha256(head + middle + tail).digest() == hashlib.sha256(seq(100_000)).digest()

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"maxBytes": 3}, "'maxBytes' must be 4 or more, so that a character fits"),
            ({"fromOffset": -1}, "'fromOffset' must be 0 or more"),
        ],
        ids=str,
    )
    async def test_a_page_that_cannot_be_is_refused(self, http: Http, params: Json, message: str) -> None:
        assert (await http.refused("output", processId="x", **params)).message == message


_CLIENT = """
import asyncio, json, sys
from websockets.asyncio.client import connect

async def main(url, token, params):
    headers = {"Authorization": "Bearer " + token}
    async with connect(url, additional_headers=headers, compression=None) as socket:
        await socket.send(json.dumps({"id": "1", "op": "command", "params": params}))
        while True:
            event = json.loads(await socket.recv()).get("event", {})
            if event.get("type") == "stdout":
                sys.stdout.write(event["data"])
                sys.stdout.flush()

asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
"""


def _start_client(daemon: Daemon, params: Json) -> subprocess.Popen[bytes]:
    """A client of its own process, which writes what it receives to its standard output."""
    url = daemon.url.replace("http", "ws", 1) + "/v1/ws"
    argv = [sys.executable, "-c", _CLIENT, url, str(daemon.token), json.dumps(params)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def _read_some(client: subprocess.Popen[bytes], count: int) -> bytes:
    """Whatever it received first, so that it is killed in the middle."""
    assert client.stdout is not None
    return client.stdout.read(count)


async def test_two_clients_see_the_same_at_the_same_time(daemon: Daemon, http: Http, root: Path) -> None:
    await http.ok("command", command=WAIT + "seq 100000", background=True, commandId="shared")
    async with socket_of(daemon) as one, socket_of(daemon, "msgpack") as other:
        await stuck_on(one, "shared")
        await stuck_on(other, "shared")
        (root / "go").touch()
        (first, _), (second, _) = await asyncio.gather(one.end_of("stuck"), other.end_of("stuck"))
    assert text_of(first) == text_of(second) == seq(100_000).decode()


async def test_a_followed_command_leaves_no_reader_behind(daemon: Daemon, root: Path) -> None:
    async with socket_of(daemon) as gone:
        await gone.send("1", "command", {"command": WAIT + "echo x", "commandId": "unfollowed"})
        assert (await gone.next_of("1"))["event"]["type"] == "started"
    (root / "go").touch()
    async with http_of(daemon) as http:
        assert (await http.ok("attach", processId="unfollowed"))["stdout"] == "x\n"
    await until(lambda: daemon.children() == set())
