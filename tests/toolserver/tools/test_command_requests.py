"""What a command may be asked with: its variables, its input, its clock, its name."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.builder import (
    PATIENCE_SECONDS,
    Daemon,
    Http,
    Json,
    Socket,
    http_of,
    out_of_time,
    raw_of,
    running,
    socket_of,
    until,
)

WAIT = "while [ ! -e go ]; do sleep 0.02; done; "


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that knows a lot, started by an agent."""
    known = {
        "SESSION_ID": "s-1",
        "DEV_SERVER_PORT": "4999",
        "TOOL_SERVER_OF_A_NEWER_VERSION": "x",
        "CLAUDECODE": "1",
        "AI_AGENT": "an agent",
    }
    with running(tmp_path_factory.mktemp("told"), **known) as daemon:
        yield daemon


@pytest.fixture
async def asked(told: Daemon) -> AsyncIterator[Http]:
    async with http_of(told) as http:
        yield http


class TestVariables:
    async def environ(self, asked: Http, **params: object) -> dict[str, str]:
        """The variables as the program itself has them, with no shell between."""
        answer = await asked.ok("command", argv=["cat", "/proc/self/environ"], **params)
        return dict(each.split("=", 1) for each in answer["stdout"].split("\0") if each)

    async def test_nothing_that_the_daemon_knows_reaches_a_command(self, asked: Http, told: Daemon) -> None:
        environ = await self.environ(asked)
        assert not [name for name in environ if name.startswith("TOOL_SERVER")]
        assert not environ.keys() & {"SESSION_ID", "WORKSPACE_ROOT", "DEV_SERVER_PORT", "EXTRA_CA_BUNDLE"}
        text = json.dumps(environ)
        assert str(told.token) not in text
        assert str(told.state) not in text
        assert {"PATH", "HOME", "LANG"} <= environ.keys()

    async def test_what_says_that_an_agent_asks_is_left_as_the_caller_gave_it(self, asked: Http) -> None:
        environ = await self.environ(asked)
        assert (environ["CLAUDECODE"], environ["AI_AGENT"]) == ("1", "an agent")
        environ = await self.environ(asked, env={"CLAUDECODE": "0", "GEMINI_CLI": "1"})
        assert (environ["CLAUDECODE"], environ["GEMINI_CLI"]) == ("0", "1")

    async def test_exact_variables_are_all_there_are(self, asked: Http) -> None:
        environ = await self.environ(asked, env={"A": "1"}, envMode="exact", commandId="exact")
        assert environ == {"A": "1", "WORKSPACE_PROCESS_ID": "exact"}

    async def test_a_login_shell_is_one_only_when_asked_for(self, asked: Http, told: Daemon) -> None:
        (told.root / ".profile").write_text("export FROM_PROFILE=yes\n")
        line = {"command": "echo [$FROM_PROFILE]", "env": {"HOME": str(told.root)}}
        assert (await asked.ok("command", **line))["stdout"] == "[]\n"
        assert (await asked.ok("command", **line, login=True))["stdout"] == "[yes]\n"
        refused = await asked.refused("command", argv=["true"], login=True)
        assert refused.message == "'login' is about the shell that runs 'command'; leave it out"


class TestInput:
    async def test_a_command_that_reads_its_input_gets_the_end_at_once(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="read x; echo $?; cat; wc -c; node_like=$(cat); echo end")
        assert answer["stdout"] == "1\n0\nend\n"

    async def test_input_may_be_any_bytes(self, http: Http, root: Path) -> None:
        answer = await http.ok(
            "command", argv=["od", "-An", "-tx1"], stdin="/wAKgA==", stdinEncoding="base64"
        )
        assert answer["stdout"].split() == ["ff", "00", "0a", "80"]
        refused = await http.refused("command", argv=["cat"], stdin="?", stdinEncoding="base64")
        assert refused.details == {"field": "stdin"}

    async def test_a_running_command_is_fed_piece_by_piece(self, socket: Socket, root: Path) -> None:
        line = "while read -r x; do echo got $x; done; echo end"
        params = {"command": line, "stdin": "first\n", "stdinOpen": True}
        await socket.send("1", "command", params)
        assert (await socket.next_of("1"))["event"]["type"] == "started"
        assert (await socket.next_of("1"))["event"]["data"] == "got first\n"
        id = (await socket.ok("processes"))["processes"][-1]["processId"]
        for n, word in enumerate(("ein", "zwei")):
            answer = await socket.ok("send_input", processId=id, data=f"{word}\n")
            assert answer["takenBytes"] == len(word) + 1
            assert answer["open"]
            assert (await socket.next_of("1"))["event"]["data"] == f"got {word}\n", n
        assert not (await socket.ok("send_input", processId=id, eof=True))["open"]
        events, last = await socket.end_of("1")
        assert (events[-1]["data"], last["result"]["exitCode"]) == ("end\n", 0)

    async def test_a_hundred_megabytes_of_input_pass_through_bounded_memory(
        self, daemon: Daemon, socket: Socket, root: Path
    ) -> None:
        id = "large-input"
        await socket.ok("command", argv=["sha256sum"], stdinOpen=True, background=True, commandId=id)
        piece = "0123456789abcdef" * (4 * 2**20 // 16)
        await socket.ok("send_input", processId=id, data=piece, offset=0)
        before, whole = daemon.memory(), hashlib.sha256(piece.encode())
        sent = len(piece)
        while sent < 100_000_000:
            answer = await socket.ok("send_input", processId=id, data=piece, offset=sent)
            assert (answer["takenBytes"], answer["nextOffset"]) == (len(piece), sent + len(piece))
            whole.update(piece.encode())
            sent += len(piece)
        await socket.ok("send_input", processId=id, eof=True)
        told = await socket.ok("attach", processId=id)
        assert told["stdout"].split()[0] == whole.hexdigest()
        assert daemon.memory() - before < 64 * 2**20

    async def test_a_command_that_does_not_read_is_fed_no_more_than_the_bound(
        self, http: Http, root: Path
    ) -> None:
        await http.ok("command", command=WAIT + "wc -c", stdinOpen=True, background=True, commandId="deaf")
        data = "x" * 3_000_000
        answer = await http.ok("send_input", processId="deaf", data=data, offset=0, yieldMs=0)
        assert 0 < answer["takenBytes"] < 2_000_000
        assert answer["queuedBytes"] <= Limits().max_queued_input_bytes
        (root / "go").touch()
        answer = await http.ok("send_input", processId="deaf", data=data, offset=0, eof=True)
        assert (answer["takenBytes"], answer["nextOffset"]) == (3_000_000, 3_000_000)
        assert (await http.ok("attach", processId="deaf"))["stdout"].strip() == "3000000"

    async def test_an_input_that_is_not_open_is_told(self, http: Http, root: Path) -> None:
        await http.ok("command", command="true", commandId="closed-input")
        refused = await http.refused("send_input", processId="closed-input", data="x")
        assert refused.code == "conflict"
        assert refused.message == (
            "the standard input of 'closed-input' is not open; start it with 'stdinOpen' or 'pty'"
        )

    async def test_an_input_whose_program_ended_is_told(self, http: Http, root: Path) -> None:
        await http.ok("command", command="head -c 1", stdin="ab", stdinOpen=True, commandId="ended-input")
        refused = await http.refused("send_input", processId="ended-input", data="x")
        assert (refused.code, refused.details) == ("conflict", {"nextOffset": 2})
        assert refused.message.startswith("standard input takes no more: the program ")

    async def test_a_terminal_is_typed_on(self, socket: Socket, root: Path) -> None:
        await socket.send("1", "command", {"command": "cat; echo left", "pty": {}, "commandId": "typed-on"})
        assert (await socket.next_of("1"))["event"]["type"] == "started"
        await socket.ok("send_input", processId="typed-on", data="hello\n")
        answer = await socket.ok("send_input", processId="typed-on", eof=True)
        assert answer["open"]
        _, last = await socket.end_of("1")
        assert last["result"]["stdout"] == "hello\r\nhello\r\nleft\r\n"

    async def test_another_client_may_feed_it(self, daemon: Daemon, http: Http, root: Path) -> None:
        await http.ok("command", argv=["cat"], stdinOpen=True, background=True, commandId="by-another")
        async with socket_of(daemon) as other:
            await other.ok("send_input", processId="by-another", data="eA==", encoding="base64", eof=True)
        assert (await http.ok("attach", processId="by-another"))["stdout"] == "x"


class TestClock:
    async def test_an_answer_may_come_before_the_end_and_the_command_goes_on(
        self, http: Http, root: Path
    ) -> None:
        line = "echo early; touch on; " + WAIT + "echo late; exit 3"
        # Asked again under its name until it has begun to write, which a busy machine may take its time for.
        answer: Json = {"stdout": ""}
        while not answer["stdout"]:
            answer = await http.ok("command", command=line, yieldMs=50, commandId="yielding")
        assert (answer["stdout"], answer["running"], answer["exitCode"]) == ("early\n", True, None)
        assert (answer["timedOut"], answer["timeoutMs"], answer["usage"]) == (False, None, None)
        (root / "go").touch()
        later = await http.ok("attach", processId="yielding", fromOffset=answer["stdoutBytes"])
        assert (later["stdout"], later["running"], later["exitCode"]) == ("late\n", False, 3)

    async def test_a_command_that_ends_earlier_answers_at_its_end(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="echo x", yieldMs=60_000)
        assert (answer["stdout"], answer["running"], answer["exitCode"]) == ("x\n", False, 0)

    async def test_an_attach_may_look_in_for_a_moment(self, http: Http, root: Path) -> None:
        await http.ok("command", command=WAIT, background=True, commandId="looked-at")
        assert (await http.ok("attach", processId="looked-at", yieldMs=0))["running"]
        (root / "go").touch()
        assert not (await http.ok("attach", processId="looked-at"))["running"]

    async def test_a_streamed_command_that_yields_has_told_what_its_answer_holds(
        self, socket: Socket, root: Path
    ) -> None:
        # Asked again under its name until it has begun to write: each answer is told from the beginning.
        told, answer = "", {"stdout": ""}
        while not answer["stdout"]:
            line = "echo a; " + WAIT
            events, last = await socket.call("command", command=line, yieldMs=500, commandId="ys")
            told, answer = "".join(each.get("data", "") for each in events), last["result"]
        assert told == answer["stdout"] == "a\n"
        (root / "go").touch()
        await socket.ok("attach", processId="ys")

    async def test_a_silent_command_ends_by_the_stated_clock_alone_which_is_named(
        self, http: Http, root: Path
    ) -> None:
        """Only the time that was asked for ends a command; the answer has the partial output."""
        asked: list[int] = []

        async def ask(clock: int) -> Json:
            asked.append(clock)
            return await http.ok("command", command="printf partial; exec sleep 1000", timeoutMs=clock)

        answer = await out_of_time(ask, lambda answer: answer["stdout"])
        timeout_ms = asked[-1]
        assert answer["stdout"] == "partial"
        assert (answer["timedOut"], answer["timeoutMs"]) == (True, timeout_ms)
        assert answer["timeoutClock"] == "timeoutMs"
        assert (answer["signal"], answer["exitCode"]) == ("SIGTERM", 143)
        assert answer["durationMs"] >= timeout_ms

    async def test_the_tool_servers_own_clock_has_another_name(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_COMMAND_TIMEOUT_MS="300") as daemon:
            async with http_of(daemon) as http:
                answer = await http.ok("command", command="exec sleep 1000")
        assert (answer["timedOut"], answer["timeoutMs"]) == (True, 300)
        assert answer["timeoutClock"] == "commandTimeoutMs"

    @pytest.mark.parametrize("field", ["yieldMs", "fromOffset", "fromStderrOffset", "maxOutputBytes"])
    async def test_less_than_nothing_is_refused(self, http: Http, field: str) -> None:
        refused = await http.refused("attach", processId="x", **{field: -1})
        assert refused.message == f"{field!r} must be 0 or more"

    async def test_what_it_took_of_the_machine_is_told(self, http: Http, root: Path) -> None:
        program = "x = b'x' * 500_000_000\nfor _ in range(10**6): pass"
        usage = (await http.ok("command", argv=[sys.executable, "-c", program]))["usage"]
        assert usage["userCpuMs"] > 0
        assert usage["systemCpuMs"] > 0
        assert usage["peakMemoryBytes"] >= 500_000_000

    async def test_memory_that_may_be_the_daemons_own_is_not_told_as_the_commands(
        self, http: Http, root: Path
    ) -> None:
        assert (await http.ok("command", argv=["true"]))["usage"]["peakMemoryBytes"] is None


class TestName:
    async def test_a_retry_after_a_lost_answer_runs_nothing_twice(
        self, daemon: Daemon, http: Http, root: Path
    ) -> None:
        """The connection breaks before the answer; the same request again finds the same run."""
        line = "echo run >> runs; " + WAIT + "echo done"
        body = json.dumps({"command": line, "commandId": "lost"})
        head = f"POST /v1/command HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.token}\r\n"
        sent = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        async with raw_of(daemon, sent):
            await until((root / "runs").exists)
        again = asyncio.create_task(http.ok("command", command=line, commandId="lost"))
        (root / "go").touch()
        assert (await again)["stdout"] == "done\n"
        assert (root / "runs").read_text() == "run\n"

    async def test_requests_that_race_run_once(self, daemon: Daemon, http: Http, root: Path) -> None:
        params = {"command": "echo run >> runs; " + WAIT, "commandId": "raced"}
        async with socket_of(daemon) as socket:
            for n in range(20):
                await socket.send(str(n), "command", {**params, "timeoutMs": 60_000 + n})
            await until((root / "runs").exists)
            (root / "go").touch()
            answers = [(await socket.end_of(str(n)))[1]["result"] for n in range(20)]
        assert (root / "runs").read_text() == "run\n"
        assert {answer["processId"] for answer in answers} == {"raced"}
        assert len({answer["timeoutMs"] for answer in answers}) == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"command": "echo 2"},
            {"command": "echo 1", "env": {"A": "1"}},
            {"command": "echo 1", "stdin": "x"},
            {"command": "echo 1", "cwd": "below"},
            {"command": "echo 1", "pty": {}},
            {"command": "echo 1", "login": True},
            {"argv": ["echo", "1"]},
        ],
        ids=str,
    )
    async def test_a_name_given_to_another_command_is_a_conflict(
        self, http: Http, root: Path, other: Json
    ) -> None:
        (root / "below").mkdir()
        await http.ok("command", command="echo 1", commandId="named")
        refused = await http.refused("command", **other, commandId="named")
        assert (refused.status, refused.code, refused.details) == (409, "conflict", {"commandId": "named"})
        same = await http.ok("command", command="echo 1", commandId="named", timeoutMs=9, yieldMs=5)
        assert same["stdout"] == "1\n"


async def kept(http: Http) -> list[str]:
    return [each["processId"] for each in (await http.ok("processes"))["processes"]]


class TestRecords:
    """Records go soon after they are too many, not at once: every wait here is for that."""

    async def test_records_go_when_their_output_is_too_much_in_all(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_KEPT_OUTPUT_IN_ALL_BYTES="1000000") as daemon:
            async with http_of(daemon) as http, asyncio.timeout(PATIENCE_SECONDS):
                line = "head -c 400000 /dev/zero"
                ids = [(await http.ok("command", command=line))["processId"] for _ in range(5)]
                while ids[0] in await kept(http):
                    ids.append((await http.ok("command", command="true"))["processId"])
                left = await kept(http)
                assert left == ids[-len(left) :]
                assert ids[4] in left
                assert (await http.refused("output", processId=ids[0])).code == "not_found"

    async def test_records_go_when_they_are_too_old(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_KEPT_PROCESS_AGE_MS="50") as daemon:
            async with http_of(daemon) as http, asyncio.timeout(PATIENCE_SECONDS):
                await http.ok("command", command="true")
                while await kept(http):
                    await asyncio.sleep(0.02)

    async def test_a_record_that_somebody_reads_is_not_torn_from_him(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_KEPT_PROCESSES="1") as daemon:
            async with http_of(daemon) as http, socket_of(daemon) as slow, asyncio.timeout(PATIENCE_SECONDS):
                size = 24_000_000
                line = f"head -c {size} /dev/zero | tr '\\0' x"
                await http.ok("command", command=line, commandId="read", maxOutputBytes=0)
                await slow.send("1", "attach", {"processId": "read", "maxOutputBytes": 0})
                assert (await slow.next_of("1"))["event"]["type"] == "started"
                other = (await http.ok("command", command="true"))["processId"]
                while other in await kept(http):
                    await http.ok("command", command="true")
                events, last = await slow.end_of("1")
                assert sum(len(each.get("data", "")) for each in events) == size
                assert "result" in last
                while "read" in await kept(http):
                    await http.ok("command", command="true")
