"""A dev server that ends by itself is started again, for as long as that helps; a stopped one is not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.builder import (
    PATIENCE_SECONDS,
    Daemon,
    Http,
    Json,
    Socket,
    emptied,
    http_of,
    running,
    socket_of,
    until,
)
from tests.ports import free_port

SERVER = """
import http.server, os, pathlib

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            print("going down", flush=True)
            os._exit(7)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass

runs = pathlib.Path("runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
print("run", len(runs.read_text()), flush=True)
if os.path.exists("broken"):
    raise SystemExit("it is broken")
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Page).serve_forever()
"""
SERVE = f"exec {sys.executable} serve.py"
SOON = {"CLAUDECODE": "1", "TOOL_SERVER_DEV_RESTART_DELAY_MS": "10", "TOOL_SERVER_MAX_DEV_RESTARTS": "2"}
LATE = {"TOOL_SERVER_DEV_RESTART_DELAY_MS": "600000"}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Tries twice, and does not wait long."""
    with running(tmp_path_factory.mktemp("hasty"), **SOON) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Waits ten minutes before it tries."""
    with running(tmp_path_factory.mktemp("patient"), **LATE) as daemon:
        yield daemon


@pytest.fixture
async def http(hasty: Daemon) -> AsyncIterator[Http]:
    async with with_server(hasty) as http:
        yield http


@pytest.fixture
async def late(patient: Daemon) -> AsyncIterator[Http]:
    async with with_server(patient) as http:
        yield http


@pytest.fixture
async def socket(hasty: Daemon, http: Http) -> AsyncIterator[Socket]:
    async with socket_of(hasty) as socket:
        yield socket


def with_server(daemon: Daemon) -> Stopping:
    (emptied(daemon.root) / "serve.py").write_text(SERVER)
    return Stopping(daemon)


class Stopping:
    """The HTTP door; the dev server is down afterwards."""

    def __init__(self, daemon: Daemon) -> None:
        self._door = http_of(daemon)

    async def __aenter__(self) -> Http:
        self._http = await self._door.__aenter__()
        return self._http

    async def __aexit__(self, *error: object) -> None:
        await self._http.ok("dev_stop")
        await self._door.__aexit__(None, None, None)


async def crash(status: Json) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{status['url']}crash")


def said(change: Json, wanted: Json) -> bool:
    return all(change[name] == value for name, value in wanted.items())


async def changes(socket: Socket, until_state: str, **wanted: object) -> list[Json]:
    """What becomes of the dev server from now on, up to an event that says so; ``about`` is running."""
    found: list[Json] = []
    while not found or found[-1]["state"] != until_state or not said(found[-1], wanted):
        found.append((await socket.next_of("about"))["event"])
    return found


async def crashed(daemon: Daemon, status: Json) -> None:
    """Have it crash, and the daemon know."""
    await crash(status)
    async with socket_of(daemon) as socket:
        await socket.send("about", "dev_status", {"follow": True, "fromEvent": status["nextEvent"]})
        await changes(socket, "crashed")


async def test_one_that_crashes_is_started_again_and_its_end_is_told(http: Http, socket: Socket) -> None:
    first = await http.ok("dev_start", command=SERVE, port=free_port())
    await socket.send("about", "dev_status", {"follow": True, "fromEvent": first["nextEvent"]})
    await crash(first)
    down, starting, ready = await changes(socket, "ready")
    assert (down["state"], down["exitCode"], down["output"]) == (
        "crashed",
        7,
        ["run 1", "going down"],
    )
    assert down["reason"] == "it ended with exit code 7: going down; it is started again in 10 ms"
    assert down["nextTry"] > first["since"]
    assert (starting["state"], starting["restarts"]) == ("starting", 1)
    assert [each["number"] for each in (down, starting, ready)] == [
        first["nextEvent"] + count for count in range(3)
    ]
    again = await http.ok("dev_status")
    assert (again["state"], again["restarts"], again["reason"]) == ("ready", 1, None)
    assert again["pid"] != first["pid"]
    assert again["nextEvent"] == ready["number"] + 1


async def test_one_that_keeps_failing_is_given_up_with_a_sentence(
    hasty: Daemon, http: Http, socket: Socket
) -> None:
    port = free_port()
    first = await http.ok("dev_start", command=SERVE, port=port)
    await socket.send("about", "dev_status", {"follow": True, "fromEvent": first["nextEvent"]})
    (hasty.root / "broken").touch()
    await crash(first)
    told = await changes(socket, "crashed", nextTry=None)
    assert [each["state"] for each in told] == ["crashed", "starting", "crashed", "starting", "crashed"]
    assert told[-1]["reason"] == (
        "it ended with exit code 1: it is broken; it failed 3 times in a row and is not started again: "
        "mend it, then 'dev_start'"
    )
    status = await http.ok("dev_status")
    assert (status["state"], status["restarts"], status["reason"]) == ("crashed", 2, told[-1]["reason"])
    (hasty.root / "broken").unlink()
    mended = await http.ok("dev_start", command=SERVE, port=port)
    assert (mended["state"], mended["restarts"], mended["reason"]) == ("ready", 0, None)


async def test_a_first_start_that_fails_is_told_and_not_repeated(hasty: Daemon, http: Http) -> None:
    (hasty.root / "broken").touch()
    refused = await http.refused("dev_start", command=SERVE, port=free_port())
    assert refused.message == "the dev server ended with exit code 1 before it was ready: it is broken"
    status = await http.ok("dev_status")
    assert (status["state"], status["nextTry"]) == ("crashed", None)
    assert (hasty.root / "runs").read_text() == "x"


async def test_a_stop_that_was_asked_for_is_the_end(patient: Daemon, late: Http) -> None:
    first = await late.ok("dev_start", command=SERVE, port=free_port())
    await crashed(patient, first)
    waiting = await late.ok("dev_status")
    assert (waiting["state"], waiting["exitCode"]) == ("crashed", 7)
    assert waiting["nextTry"] is not None
    stopped = await late.ok("dev_stop")
    assert (stopped["state"], stopped["nextTry"], stopped["reason"]) == ("down", None, None)
    assert (patient.root / "runs").read_text() == "x"


async def test_who_asks_while_it_waits_has_it_at_once(patient: Daemon, late: Http) -> None:
    port = free_port()
    first = await late.ok("dev_start", command=SERVE, port=port)
    await crashed(patient, first)
    second = await late.ok("dev_start", command=SERVE, port=port)
    assert (second["state"], second["nextTry"], second["restarts"]) == ("ready", None, 0)
    assert (patient.root / "runs").read_text() == "xx"


async def test_one_that_detaches_itself_later_is_had_back(hasty: Daemon, http: Http, socket: Socket) -> None:
    """Its leader ends and a child keeps the port: the child goes first."""
    detaching = f"{SERVE.removeprefix('exec ')} & while [ ! -e go ]; do sleep 0.02; done; exit 0"
    again = f"if [ -e go ]; then {SERVE}; fi; {detaching}"
    first = await http.ok("dev_start", command=again, port=free_port())
    await socket.send("about", "dev_status", {"follow": True, "fromEvent": first["nextEvent"]})
    (hasty.root / "go").touch()
    assert (await changes(socket, "ready"))[0]["exitCode"] == 0
    async with aiohttp.ClientSession() as session, session.get(first["url"]) as response:
        assert response.status == 200


async def test_its_log_goes_on_over_restarts(hasty: Daemon, http: Http, socket: Socket) -> None:
    first = await http.ok("dev_start", command=SERVE, port=free_port())
    await socket.send("log", "dev_logs", {"follow": True})
    await crash(first)
    text, end = "", 0
    while text != "run 1\ngoing down\nrun 2\n":
        event = (await socket.next_of("log"))["event"]
        text, end = text + event["text"], event["nextOffset"]
        assert end == len(text)
    assert await http.ok("dev_logs", fromOffset=17) == {"text": "run 2\n", "fromOffset": 17, "nextOffset": 23}
    assert (await http.ok("dev_logs", fromOffset=6, maxBytes=5))["text"] == "going"
    await http.ok("dev_stop")
    _, last = await socket.end_of("log")
    assert last["result"] == {"text": "", "fromOffset": 0, "nextOffset": 23}
    await http.ok("dev_start", command=SERVE, port=first["port"])
    assert (await http.ok("dev_logs"))["text"] == "run 3\n"
    await until(lambda: (hasty.root / "runs").read_text() == "xxx")


async def test_what_it_prints_before_it_is_ready_again_is_told_at_once(
    hasty: Daemon, http: Http, socket: Socket
) -> None:
    again = f"if [ -e runs ]; then echo coming; while [ ! -e go ]; do sleep 0.02; done; fi; {SERVE}"
    first = await http.ok("dev_start", command=again, port=free_port())
    await socket.send("log", "dev_logs", {"follow": True})
    await crash(first)
    text = ""
    while text != "run 1\ngoing down\ncoming\n":
        text += (await socket.next_of("log"))["event"]["text"]
    assert (await http.ok("dev_status"))["state"] == "starting"


async def test_one_that_hangs_when_it_is_started_again_is_stopped_and_counts_as_failed(
    hasty: Daemon, http: Http, socket: Socket
) -> None:
    (hasty.root / "well").touch()
    first = await http.ok(
        "dev_start",
        command="while [ ! -e die ]; do sleep 0.02; done; rm die; exit 3",
        port=free_port(),
        readiness={"file": {"path": "well"}, "timeoutMs": 1000},
    )
    await socket.send("about", "dev_status", {"follow": True, "fromEvent": first["nextEvent"]})
    (hasty.root / "well").unlink()
    (hasty.root / "die").touch()
    told = await changes(socket, "crashed", nextTry=None)
    assert [each["state"] for each in told] == ["crashed", "starting", "crashed", "starting", "crashed"]
    assert told[-1]["reason"].startswith(
        "the dev server was not ready within 1000 ms (readiness.timeoutMs); it is stopped; it failed 3 times"
    )
    await until(lambda: hasty.children() == set())


async def test_no_coding_agent_is_seen_by_it(http: Http) -> None:
    """Astro would put itself into the background; a command is told what the tool server was."""
    assert (await http.ok("command", command="echo $CLAUDECODE"))["stdout"] == "1\n"
    await http.ok("dev_start", command=f'echo "agent: $CLAUDECODE"; {SERVE}', port=free_port())
    assert (await http.ok("dev_logs"))["text"].startswith("agent: \n")


@pytest.mark.timeout(240)
async def test_one_that_writes_its_own_reason_to_start_anew_is_not_started_for_ever(
    http: Http, hasty: Daemon
) -> None:
    writes = "while [ ! -e hush ]; do date +%N > own.conf; sleep 1.2; done &"
    port = free_port()
    await http.ok("dev_start", command=f"{writes} {SERVE}", port=port, restartOn=["/own.conf"])

    async def status_when(text: str) -> Json:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while text not in ((status := await http.ok("dev_status"))["reason"] or ""):
                await asyncio.sleep(0.1)
        return status

    status = await status_when("it seems to write that itself")
    assert (status["state"], status["restarts"]) == ("ready", 4)
    assert "own.conf changed soon after it was started" in status["reason"]
    # What a request writes still counts.
    (hasty.root / "hush").touch()
    await http.ok("write", path="own.conf", content="by hand")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (after := await http.ok("dev_status"))["state"] != "ready" or after["pid"] == status["pid"]:
            await asyncio.sleep(0.1)
    assert after["restarts"] == 5
