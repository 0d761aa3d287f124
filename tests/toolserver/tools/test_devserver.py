"""The dev server: ready means that the port answered, and that it is ours; every other end is told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.builder import (
    PATIENCE_SECONDS,
    Daemon,
    Http,
    Json,
    Refusal,
    Socket,
    emptied,
    http_of,
    is_alive,
    out_of_time,
    running,
    socket_of,
    until,
)
from tests.ports import free_port

SERVER = """
import http.server, os, sys, threading, time

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            print("going down", flush=True)
            os._exit(7)
        code = 500 if os.path.exists("sick") else 404 if self.path == "/none" else 200
        self.send_response(code)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *args):
        print("asked for", self.path, flush=True)

print("serving", flush=True)
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Page).serve_forever()
"""
SERVE = f"{sys.executable} serve.py"
# Quick to be there: nothing is looked for on the way.
MUTE = """
import _socket, sys, time
family = _socket.AF_INET6 if ":" in sys.argv[1] else _socket.AF_INET
listener = _socket.socket(family)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
time.sleep(1000)
"""


@pytest.fixture
async def site(daemon: Daemon) -> AsyncIterator[Path]:
    """The root with a small server in it; whatever ran is stopped afterwards."""
    emptied(daemon.root)
    (daemon.root / "serve.py").write_text(SERVER)
    yield daemon.root
    async with http_of(daemon) as http:
        await http.ok("dev_stop")
    await until(lambda: daemon.children() == set())


@pytest.fixture
def port() -> int:
    return free_port()


WRONG: list[tuple[Json, str, str]] = [
    ({"port": 0}, "invalid_request", "'port' must be from 1 to 65535"),
    (
        {"readiness": {"port": True, "log": {"pattern": "x"}}},
        "invalid_request",
        "'readiness' takes one kind, not port and log",
    ),
    (
        {"readiness": {"log": {"pattern": "("}}},
        "invalid_request",
        "'readiness.log.pattern' is no regular expression: ",
    ),
    (
        {"readiness": {"log": {"pattern": "a{" + "9" * 30 + "}"}}},
        "invalid_request",
        "'readiness.log.pattern' is no regular expression: ",
    ),
    (
        {"readiness": {"log": {"pattern": "x" * 1001}}},
        "invalid_request",
        "'readiness.log.pattern' has 1001 characters; 1000 are the most",
    ),
    (
        {"readiness": {"http": {"path": "x"}}},
        "invalid_request",
        "'readiness.http.path' begins with / and has no spaces",
    ),
    ({"allowedHosts": ["a b"]}, "invalid_request", "'a b' in 'allowedHosts' is no host name: say "),
    ({"readiness": {"timeoutMs": 0}}, "invalid_request", "'readiness.timeoutMs' must be above 0"),
    ({"readiness": {"file": {"path": "../x"}}}, "outside_workspace", "'../x' is outside the workspace"),
    (
        {"readiness": {"htp": {}}},
        "invalid_request",
        "unknown field 'readiness.htp'; did you mean 'http'?",
    ),
]


READINESS: list[tuple[Json, str]] = [
    ({"http": {"path": "/x"}}, "http"),
    ({"http": {"path": "/none", "status": 404}}, "status"),
    ({"port": True}, "port"),
    ({"log": {"pattern": "^serv.ng$"}}, "log"),
    ({"file": {"path": "ready-file"}}, "file"),
    ({"command": {"command": "test -e ready-file"}}, "command"),
]


async def refused_mute(
    http: Http, site: Path, port: int, listens: int, address: str = "127.0.0.1"
) -> Refusal:
    """How a start at ``port`` ends when what is started listens on ``listens`` and never answers."""
    (site / "mute.py").write_text(MUTE)

    async def ask(clock: int) -> Refusal:
        line, readiness = f"exec {sys.executable} -I -S mute.py {address} {listens}", {"timeoutMs": clock}
        return await http.refused("dev_start", command=line, port=port, readiness=readiness)

    return await out_of_time(ask, lambda refused: refused.details.get("listening"))


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


class TestReady:
    async def test_ready_means_that_the_port_answers(self, http: Http, site: Path, port: int) -> None:
        status = await http.ok("dev_start", command=SERVE, port=port)
        assert (status["state"], status["port"]) == ("ready", port)
        assert status["url"] == f"http://127.0.0.1:{port}/"
        assert status["command"] == SERVE
        assert is_alive(status["pid"])
        assert await fetch(status["url"]) == (200, "/")
        assert await http.ok("dev_status") == status

    async def test_a_pattern_that_would_take_years_holds_nobody_up(
        self, http: Http, site: Path, port: int
    ) -> None:
        params = {
            "command": f"printf ',%.0s' $(seq 400); {SERVE}",
            "port": port,
            "readiness": {"log": {"pattern": "(?:.*?,){30}x"}, "timeoutMs": 100_000},
        }

        async def ask() -> Refusal:
            # Its two seconds are of processor time, of which a busy machine gives little.
            clock = aiohttp.ClientTimeout(100)
            async with http.session.post("/v1/dev_start", json=params, timeout=clock) as response:
                return Refusal.of(response.status, await response.json())

        starting = asyncio.create_task(ask())
        answered = 0
        while not starting.done():
            await http.ok("dev_status")
            answered += 1
            await asyncio.sleep(0.05)
        refused = await starting
        assert refused.code == "dev_server_failed"
        assert "'readiness.log.pattern' takes more than 2 s of" in refused.message
        assert answered > 10
        assert refused.message == (await http.ok("dev_status"))["reason"]

    async def test_placeholders_and_variables_name_the_place(self, http: Http, site: Path, port: int) -> None:
        status = await http.ok(
            "dev_start",
            command=f"echo {{host}}:{{port}} $HOST:$PORT $BROWSER $A; {SERVE}",
            port=port,
            env={"A": "b"},
        )
        assert status["command"].startswith(f"echo 127.0.0.1:{port} ")
        text = (await http.ok("dev_logs"))["text"]
        assert text.startswith(f"127.0.0.1:{port} 127.0.0.1:{port} none b\n")

    @pytest.mark.parametrize(
        "readiness", [each for each, _ in READINESS], ids=[name for _, name in READINESS]
    )
    async def test_it_may_be_told_by_other_signs(
        self, http: Http, site: Path, port: int, readiness: Json
    ) -> None:
        line = f"(sleep 0.2; touch ready-file) & {SERVE}"
        assert (await http.ok("dev_start", command=line, port=port, readiness=readiness))["state"] == "ready"
        if "file" in readiness or "command" in readiness:
            assert (site / "ready-file").exists()

    async def test_a_sick_server_is_not_ready_until_it_is_well(
        self, http: Http, daemon: Daemon, site: Path, port: int
    ) -> None:
        (site / "sick").touch()
        starting = asyncio.create_task(http.ok("dev_start", command=SERVE, port=port))
        async with http_of(daemon) as other:
            while "asked for /" not in (await logs(other)):
                await asyncio.sleep(0.02)
            assert (await other.ok("dev_status"))["state"] == "starting"
            (site / "sick").unlink()
        assert (await starting)["state"] == "ready"

    async def test_its_output_comes_as_events_while_it_starts(
        self, socket: Socket, site: Path, port: int
    ) -> None:
        events, last = await socket.call("dev_start", command=SERVE, port=port)
        assert last["result"]["state"] == "ready"
        assert {(event["type"], event["source"]) for event in events} == {("log", "dev_server")}
        assert "".join(event["text"] for event in events).startswith("serving\n")

    async def test_it_is_not_told_of_agents(self, http: Http, site: Path, port: int) -> None:
        await http.ok("dev_start", command=f"env; {SERVE}", port=port)
        assert "TOOL_SERVER" not in (await logs(http))


class TestStartingTwice:
    async def test_other_hosts_are_told_to_vite(self, http: Http, site: Path, port: int) -> None:
        line = f"echo $__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS; {SERVE}"
        await http.ok("dev_start", command=line, port=port, allowedHosts=["a.example", ".b.example"])
        assert (await logs(http)).startswith("a.example,.b.example\n")

    async def test_two_starts_at_once_are_one(self, http: Http, site: Path, port: int) -> None:
        answers = await asyncio.gather(*(http.ok("dev_start", command=SERVE, port=port) for _ in range(4)))
        assert len({answer["processId"] for answer in answers}) == 1
        assert {answer["state"] for answer in answers} == {"ready"}

    async def test_one_that_runs_is_left_alone(self, http: Http, site: Path, port: int) -> None:
        first = await http.ok("dev_start", command=SERVE, port=port)
        assert await http.ok("dev_start", command=SERVE, port=port) == first

    async def test_another_command_is_a_conflict(self, http: Http, site: Path, port: int) -> None:
        await http.ok("dev_start", command=SERVE, port=port)
        refused = await http.refused("dev_start", command="other", port=port)
        assert (refused.status, refused.code) == (409, "conflict")
        assert refused.message == (
            f"the dev server runs already, with another command ({SERVE}); 'dev_stop' it first"
        )

    async def test_it_starts_again_after_a_stop(self, http: Http, site: Path, port: int) -> None:
        first = await http.ok("dev_start", command=SERVE, port=port)
        await fetch(first["url"])
        assert (await http.ok("dev_stop"))["state"] == "down"
        second = await http.ok("dev_start", command=SERVE, port=port)
        assert second["pid"] != first["pid"]
        assert await fetch(second["url"]) == (200, "/")


async def once_crashed(http: Http) -> Json:
    """Its status, once the daemon knows that it has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (status := await http.ok("dev_status"))["state"] != "crashed":
            await asyncio.sleep(0.02)
    return status


class TestFailing:
    async def test_one_that_exits_at_once_is_told_with_its_last_words(
        self, http: Http, site: Path, port: int
    ) -> None:
        refused = await http.refused(
            "dev_start", command="echo one; echo 'no such port' >&2; exit 3", port=port
        )
        assert (refused.status, refused.code) == (422, "dev_server_failed")
        assert refused.message == "the dev server ended with exit code 3 before it was ready: no such port"
        assert (refused.details["exitCode"], refused.details["output"]) == (3, ["one", "no such port"])
        status = await http.ok("dev_status")
        assert (status["state"], status["exitCode"], status["url"], status["pid"]) == (
            "crashed",
            3,
            None,
            None,
        )

    async def test_one_that_detaches_itself_is_told_and_nothing_of_it_is_left(
        self, http: Http, daemon: Daemon, site: Path, port: int
    ) -> None:
        line = f"setsid {SERVE} > /dev/null 2>&1 & echo $! > pid; echo detached"
        # Not by its answer: the leader is gone before or after that, as it happens.
        refused = await http.refused("dev_start", command=line, port=port, readiness={"file": {"path": "no"}})
        pid = (site / "pid").read_text().strip()
        assert refused.message == (
            "the dev server ended with exit code 0 before it was ready: detached; "
            f"it left process {pid} in the background: have it stay in the foreground"
        )
        assert daemon.children() == set()

    @pytest.mark.parametrize("readiness", [{}, {"log": {"pattern": "^serving$"}}], ids=["http", "log"])
    async def test_megabytes_of_garbage_are_no_trouble(
        self, http: Http, site: Path, port: int, readiness: Json
    ) -> None:
        line = f"head -c 3000000 /dev/urandom; head -c 3000000 /dev/zero; echo; {SERVE}"
        await http.ok("dev_start", command=line, port=port, readiness=readiness)
        # It answers while the last of what it printed before may still lie in its pipe.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (piece := await http.ok("dev_logs", fromOffset=6_000_001))["text"]:
                await asyncio.sleep(0.01)
        assert (piece["text"][:8], piece["fromOffset"]) == ("serving\n", 6_000_001)
        (site / "go.py").write_text("import os; os.write(1, bytes(range(256)) * 4000); os._exit(4)")
        await http.ok("dev_stop")
        refused = await http.refused("dev_start", command=f"{sys.executable} go.py", port=port)
        assert refused.details["exitCode"] == 4
        assert len(refused.message) < 1000

    async def test_one_that_never_answers_is_stopped_and_told(
        self, http: Http, daemon: Daemon, site: Path, port: int
    ) -> None:
        async def ask(clock: int) -> Refusal:
            readiness = {"timeoutMs": clock}
            refused = await http.refused(
                "dev_start", command="echo waiting; sleep 1000", port=port, readiness=readiness
            )
            assert refused.code == "dev_server_failed"
            assert refused.message == (
                f"the dev server was not ready within {clock} ms (readiness.timeoutMs); it is stopped"
            )
            assert (refused.details["clock"], refused.details["value"]) == ("readiness.timeoutMs", clock)
            return refused

        refused = await out_of_time(ask, lambda refused: refused.details["output"])
        assert refused.details["output"] == ["waiting"]
        assert (await http.ok("dev_status"))["state"] == "down"
        assert daemon.children() == set()

    async def test_one_that_answers_elsewhere_is_told_where(self, http: Http, site: Path, port: int) -> None:
        other = free_port()
        refused = await refused_mute(http, site, port, other)
        assert f"; it listens on {other}; it is stopped" in refused.message
        assert refused.details["listening"] == [other]

    @pytest.mark.parametrize(
        ("address", "hint"),
        [
            ("::1", "not at 127.0.0.1: have it listen there, as by '--host {host}'"),
            ("127.0.0.1", "does not answer as its readiness asks; it is stopped"),
        ],
        ids=["another address", "no answer"],
    )
    async def test_one_that_has_the_port_and_is_not_ready_is_told_why(
        self, http: Http, site: Path, port: int, address: str, hint: str
    ) -> None:
        refused = await refused_mute(http, site, port, port, address)
        assert f"; it listens on {port}, but {hint}" in refused.message

    @pytest.mark.parametrize("probe", [{"command": {"command": "sleep 1000"}}, {"http": {"path": "/hangs"}}])
    async def test_a_question_that_hangs_does_not_outlast_the_clock(
        self, http: Http, daemon: Daemon, site: Path, port: int, probe: Json
    ) -> None:
        (site / "hang.py").write_text(
            "import socket, os, time\ns = socket.socket()\ns.setsockopt(1, 2, 1)\n"
            "s.bind(('127.0.0.1', int(os.environ['PORT'])))\ns.listen()\ntime.sleep(1000)\n"
        )
        refused = await http.refused(
            "dev_start", command=f"{sys.executable} hang.py", port=port, readiness={**probe, "timeoutMs": 700}
        )
        assert "was not ready within 700 ms" in refused.message
        assert daemon.children() == set()

    async def test_a_port_taken_by_another_program_is_told(
        self, http: Http, daemon: Daemon, site: Path, port: int
    ) -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        async with server:
            refused = await http.refused("dev_start", command="touch started; sleep 1000", port=port)
        assert refused.code == "dev_server_failed"
        assert refused.message.startswith(f"port {port} is taken by process ")
        assert refused.message.endswith("; stop it, or give another 'port'")
        assert refused.details["port"] == port
        assert not (site / "started").exists()
        assert (await http.ok("dev_status"))["state"] == "down"

    async def test_a_strangers_answer_on_the_port_is_not_taken_for_ours(
        self, http: Http, site: Path, port: int
    ) -> None:
        """The port is free at the start; then somebody else is quicker."""
        asked: list[int] = []

        async def ask(clock: int) -> Refusal:
            line, readiness = "touch on; sleep 1000", {"timeoutMs": clock}
            starting = asyncio.create_task(
                http.refused("dev_start", command=line, port=port, readiness=readiness)
            )

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readline()
                asked.append(clock)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                writer.close()

            await until(lambda: (site / "on").exists() or starting.done())
            async with await asyncio.start_server(answer, "127.0.0.1", port):
                refused = await starting
            (site / "on").unlink(missing_ok=True)
            assert refused.code == "dev_server_failed"
            assert f"was not ready within {clock} ms" in refused.message
            return refused

        await out_of_time(ask, lambda _: asked)
        assert asked

    async def test_a_crash_after_ready_is_a_state(self, http: Http, site: Path, port: int) -> None:
        status = await http.ok("dev_start", command=SERVE, port=port, restart="never")
        with pytest.raises(aiohttp.ClientError):
            await fetch(f"{status['url']}crash")
        crashed = await once_crashed(http)
        assert (crashed["reason"], crashed["nextTry"]) == ("it ended with exit code 7: going down", None)
        assert (crashed["state"], crashed["exitCode"], crashed["url"]) == ("crashed", 7, None)
        assert "going down" in (await logs(http))
        async with http.session.get("/ready") as response:
            assert (response.status, (await response.json())["state"]) == (503, "crashed")
        assert (await http.ok("dev_start", command=SERVE, port=port))["state"] == "ready"

    async def test_a_crashed_ones_child_does_not_keep_the_port(
        self, http: Http, site: Path, port: int
    ) -> None:
        line = f"{SERVE} & while [ ! -e go ]; do sleep 0.02; done; exit 5"
        await http.ok("dev_start", command=line, port=port, restart="never")
        (site / "go").touch()
        await once_crashed(http)
        assert (await http.ok("dev_start", command=SERVE, port=port))["state"] == "ready"

    @pytest.mark.parametrize(("params", "code", "message"), WRONG, ids=[each[2][:30] for each in WRONG])
    async def test_what_cannot_be_waited_for_is_not_started(
        self, http: Http, daemon: Daemon, site: Path, params: Json, code: str, message: str
    ) -> None:
        refused = await http.refused(
            "dev_start", **{"command": "touch started; sleep 1000", "port": 1, **params}
        )
        assert refused.code == code
        assert refused.message.startswith(message)
        assert not (site / "started").exists()
        assert (await http.ok("dev_status"))["state"] in ("down", "crashed")
        assert daemon.children() == set()


class TestStopping:
    async def test_a_stop_ends_all_of_it(self, http: Http, daemon: Daemon, site: Path, port: int) -> None:
        await http.ok("dev_start", command=f"(setsid sleep 1000 &); {SERVE}", port=port)
        await until(lambda: len(daemon.children()) >= 2)
        status = await http.ok("dev_stop")
        assert (status["state"], status["url"], status["pid"]) == ("down", None, None)
        assert daemon.children() == set()

    async def test_one_that_hangs_is_stopped_though_it_hears_nothing(
        self, http: Http, daemon: Daemon, site: Path, port: int
    ) -> None:
        started = await http.ok("dev_start", command=f"trap '' TERM; {SERVE} & wait; sleep 1000", port=port)
        server = next(each for each in daemon.children() if each != started["pid"])
        os.kill(server, signal.SIGSTOP)
        assert (await http.ok("dev_stop"))["state"] == "down"
        assert daemon.children() == set()

    async def test_a_stop_of_nothing_is_no_error(self, http: Http, site: Path) -> None:
        assert (await http.ok("dev_stop"))["state"] == "down"

    async def test_a_stop_while_it_starts_is_told_to_who_waits(
        self, http: Http, site: Path, port: int
    ) -> None:
        starting = asyncio.create_task(http.refused("dev_start", command="touch on; sleep 1000", port=port))
        await until((site / "on").exists)
        assert (await http.ok("dev_stop"))["state"] == "down"
        refused = await starting
        assert (refused.status, refused.code) == (422, "dev_server_failed")
        assert refused.message == "the dev server was stopped before it was ready"

    async def test_a_start_right_after_a_stop_is_not_taken_down_with_it(
        self, http: Http, site: Path, port: int
    ) -> None:
        await http.ok("dev_start", command=f"trap 'sleep 0.2; exit 0' TERM; {SERVE} & wait; wait", port=port)
        stopping = asyncio.create_task(http.ok("dev_stop"))
        status: Json = {}
        while status.get("state") != "ready":
            async with http.session.post("/v1/dev_start", json={"command": SERVE, "port": port}) as response:
                status = await response.json()
        await stopping
        assert (await http.ok("dev_status"))["state"] == "ready"
        assert await fetch(status["url"]) == (200, "/")

    async def test_a_cancelled_start_is_stopped(
        self, socket: Socket, daemon: Daemon, site: Path, port: int
    ) -> None:
        await socket.send("1", "dev_start", {"command": "touch on; sleep 1000", "port": port})
        await until((site / "on").exists)
        await socket.send("1", "cancel")
        _, last = await socket.end_of("1")
        assert last["error"]["code"] == "cancelled"
        assert (await socket.ok("dev_status"))["state"] == "down"
        assert daemon.children() == set()

    async def test_a_start_outlives_its_socket(
        self, daemon: Daemon, http: Http, site: Path, port: int
    ) -> None:
        line = f"touch on; while [ ! -e go ]; do sleep 0.02; done; {SERVE}"
        async with socket_of(daemon) as socket:
            await socket.send("1", "dev_start", {"command": line, "port": port})
            await until((site / "on").exists)
        (site / "go").touch()
        assert (await http.ok("dev_start", command=line, port=port))["state"] == "ready"


class TestLogs:
    async def test_before_any_start_there_are_none(self, tmp_path: Path) -> None:
        with running(tmp_path) as daemon:
            async with http_of(daemon) as http:
                none, nothing = await http.refused("dev_logs"), await http.refused("dev_start")
        assert none.message == "no dev server was started yet; 'dev_start' starts one"
        assert nothing.code == "dev_server_failed"
        assert nothing.message == (
            "no dev server to start: give 'command', a script 'dev' in package.json, or an index.html"
        )

    async def test_they_are_read_in_pieces(self, http: Http, site: Path, port: int) -> None:
        await http.refused("dev_start", command="echo 0123456789; exit 1", port=port)
        assert await http.ok("dev_logs", fromOffset=2, maxBytes=3) == {
            "text": "234",
            "fromOffset": 2,
            "nextOffset": 5,
        }
        assert (await http.ok("dev_logs", fromOffset=99))["text"] == ""
        refused = await http.refused("dev_logs", fromOffset=-1)
        assert refused.code == "invalid_request"

    async def test_they_are_followed(self, socket: Socket, site: Path, port: int) -> None:
        status = await socket.ok("dev_start", command=SERVE, port=port)
        await socket.send("1", "dev_logs", {"follow": True})
        assert (await socket.next_of("1"))["event"]["text"].startswith("serving\n")
        await fetch(f"{status['url']}wanted")
        text = ""
        while "wanted" not in text:
            text += (await socket.next_of("1"))["event"]["text"]
        await socket.send("1", "cancel")
        assert (await socket.end_of("1"))[1]["error"]["code"] == "cancelled"
        assert (await socket.ok("dev_status"))["state"] == "ready"


class TestStaticSite:
    async def test_a_page_without_npm_is_served_and_reloads(self, http: Http, root: Path, port: int) -> None:
        await http.ok("write", path="index.html", content="<body>hello</body>")
        await http.ok("write", path="style.css", content="a {}")
        await http.ok("write", path=".env", content="SECRET=1")
        (root / "out").symlink_to("/etc")
        status = await http.ok("dev_start", port=port)
        try:
            url = status["url"]
            assert status["command"] == f"static site on 127.0.0.1:{port}"
            code, text = await fetch(url)
            assert (code, text.startswith("<body>hello<script>")) == (200, True)
            assert await fetch(f"{url}style.css") == (200, "a {}")
            for path in ("missing", ".env", "out/passwd", "%2e%2e/state", "..%2f..%2fetc/passwd"):
                assert (await fetch(url + path))[0] == 404
            async with aiohttp.ClientSession() as session, session.get(f"{url}__live") as live:
                assert (await live.content.readline()).startswith(b": listening")
                await http.ok("edit", path="style.css", oldText="a {}", newText="b {}")
                assert await data_of(live) == "css"
                await http.ok("edit", path="index.html", oldText="hello", newText="bye")
                assert await data_of(live) == "page"
            assert "bye" in (await fetch(url))[1]
        finally:
            stopped = await http.ok("dev_stop")
        assert stopped["state"] == "down"


async def data_of(live: aiohttp.ClientResponse) -> str:
    """The next server-sent event."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            line = (await live.content.readline()).decode()
            if line.startswith("data: "):
                return line.removeprefix("data: ").strip()


async def logs(http: Http) -> str:
    async with http.session.post("/v1/dev_logs", json={}) as response:
        body: Any = await response.json()
    return str(body.get("text", ""))
