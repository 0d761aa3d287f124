"""command, attach, stop, processes: whatever a program does, the daemon stays clean."""

from __future__ import annotations

import asyncio
import base64
import sys
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
    is_alive,
    out_of_time,
    running,
    socket_of,
    until,
)

EVERY_CHILD = (
    "sleep 1000 & (setsid sleep 1001 &); (setsid sh -c 'sleep 1002 & sleep 1003' &); "
    "nohup sleep 1004 >/dev/null 2>&1 & "
)
"""Children of every kind: in the group, in another session, forked twice, deaf to a hangup."""


CANNOT_START: list[tuple[Json, str, str]] = [
    (
        {"argv": ["no-such-program"]},
        "not_found",
        "there is no program 'no-such-program' on the PATH; check its name",
    ),
    ({"argv": ["./no-such"]}, "not_found", "there is no program './no-such'; check its name"),
    ({"argv": ["./file"]}, "forbidden", "'./file' may not be executed; is its x bit set?"),
    (
        {"argv": ["./no-interpreter"]},
        "not_found",
        "'./no-interpreter' is there, but the program that its first line names is not",
    ),
    ({"argv": ["./no-format"]}, "invalid_request", "'./no-format' cannot be started: Exec format error"),
    ({"argv": ["./dir"]}, "forbidden", "'./dir' may not be executed; is its x bit set?"),
    (
        {"argv": ["echo", "x" * 200_000]},
        "too_large",
        "arguments and environment are too long for the system, which takes 128 KiB in each; "
        "use a file or stdin, or 'shell' for a long line",
    ),
    (
        {"argv": ["x" * 100_000]},
        "invalid_request",
        f"'{'x' * 300}' cannot be started: File name too long",
    ),
    ({}, "invalid_request", "give either 'command' (a line for the shell) or 'argv', one of them"),
    (
        {"command": "x", "timeoutMs": 0},
        "invalid_request",
        "'timeoutMs' must be above 0; leave it out for the default",
    ),
    ({"command": "x", "commandId": ""}, "invalid_request", "'commandId' must have 1 to 128 characters"),
    ({"command": "x", "commandId": "a\0"}, "invalid_request", "'commandId' holds a NUL character"),
    ({"command": "x", "pty": {"cols": 0}}, "invalid_request", "a terminal has 1 to 1000 columns and rows"),
]


class TestRunning:
    async def test_a_line_runs_in_a_shell(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="echo out; echo err >&2; exit 3")
        assert (answer["stdout"], answer["stderr"], answer["exitCode"]) == ("out\n", "err\n", 3)
        assert (answer["running"], answer["signal"], answer["timedOut"], answer["truncated"]) == (
            False,
            None,
            False,
            False,
        )
        assert (answer["stdoutBytes"], answer["stderrBytes"], answer["omittedBytes"]) == (4, 4, 0)
        assert answer["durationMs"] > 0

    async def test_a_program_runs_without_a_shell(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", argv=["printf", "%s|", "$HOME", "a b", "*"])
        assert answer["stdout"] == "$HOME|a b|*|"

    async def test_it_runs_in_the_root_or_below(self, http: Http, root: Path) -> None:
        (root / "src").mkdir()
        (root / "link").symlink_to(root / "src")
        assert (await http.ok("command", command="pwd"))["stdout"] == f"{root}\n"
        for cwd in ("src", "/app/src", "link"):
            assert (await http.ok("command", command="pwd", cwd=cwd))["stdout"] == f"{root}/src\n"

    @pytest.mark.parametrize(
        ("cwd", "code"),
        [
            ("missing", "not_found"),
            ("file", "not_found"),
            ("..", "outside_workspace"),
            ("out", "outside_workspace"),
        ],
    )
    async def test_it_does_not_start_elsewhere(self, http: Http, root: Path, cwd: str, code: str) -> None:
        (root / "file").touch()
        (root / "out").symlink_to("/")
        assert (await http.refused("command", command="touch /tmp/x", cwd=cwd)).code == code

    async def test_variables_are_added(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="echo $A:$HOME", env={"A": "1 2", "HOME": "/h"})
        assert answer["stdout"] == "1 2:/h\n"

    async def test_nothing_of_the_daemons_own_reaches_it(
        self, http: Http, root: Path, daemon: Daemon
    ) -> None:
        told = (await http.ok("command", command="env; ls -l /proc/self/fd"))["stdout"]
        assert "TOOL_SERVER" not in told
        assert "WORKSPACE_ROOT" not in told
        assert str(daemon.token) not in told
        assert "socket:" not in told
        assert str(daemon.state) not in told

    async def test_standard_input_is_empty_or_what_was_given(self, http: Http, root: Path) -> None:
        assert (await http.ok("command", command="cat"))["stdout"] == ""
        text = "ü\n" * 200_000
        answer = await http.ok("command", command="sha256sum", stdin=text)
        (root / "in").write_text(text)
        assert (
            answer["stdout"].split()[0]
            == (await http.ok("command", command="sha256sum in"))["stdout"].split()[0]
        )

    async def test_a_program_that_does_not_read_its_input_ends_well(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="exec 0<&-; echo done", stdin="x" * 2_000_000)
        assert (answer["stdout"], answer["exitCode"]) == ("done\n", 0)

    async def test_a_signal_is_told_by_its_name(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="kill -SEGV $$")
        assert (answer["exitCode"], answer["signal"]) == (139, "SIGSEGV")

    async def test_output_that_is_no_text_is_exact_in_base64(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command=r"printf '\377\000a'", encoding="base64")
        assert base64.b64decode(answer["stdout"]) == b"\xff\0a"
        assert (await http.ok("command", command=r"printf '\377a'"))["stdout"] == "\ufffda"

    @pytest.mark.parametrize(
        ("params", "code", "message"), CANNOT_START, ids=[each[2][:40] for each in CANNOT_START]
    )
    async def test_what_cannot_be_started_is_told(
        self, http: Http, root: Path, params: Json, code: str, message: str
    ) -> None:
        (root / "dir").mkdir()
        (root / "file").write_text("#!/bin/sh\n")
        for name, text in (
            ("no-interpreter", "#!/no/such/interpreter\n"),
            ("no-format", "\x7fnot a program\n"),
        ):
            (root / name).write_text(text)
            (root / name).chmod(0o755)
        refused = await http.refused("command", **params)
        assert (refused.code, refused.message) == (code, message)

    async def test_a_line_that_names_no_program_is_the_shells_error(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="no-such-program")
        assert answer["exitCode"] == 127
        assert "no-such-program: command not found" in answer["stderr"]


class TestOutput:
    async def test_the_middle_of_long_output_is_left_out_and_counted(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="seq 100000", maxOutputBytes=1000)
        whole = "".join(f"{n}\n" for n in range(1, 100_001))
        note = f"\n[… {len(whole) - 1000} bytes left out; 'output' gives them …]\n"
        head, _, tail = answer["stdout"].partition(note)
        assert whole.startswith(head)
        assert whole.endswith(tail)
        assert (len(head), len(tail)) == (500, 500)
        assert (answer["truncated"], answer["omittedBytes"]) == (True, len(whole) - 1000)
        assert answer["stdoutBytes"] == len(whole)

    async def test_the_middle_is_cut_between_characters(self, http: Http, root: Path) -> None:
        answer = await http.ok(
            "command", command="for i in $(seq 2000); do printf 漢; done", maxOutputBytes=1000
        )
        assert "\ufffd" not in answer["stdout"]
        assert answer["omittedBytes"] == 6000 - 3 * answer["stdout"].count("漢")

    async def test_a_hundred_megabytes_stay_out_of_memory(
        self, daemon: Daemon, socket: Socket, root: Path
    ) -> None:
        await socket.ok("command", command="true")
        before = daemon.memory()
        answer = await socket.ok(
            "command",
            command="yes 0123456 | head -c 100000000; yes e | head -c 1000000 >&2",
            commandId="much",
        )
        assert (answer["stdoutBytes"], answer["stderrBytes"], answer["truncated"]) == (
            100_000_000,
            1_000_000,
            True,
        )
        assert daemon.memory() - before < 32 * 2**20
        events, _ = await socket.call("attach", processId="much", fromOffset=0, maxOutputBytes=10)
        gaps = [event for event in events if event["type"] == "gap"]
        kept = sum(len(event["data"]) for event in events if event["type"] == "stdout")
        assert [(gap["stream"], gap["offset"]) for gap in gaps] == [("stdout", 0)]
        assert gaps[0]["missingBytes"] + kept == 100_000_000
        assert kept >= Limits().max_kept_output_bytes
        assert daemon.memory() - before < 64 * 2**20

    async def test_every_byte_is_told_once_and_in_order(self, socket: Socket, root: Path) -> None:
        events, _ = await socket.call("command", command="seq 200000")
        text = "".join(event["data"] for event in events if event["type"] == "stdout")
        assert text == "".join(f"{n}\n" for n in range(1, 200_001))
        position = 0
        for event in events[1:]:
            assert event["offset"] == position
            position += len(event["data"])

    async def test_many_small_writes_are_followed_in_time(self, socket: Socket, root: Path) -> None:
        program = "import os\nfor n in range(30000): os.write(1, b'line %05d\\n' % n)"
        events, _ = await socket.call("command", argv=[sys.executable, "-c", program])
        text = "".join(event["data"] for event in events if event["type"] == "stdout")
        assert text == "".join(f"line {n:05}\n" for n in range(30_000))

    async def test_a_child_that_holds_the_pipe_holds_nobody_up(
        self, http: Http, daemon: Daemon, root: Path
    ) -> None:
        answer = await http.ok(
            "command",
            command="(while [ ! -e go ]; do sleep 0.02; done; echo late) & echo own",
            commandId="pipe-holder",
        )
        assert (answer["stdout"], answer["exitCode"]) == ("own\n", 0)
        (root / "go").touch()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await http.ok("output", processId="pipe-holder"))["closed"]:
                await asyncio.sleep(0.01)
        await until(lambda: daemon.children() == set())
        later = await http.ok("attach", processId="pipe-holder")
        assert later["stdout"] == "own\nlate\n"


class TestTerminal:
    async def test_a_program_sees_a_terminal_of_the_size(self, http: Http, root: Path) -> None:
        answer = await http.ok(
            "command",
            command="tty; stty size; test -t 0 && test -t 2 && echo yes",
            pty={"cols": 99, "rows": 33},
        )
        lines = answer["stdout"].split("\r\n")
        assert lines[0].startswith("/dev/pts/")
        assert lines[1:3] == ["33 99", "yes"]
        assert answer["stderr"] == ""

    async def test_both_streams_come_as_one(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="echo a; echo b >&2; echo c", pty={})
        assert answer["stdout"] == "a\r\nb\r\nc\r\n"

    async def test_what_is_fed_is_typed(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="read line; echo got $line", pty={}, stdin="hello\n")
        assert "got hello" in answer["stdout"]

    async def test_it_is_the_controlling_terminal(self, http: Http, root: Path) -> None:
        answer = await http.ok(
            "command",
            command="echo via tty > /dev/tty; trap 'echo interrupted; exit 5' INT; kill -INT 0; sleep 5",
            pty={},
        )
        assert "via tty" in answer["stdout"]
        assert (answer["exitCode"], "interrupted" in answer["stdout"]) == (5, True)

    async def test_a_missing_program_is_told(self, http: Http, root: Path) -> None:
        refused = await http.refused("command", argv=["no-such-program"], pty={})
        assert refused.message == "there is no program 'no-such-program' on the PATH; check its name"

    async def test_it_times_out_like_any_other(self, http: Http, daemon: Daemon, root: Path) -> None:
        answer = await http.ok("command", command="cat", pty={}, timeoutMs=100)
        assert answer["timedOut"]
        assert daemon.children() == set()


class TestEnding:
    async def test_a_timeout_ends_children_of_every_kind(
        self, http: Http, daemon: Daemon, root: Path
    ) -> None:
        answer = await http.ok("command", command=EVERY_CHILD + "sleep 1005; true", timeoutMs=300)
        assert (answer["timedOut"], answer["timeoutMs"], answer["signal"]) == (True, 300, "SIGTERM")
        assert (answer["exitCode"], answer["running"], answer["survivors"]) == (143, False, [])
        assert daemon.children() == set()

    async def test_a_timeout_is_over_only_when_the_deaf_are_dead(
        self, http: Http, daemon: Daemon, root: Path
    ) -> None:
        line = "sh -c \"trap '' TERM; while :; do sleep 0.05; done\" & wait"
        answer = await http.ok("command", command=line, timeoutMs=200)
        assert answer["timedOut"]
        assert daemon.children() == set()

    async def test_a_program_that_ignores_the_end_is_killed(
        self, http: Http, daemon: Daemon, root: Path
    ) -> None:
        line = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
        answer = await out_of_time(
            lambda clock: http.ok("command", command=line, timeoutMs=clock), lambda answer: answer["stdout"]
        )
        assert (answer["signal"], answer["exitCode"]) == ("SIGKILL", 137)
        assert daemon.children() == set()

    async def test_a_command_that_ends_in_time_is_not_timed_out(self, http: Http, root: Path) -> None:
        answer = await http.ok("command", command="echo x", timeoutMs=60_000)
        assert (answer["timedOut"], answer["timeoutMs"]) == (False, 60_000)

    @pytest.mark.parametrize("timeout_ms", [2**31, 2**53, 10**25])
    async def test_a_very_long_time_is_only_that(self, http: Http, root: Path, timeout_ms: int) -> None:
        assert (await http.ok("command", command="echo x", timeoutMs=timeout_ms))["exitCode"] == 0

    async def test_the_usual_time_is_told(self, http: Http, root: Path) -> None:
        assert (await http.ok("command", command="true"))["timeoutMs"] == Limits().command_timeout_ms
        assert (await http.ok("command", command="true", background=True))["timeoutMs"] is None

    async def test_stop_ends_children_of_every_kind(self, http: Http, daemon: Daemon, root: Path) -> None:
        started = await http.ok(
            "command", command=EVERY_CHILD + "touch on; sleep 1005; true", background=True
        )
        await until((root / "on").exists)
        await until(lambda: len(daemon.children()) >= 7)
        answer = await http.ok("stop", processId=started["processId"])
        assert len(answer["killed"]) >= 6
        assert answer["survivors"] == []
        assert daemon.children() == set()

    async def test_stop_ends_what_an_ended_command_left_behind(
        self, http: Http, daemon: Daemon, root: Path
    ) -> None:
        ended = await http.ok("command", command="(setsid sleep 1000 >/dev/null 2>&1 &); echo x")
        await until(lambda: len(daemon.children()) == 1)
        answer = await http.ok("stop", processId=ended["processId"])
        assert len(answer["killed"]) == 1
        assert daemon.children() == set()

    async def test_stop_of_an_ended_command_is_no_error(self, http: Http, root: Path) -> None:
        ended = await http.ok("command", command="true")
        assert (await http.ok("stop", processId=ended["processId"]))["killed"] == []

    async def test_stop_may_be_told_its_grace(self, http: Http, root: Path) -> None:
        started = await http.ok(
            "command", command="trap '' TERM; touch on; while :; do sleep 0.05; done", background=True
        )
        await until((root / "on").exists)
        answer = await http.ok("stop", processId=started["processId"], graceMs=0)
        assert answer["survivors"] == []
        assert (await http.ok("attach", processId=started["processId"]))["signal"] == "SIGKILL"
        assert (
            await http.refused("stop", processId="x", graceMs=-1)
        ).message == "'graceMs' must be 0 or more"

    @pytest.mark.parametrize("operation", ["stop", "attach"])
    async def test_an_unknown_process_is_told(self, http: Http, operation: str) -> None:
        refused = await http.refused(operation, processId="nope")
        assert (refused.status, refused.code) == (404, "not_found")
        assert (
            refused.message
            == "there is no process 'nope', or its record is no longer kept; 'processes' lists them"
        )
        assert refused.details == {"processId": "nope"}


class TestIdentity:
    async def test_a_command_id_runs_once(self, http: Http, root: Path) -> None:
        params = {
            "command": "echo run >> runs; while [ ! -e go ]; do sleep 0.02; done; echo done",
            "commandId": "once",
        }
        requests = [asyncio.create_task(http.ok("command", **params)) for _ in range(5)]
        await until((root / "runs").exists)
        (root / "go").touch()
        answers = await asyncio.gather(*requests)
        assert (root / "runs").read_text() == "run\n"
        assert [(each["processId"], each["stdout"]) for each in answers] == [("once", "done\n")] * 5

    async def test_asking_again_after_its_end_gives_the_same_run(self, http: Http, root: Path) -> None:
        first = await http.ok("command", command="date +%N; echo run >> runs", commandId="again")
        second = await http.ok("command", command="date +%N; echo run >> runs", commandId="again")
        assert first == second
        assert (root / "runs").read_text() == "run\n"

    async def test_a_background_command_answers_at_once_and_is_listed(self, http: Http, root: Path) -> None:
        started = await http.ok(
            "command", command="while [ ! -e go ]; do sleep 0.02; done; exit 4", background=True
        )
        assert (started["running"], started["exitCode"]) == (True, None)
        record = next(
            each
            for each in (await http.ok("processes"))["processes"]
            if each["processId"] == started["processId"]
        )
        assert (record["state"], record["cwd"], record["exitCode"]) == ("running", ".", None)
        assert is_alive(record["pid"])
        (root / "go").touch()
        assert (await http.ok("attach", processId=started["processId"]))["exitCode"] == 4

    async def test_negative_offsets_are_refused(self, http: Http, root: Path) -> None:
        refused = await http.refused("attach", processId="x", fromOffset=-1)
        assert refused.message == "'fromOffset' must be 0 or more"

    async def test_the_oldest_records_go_first(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_KEPT_PROCESSES="3") as daemon:
            async with http_of(daemon) as http:
                ids = [(await http.ok("command", command="true"))["processId"] for _ in range(6)]
                kept = [each["processId"] for each in (await http.ok("processes"))["processes"]]
                assert kept == ids[-len(kept) :]
                assert 3 <= len(kept) <= 4

    async def test_more_at_once_than_the_limit_are_refused(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_PROCESSES="2") as daemon:
            async with http_of(daemon) as http:
                for _ in range(2):
                    await http.ok("command", command="sleep 1000", background=True)
                refused = await http.refused("command", command="true")
        assert (refused.status, refused.code) == (503, "busy")
        assert refused.message == (
            "2 commands of this user are running, which is the limit; stop one or wait for one"
        )
        assert refused.details == {"limit": "maxProcesses", "value": 2}


class TestCleanliness:
    async def test_two_hundred_commands_leave_nothing(self, daemon: Daemon, root: Path) -> None:
        """Of every kind, orphans too; afterwards there is not one descriptor or zombie more."""
        lines: list[Json] = [
            {"command": "echo x"},
            {"command": "cat", "stdin": "y"},
            {"command": "(setsid sleep 0.01 &); true"},
            {"command": "echo x", "pty": {}},
            {"argv": ["no-such-program"]},
        ]
        async with socket_of(daemon) as socket:
            await _run(socket, [(f"warm-{n}", lines[n % 5]) for n in range(20)])
            await until(lambda: daemon.children() == set())
            before = len(daemon.descriptors())
            for n in range(0, 200, 10):
                await _run(socket, [(f"{n}-{k}", lines[k % 5]) for k in range(10)])
            await until(lambda: daemon.children() == set() and zombies(daemon) == [])
            await until(lambda: len(daemon.descriptors()) <= before, "nothing is left open")

    async def test_no_zombie_is_left(self, daemon: Daemon, http: Http, root: Path) -> None:
        for _ in range(10):
            await http.ok("command", command="for i in 1 2 3; do (setsid sh -c 'exit 0' &); done")
        await until(lambda: zombies(daemon) == [])


async def _run(socket: Socket, commands: list[tuple[str, Json]]) -> None:
    """All at once, to their ends."""
    for id, params in commands:
        await socket.send(id, "command", params)
    for id, _ in commands:
        await socket.end_of(id)


def zombies(daemon: Daemon) -> list[int]:
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return [int(pid) for pid in children if not is_alive(int(pid))]
