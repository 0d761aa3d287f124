"""shell and its family: a real bash that remembers, and tells each command's output and end to the byte."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

NAMES = iter(range(10**9))


class Kept:
    """One shell of a daemon, of a name of its own."""

    def __init__(self, socket: Socket, name: str) -> None:
        self.socket = socket
        self.name = name

    async def __call__(self, command: str, **params: Any) -> Json:
        return await self.socket.ok("shell", name=self.name, command=command, **params)

    async def says(self, command: str, **params: Any) -> str:
        """What it prints, with nothing on standard error."""
        answer = await self(command, **params)
        assert answer["stderr"] == "", answer
        return str(answer["stdout"])

    async def begin(self, id: str, command: str, **params: Any) -> None:
        """Ask, and go on as soon as it runs."""
        await self.socket.send(id, "shell", {"name": self.name, "command": command, **params})
        assert (await self.socket.next_of(id))["event"]["type"] == "started"


async def until_out_of_time(kept: Kept, command: str) -> Json:
    """The answer to one that says something and goes on; the clock that ended it is the one asked for."""

    async def ask(clock: int) -> Json:
        answer = await kept(command, timeoutMs=clock)
        assert answer["timeoutMs"] == clock
        return answer

    return await out_of_time(ask, lambda answer: answer["stdout"])


@pytest.fixture
async def shell(socket: Socket, root: Path) -> AsyncIterator[Kept]:
    kept = Kept(socket, f"test-{next(NAMES)}")
    yield kept
    if any(each["name"] == kept.name for each in (await socket.ok("shells"))["shells"]):
        await socket.ok("shell_stop", name=kept.name)


class TestRemembering:
    async def test_directory_variables_and_functions_stay(self, shell: Kept, root: Path) -> None:
        (root / "src").mkdir()
        first = await shell("cd src; x='a  b'; export y=2; f() { echo \"f:$x:$1\"; }; set -- p q")
        assert (first["stdout"], first["stderr"], first["exitCode"], first["cwd"]) == (
            "",
            "",
            0,
            f"{root}/src",
        )
        assert (first["started"], first["restarted"], first["number"]) == (True, False, 1)
        answer = await shell('f 1; pwd; echo $#$2; bash -c "echo $y"')
        assert answer["stdout"] == f"f:a  b:1\n{root}/src\n2q\n2\n"
        assert (answer["started"], answer["number"], answer["shellEnded"]) == (False, 2, False)

    async def test_options_traps_and_the_last_status_stay(self, shell: Kept) -> None:
        await shell("set -f; shopt -s extglob nullglob; trap 'echo bye' EXIT; (exit 7)")
        assert await shell.says("echo $?; echo *; shopt -q extglob; echo $?") == "7\n*\n0\n"
        assert (await shell("exit"))["stdout"] == "bye\n"

    async def test_background_jobs_stay(self, shell: Kept) -> None:
        await shell("sleep 1000 & job=$!")
        pid = int(await shell.says("echo $job"))
        assert is_alive(pid)
        assert "sleep 1000" in await shell.says("jobs")
        answer = await shell("kill $job; wait $job")
        assert answer["exitCode"] == 143
        assert not is_alive(pid)

    async def test_other_descriptors_stay_and_the_three_are_each_commands_own(
        self, shell: Kept, root: Path
    ) -> None:
        (root / "lines").write_text("1\n2\n3\n")
        await shell("exec 5<lines; exec >redirected")
        assert await shell.says("read a <&5; echo $a") == "1\n"
        assert await shell.says("read a <&5; echo $a") == "2\n"

    async def test_names_are_apart(self, shell: Kept, socket: Socket) -> None:
        other = Kept(socket, f"{shell.name}-other")
        await shell("x=1")
        assert await other.says("echo [$x]") == "[]\n"
        listed = {each["name"]: each for each in (await socket.ok("shells"))["shells"]}
        assert listed[shell.name]["processId"] != listed[other.name]["processId"]
        assert (listed[other.name]["running"], listed[other.name]["commands"]) == (True, 1)
        await socket.ok("shell_stop", name=other.name)

    async def test_a_removed_directory_is_no_hindrance(self, shell: Kept, root: Path) -> None:
        await shell("mkdir gone; cd gone; rmdir ../gone")
        assert await shell.says("echo here; cd ..; pwd") == f"here\n{root}\n"

    async def test_it_is_a_process_among_the_others(self, shell: Kept, socket: Socket) -> None:
        process_id = (await shell("true"))["processId"]
        listed = (await socket.ok("processes"))["processes"]
        assert [each["state"] for each in listed if each["processId"] == process_id] == ["running"]
        await socket.ok("stop", processId=process_id)
        assert (await shell("true"))["restarted"]

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_200_commands_are_as_one_script(self, shell: Kept, root: Path, seed: int) -> None:
        commands = random_commands(random.Random(seed), 200)
        (root / "tree").mkdir()
        printed = [await shell(command) for command in commands]
        script = "\n".join(commands)
        argv = ["bash", "-c", script]
        whole = await asyncio.to_thread(subprocess.run, argv, cwd=root, capture_output=True, text=True)
        assert "".join(each["stdout"] for each in printed) == whole.stdout
        assert printed[-1]["exitCode"] == whole.returncode


def random_commands(chance: random.Random, count: int) -> list[str]:
    """Commands that change what a shell remembers, and show it."""

    def one(at: int) -> str:
        name, value = chance.choice("abcd"), chance.randrange(100)
        return chance.choice(
            [
                f"{name}={value}",
                f"{name}=$(({name} + {value})); echo ${name}",
                f"export {name}; sh -c 'echo ${{{name}-unset}}'",
                f"unset {name}",
                f"f{name}() {{ echo f{at} $1 $#; return {value}; }}",
                f"f{name} {value} 2>/dev/null; echo $?",
                f"list+=({value}); echo ${{#list[@]}} ${{list[*]}}",
                f"mkdir -p tree/{name}; cd tree/{name}; echo ${{PWD##*/}}; cd ../..",
                f"set -- {value} $#; echo $*",
                f"(exit {value})",
                "echo $?",
                "false || echo $?",
                f"shopt -{chance.choice('su')} nocasematch; [[ A == a ]]; echo $?",
                f"for i in 1 2 3; do\n  [ $i = 2 ] && continue\n  echo $i$((i * {value}))\ndone",
                f"cat <<END\n{name}=${name}\nEND",
                f"trap 'echo usr {value}' USR1; kill -USR1 $$; :",
                f"printf '%s' 'it'\"'\"'s {value}'",
            ]
        )

    return [one(at) for at in range(count)]


class TestExactness:
    @pytest.mark.parametrize(
        ("command", "stdout", "code"),
        [
            ("printf x", "x", 0),
            ("printf 'a\\0b'", "a\0b", 0),
            ("cat <<'E'\n$x 'y\n\nE", "$x 'y\n\n", 0),
            ("cat <<E\nno end", "no end\n", 0),
            ("echo 'it'\\''s' \"$((1+1))\" # comment", "it's 2\n", 0),
            ("echo a\\\nb", "ab\n", 0),
            ("  \n\n# nothing\n", "", 0),
            ("echo 0123456789abcdef0123456789abcdef 0 hB /", "0123456789abcdef0123456789abcdef 0 hB /\n", 0),
            ("(echo sub; exit 9)", "sub\n", 9),
            ("true | false", "", 1),
            ("kill -9 $BASHPID & wait $!", "", 137),
            ("break; continue; echo on", "on\n", 0),
            ("echo é✓", "é✓\n", 0),
        ],
    )
    async def test_output_and_status(self, shell: Kept, command: str, stdout: str, code: int) -> None:
        answer = await shell(command)
        assert (answer["stdout"], answer["exitCode"]) == (stdout, code)
        assert await shell.says("echo next") == "next\n"

    @pytest.mark.parametrize(
        ("command", "message", "code"),
        [
            ("if", "syntax error: unexpected end of file", 2),
            ("echo 'a", "unexpected EOF while looking for matching `''", 2),
            ("echo )", "syntax error near unexpected token `)'", 2),
            ("no-such-program", "no-such-program: command not found", 127),
        ],
    )
    async def test_an_error_is_the_commands_and_the_shell_lives(
        self, shell: Kept, command: str, message: str, code: int
    ) -> None:
        await shell("x=kept")
        answer = await shell(command)
        assert answer["exitCode"] == code
        assert re.match(r"bash: (eval: )?line \d+: ", answer["stderr"])
        assert message in answer["stderr"]
        assert await shell.says("echo $x") == "kept\n"

    async def test_standard_input_is_empty_or_what_was_given(self, shell: Kept) -> None:
        assert await shell.says("cat; read x || echo none") == "none\n"
        assert await shell.says("read x; echo $x; cat", stdin="one\ntwo\n") == "one\ntwo\n"
        data = base64.b64encode(b"\xff\0").decode()
        answer = await shell("cat", stdin=data, stdinEncoding="base64", encoding="base64")
        assert answer["stdout"] == data
        assert await shell.says("head -c1", stdin="left for nobody") == "l"
        assert await shell.says("cat") == ""

    async def test_a_line_of_ten_megabytes(self, shell: Kept) -> None:
        answer = await shell("head -c 10000000 /dev/zero | tr '\\0' x", maxOutputBytes=8)
        assert answer["stdoutBytes"] == 10_000_000
        assert answer["omittedBytes"] == 10_000_000 - 8
        page = await shell.socket.ok(
            "shell_output", name=shell.name, number=answer["number"], fromOffset=9_999_990
        )
        assert (page["stdout"], page["nextOffset"], page["running"]) == ("x" * 10, 10_000_000, False)

    async def test_a_command_of_many_bytes(self, shell: Kept) -> None:
        text = "x" * 300_000
        assert await shell.says(f"v={text}; echo ${{#v}}") == "300000\n"
        limit = Limits().max_shell_command_bytes
        _, last = await shell.socket.call("shell", name=shell.name, command=":" * (limit + 1))
        assert last["error"]["code"] == "too_large"

    async def test_a_child_that_holds_the_output_holds_up_nobody(self, shell: Kept, root: Path) -> None:
        os.mkfifo(root / "gate")
        first = await shell("{ read line <gate; echo late $line; echo err >&2; } & echo now")
        assert (first["stdout"], first["openOutput"]) == ("now\n", True)
        assert (await shell("echo other; echo word >gate; wait"))["stdout"] == "other\n"

        async def whole() -> Json:
            return await shell.socket.ok("shell_output", name=shell.name, number=first["number"])

        async with asyncio.timeout(PATIENCE_SECONDS):
            while (page := await whole())["openOutput"]:
                await asyncio.sleep(0.01)
        assert (page["stdout"], page["stderr"]) == ("now\nlate word\n", "err\n")

    async def test_events_are_the_output(self, shell: Kept) -> None:
        events, last = await shell.socket.call(
            "shell", name=shell.name, command="echo a; echo e >&2; sleep 0.05; echo b"
        )
        assert events[0]["type"] == "started"
        for stream, text in (("stdout", "a\nb\n"), ("stderr", "e\n")):
            pieces = [each for each in events if each["type"] == stream]
            assert "".join(each["data"] for each in pieces) == text
            assert [each["offset"] for each in pieces][:1] == [0]
        assert (last["result"]["stdout"], last["result"]["stderr"]) == ("a\nb\n", "e\n")

    async def test_nothing_of_ours_is_to_be_seen(self, shell: Kept) -> None:
        look = (
            "set; env; declare -p; history; fc -l; "
            "cat -v /proc/self/environ /proc/$$/environ /proc/$$/cmdline; bash -c 'ls -l /proc/self/fd'"
        )
        seen = [(await shell(look))["stdout"] for _ in range(2)]
        assert "TOOL_SERVER" not in seen[0]
        # The word that tells an end is another one each time: what is the same in both is none.
        first, second = (set(re.findall(r"[0-9a-f]{16}", each)) for each in seen)
        assert first == second
        fds = (await shell("bash -c 'cd /proc/self/fd; echo *'"))["stdout"].split()
        assert set(fds) <= {"0", "1", "2", "3"}

    async def test_an_end_cannot_be_forged(self, shell: Kept) -> None:
        answer = await shell(
            "d=$(dirname $(readlink /proc/$$/fd/255)); "
            "printf '0000000000000000 7 hB /\\0rubbish\\0' >$d/t; echo still; (exit 4)"
        )
        assert (answer["stdout"], answer["exitCode"]) == ("still\n", 4)
        assert await shell.says("echo fine") == "fine\n"

    @pytest.mark.parametrize(
        "command",
        [
            "printf() { echo fake; }; echo() { :; }; eval() { :; }; read() { :; }",
            "shopt -s expand_aliases; alias builtin=false eval=false printf=false",
            "IFS=0123456789; readonly IFS",
            "set -o posix; if",
            "set -Cfu; shopt -s failglob nullglob lastpipe",
            "umask 777",
            "exec 1>&- 2>&-; echo lost",
            "exec 10>&- 11>&- 12>&- 255>&1",
            "unset PATH HOME PWD BASH_ENV; PS4=$(echo x)",
            "trap 'echo debug' DEBUG",
            "ulimit -n 20",
            "set -m; sleep 0.01 & fg",
            "coproc cat",
            "cd /; return; break; exec 3</dev/null",
        ],
    )
    async def test_whatever_a_command_does_to_its_shell_the_next_is_told_right(
        self, shell: Kept, command: str
    ) -> None:
        assert not (await shell(command))["shellEnded"]
        answer = await shell(r"trap - DEBUG; \builtin printf out; \builtin printf err >&2; (exit 5)")
        assert (answer["stdout"].removeprefix("debug\n"), answer["stderr"]) == ("out", "err")
        assert (answer["exitCode"], answer["started"], answer["number"]) == (5, False, 2)

    async def test_a_users_own_tracing_and_error_trap(self, shell: Kept) -> None:
        answer = await shell("set -x; echo hi; set +x")
        assert answer["stdout"] == "hi\n"
        assert "echo hi" in answer["stderr"]
        assert (await shell("trap 'echo trapped' ERR; false; true"))["stdout"] == "trapped\n"


@given(
    writes=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=40)), max_size=6),
    code=st.integers(0, 255),
)
@settings(max_examples=40)
def test_any_bytes_come_back_exactly(daemon: Daemon, writes: list[tuple[int, bytes]], code: int) -> None:
    lines = [
        "printf '" + "".join(f"\\{byte:03o}" for byte in data) + f"' >&{stream}" for stream, data in writes
    ]
    wanted = {stream: b"".join(data for to, data in writes if to == stream) for stream in (1, 2)}

    async def ask() -> Json:
        async with socket_of(daemon) as socket:
            command = "; ".join([*lines, f"(exit {code})"])
            return await socket.ok("shell", name="property", command=command, encoding="base64")

    answer = asyncio.run(ask())
    told = base64.b64decode(answer["stdout"]), base64.b64decode(answer["stderr"]), answer["exitCode"]
    assert told == (wanted[1], wanted[2], code)


class TestTheShellsEnd:
    @pytest.mark.parametrize(
        ("command", "stdout", "code", "signal"),
        [
            ("echo a; exit 3", "a\n", 3, None),
            ("exec printf b", "b", 0, None),
            ("set -e; echo c; false; echo no", "c\n", 1, None),
            ("printf d; kill -9 $$", "d", 137, "SIGKILL"),
            ("set -u; echo $nothing", "", 1, None),
        ],
    )
    async def test_it_is_told_and_the_next_is_a_fresh_one(
        self, shell: Kept, command: str, stdout: str, code: int, signal: str | None
    ) -> None:
        before = await shell("x=old; cd /")
        answer = await shell(command)
        assert answer["shellEnded"]
        assert (answer["stdout"], answer["signal"], answer["cwd"]) == (stdout, signal, "")
        assert answer["exitCode"] == code or "set -u" in command
        fresh = await shell("echo [$x]")
        assert (fresh["stdout"], fresh["started"], fresh["restarted"]) == ("[]\n", True, True)
        assert fresh["processId"] != before["processId"]

    @pytest.mark.parametrize("command", ["ulimit -n 4; echo a", "echo a; set -n", "builtin() { :; }; echo a"])
    async def test_one_that_can_tell_no_end_any_more_is_ended_long_before_the_clock(
        self, shell: Kept, command: str
    ) -> None:
        answer = await shell(command)
        assert (answer["shellEnded"], answer["timedOut"], answer["stdout"]) == (True, False, "a\n")
        assert (await shell("echo fresh"))["stdout"] == "fresh\n"

    async def test_one_whose_own_trap_holds_up_the_end_is_waited_for(self, shell: Kept) -> None:
        slow = """trap '[[ $BASH_COMMAND = *printf* ]] && sleep 3' DEBUG"""
        answer = await shell(slow)
        assert (answer["shellEnded"], answer["exitCode"]) == (False, 0)
        assert (await shell("trap - DEBUG; echo there"))["stdout"] == "there\n"

    async def test_restart_ends_all_and_begins_anew(self, shell: Kept, socket: Socket) -> None:
        ours = f"sleep 1000.{os.getpid()}"
        await shell(f"x=1; {ours}0 & (setsid {ours}1 &)")
        look = f"pgrep -f '^{ours}[01]'"
        found = await shell.says(f"until [ $({look} | wc -l) = 2 ]; do sleep 0.01; done; {look}")
        pids = [int(each) for each in found.split()]
        answer = await socket.ok("shell_restart", name=shell.name)
        assert set(pids) <= {each["pid"] for each in answer["killed"]}
        assert answer["survivors"] == []
        assert not any(is_alive(pid) for pid in pids)
        after = await shell("echo [$x]")
        assert (after["stdout"], after["processId"]) == ("[]\n", answer["processId"])

    async def test_stop_ends_a_command_that_runs_and_those_that_wait(
        self, shell: Kept, socket: Socket
    ) -> None:
        await shell.begin("running", "sleep 1000")
        await socket.send("waiting", "shell", {"name": shell.name, "command": "echo no"})
        await until_waiting(socket, shell.name, 1)
        await socket.ok("shell_stop", name=shell.name)
        _, last = await socket.end_of("running")
        assert last["result"]["shellEnded"]
        _, last = await socket.end_of("waiting")
        assert last["error"]["code"] == "conflict"
        _, last = await socket.call("shell_stop", name=shell.name)
        assert last["error"]["code"] == "not_found"

    async def test_one_that_is_stopped_while_it_starts_runs_nothing(self, socket: Socket) -> None:
        name = f"test-{next(NAMES)}"
        await socket.send("begun", "shell", {"name": name, "command": "sleep 1000"})
        await socket.ok("shell_stop", name=name)
        _, last = await socket.end_of("begun")
        assert last["error"]["code"] == "conflict"

    async def test_what_is_asked_while_one_is_stopped_runs_in_another(
        self, shell: Kept, socket: Socket
    ) -> None:
        await shell("x=old")
        await socket.send("stop", "shell_stop", {"name": shell.name})
        answer = await shell("echo $x-new")
        assert (answer["stdout"], answer["started"]) == ("-new\n", True)
        _, last = await socket.end_of("stop")
        assert last["result"]["survivors"] == []
        assert (await shell("echo on"))["processId"] == answer["processId"]


async def until_waiting(socket: Socket, name: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while [each["waiting"] for each in (await socket.ok("shells"))["shells"] if each["name"] == name] != [
            count
        ]:
            await asyncio.sleep(0.01)


class TestInterruption:
    @pytest.mark.parametrize(
        "command",
        [
            "sleep 1000; echo no",
            "sleep 1000\necho no",
            "while :; do :; done; echo no",
            "g() { while :; do sleep 1000; done; echo no; }; h() { g; g; echo no; }; while :; do h; done",
            "v=$(sleep 1000; echo no); echo no$v",
            "v=$(sleep 1000)",
            "sleep 1000 | cat; echo no",
            "(while :; do :; done); echo no",
            "read v < <(sleep 1000); echo no",
            "sleep 1000 & wait; echo no",
            "until false; do sleep 1000; done",
            "if sleep 1000; then echo no; else echo no; fi; echo no",
            "bash -c 'sleep 1000; sleep 1000'; echo no",
            "eval 'sleep 1000'; . <(echo 'sleep 1000; echo no'); echo no",
            "kill -STOP $$; echo no",
            "bash -c 'kill -STOP $$'; echo no",
        ],
    )
    async def test_a_timeout_ends_the_command_and_keeps_the_shell(self, shell: Kept, command: str) -> None:
        await shell("set -T; x=kept; f() { echo f; }")
        answer = await until_out_of_time(shell, f"echo begun; {command}")
        assert (answer["stdout"], answer["exitCode"]) == ("begun\n", 130)
        assert (answer["timedOut"], answer["shellEnded"]) == (True, False)
        after = await shell("echo $?$x; f; for i in 1 2; do echo $i; done; case $- in *T*) echo T;; esac")
        assert after["stdout"] == "130kept\nf\n1\n2\nT\n"
        assert after["processId"] == answer["processId"]

    async def test_one_that_heeds_nothing_is_killed(self, shell: Kept) -> None:
        await shell("x=kept")
        deaf = "bash -c \"trap '' INT TERM; echo deaf; while :; do sleep 1; done\""
        answer = await until_out_of_time(shell, deaf)
        assert (answer["exitCode"], answer["timedOut"]) == (130, True)
        assert (await shell("echo $x"))["stdout"] == "kept\n"

    async def test_the_clock_that_ran_out_is_named(self, shell: Kept) -> None:
        own = await shell("sleep 100", timeoutMs=100)
        assert (own["timedOut"], own["timeoutMs"], own["timeoutClock"]) == (True, 100, "timeoutMs")
        assert (await shell("true"))["timeoutClock"] == "commandTimeoutMs"

    async def test_where_an_error_ends_the_shell_an_interruption_does(self, shell: Kept) -> None:
        answer = await until_out_of_time(shell, "set -e; echo begun; sleep 1000")
        assert (answer["timedOut"], answer["shellEnded"]) == (True, True)

    async def test_jobs_of_earlier_commands_are_left_alone(self, shell: Kept) -> None:
        await shell("sleep 1000 & job=$!")
        assert (await shell("sleep 1001", timeoutMs=100))["timedOut"]
        assert is_alive(int(await shell.says("echo $job")))

    async def test_a_users_interrupt_trap_does_not_keep_a_command_alive(self, shell: Kept) -> None:
        await shell("trap 'echo mine' INT")
        assert (await shell("while :; do sleep 0.01; done", timeoutMs=100))["exitCode"] == 130
        assert await shell.says("echo on") == "on\n"

    async def test_a_shell_that_cannot_be_interrupted_is_ended(self, tmp_path: Path) -> None:
        with running(
            tmp_path, TOOL_SERVER_SHELL_INTERRUPT_MS="100", TOOL_SERVER_STOP_GRACE_MS="200"
        ) as daemon:
            async with socket_of(daemon) as impatient:
                kept = Kept(impatient, "main")
                answer = await until_out_of_time(kept, "trap '' RTMAX-5; echo begun; while :; do :; done")
                assert (answer["timedOut"], answer["shellEnded"]) == (True, True)
                assert (await kept("echo on"))["restarted"]

    async def test_cancelling_interrupts(self, shell: Kept, socket: Socket) -> None:
        await shell("x=kept")
        await shell.begin("long", "sleep 1000; echo no")
        await socket.send("long", "cancel")
        _, last = await socket.end_of("long")
        assert last["error"]["code"] == "cancelled"
        assert await shell.says("echo $x") == "kept\n"

    async def test_a_lost_socket_leaves_it_running(self, shell: Kept, daemon: Daemon, root: Path) -> None:
        os.mkfifo(root / "gate")
        await shell("true")
        async with socket_of(daemon) as other:
            await Kept(other, shell.name).begin("long", "echo begun; read line <gate; echo $line; x=after")
        await asyncio.to_thread((root / "gate").write_text, "word\n")
        assert await shell.says("echo $x") == "after\n"
        page = await shell.socket.ok("shell_output", name=shell.name, number=2)
        assert page["stdout"] == "begun\nword\n"


class TestTurns:
    async def test_commands_run_in_the_order_they_were_asked_for(self, shell: Kept, socket: Socket) -> None:
        await shell("n=0")
        for number in range(10):
            await socket.send(f"c{number}", "shell", {"name": shell.name, "command": "n=$((n+1)); echo $n"})
        for number in range(10):
            _, last = await socket.end_of(f"c{number}")
            assert last["result"]["stdout"] == f"{number + 1}\n"

    async def test_the_queue_is_bounded_and_a_cancelled_one_leaves_it(
        self, shell: Kept, socket: Socket
    ) -> None:
        await shell.begin("long", "sleep 1000")
        bound = Limits().max_shell_queue
        for number in range(bound):
            await socket.send(f"w{number}", "shell", {"name": shell.name, "command": f"echo {number}"})
        _, last = await socket.call("shell", name=shell.name, command="echo one too many")
        assert last["error"]["code"] == "busy"
        assert last["error"]["details"] == {"limit": "maxShellQueue", "value": bound}
        await socket.send("w0", "cancel")
        _, last = await socket.end_of("w0")
        assert last["error"]["code"] == "cancelled"
        await until_waiting(socket, shell.name, bound - 1)
        await socket.send("long", "cancel")
        for number in range(1, bound):
            _, last = await socket.end_of(f"w{number}")
            assert last["result"]["stdout"] == f"{number}\n"

    async def test_shells_do_not_wait_for_each_other(self, shell: Kept, socket: Socket) -> None:
        await shell.begin("long", "sleep 1000")
        other = Kept(socket, f"{shell.name}-other")
        assert await other.says("echo now") == "now\n"
        await socket.ok("shell_stop", name=other.name)


class TestRefusals:
    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"command": " "}, "the command is empty"),
            ({"command": "a\0b"}, "the command holds a NUL character"),
            (
                {"command": "a", "name": "../x"},
                "a shell's name has 1 to 64 letters, digits, dots, hyphens or underscores",
            ),
            (
                {"command": "a", "timeoutMs": 0},
                "'timeoutMs' must be above 0; leave it out for the default",
            ),
            ({"command": "a", "maxOutputBytes": -1}, "'maxOutputBytes' must be 0 or more"),
        ],
    )
    async def test_what_is_wrong_is_said(self, http: Http, params: Json, message: str) -> None:
        refusal = await http.refused("shell", **params)
        assert (refusal.code, refusal.message) == ("invalid_request", message)

    async def test_without_bash_it_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        with running(tmp_path, PATH=str(tmp_path / "bin")) as daemon:
            async with http_of(daemon) as http:
                refusal = await http.refused("shell", command="true")
        assert (refusal.code, refusal.details) == ("not_found", {"program": "bash"})

    async def test_unknown_ones_are_not_found(self, http: Http, shell: Kept) -> None:
        assert (await http.refused("shell_output", name="none", number=1)).code == "not_found"
        await shell("true")
        assert (await http.refused("shell_output", name=shell.name, number=9)).code == "not_found"


class TestCleanliness:
    async def test_a_thousand_commands_leave_nothing(self, shell: Kept, daemon: Daemon) -> None:
        await shell("true")
        before, children = daemon.descriptors(), daemon.children()
        for _ in range(1000):
            await shell("echo hi; true | cat >/dev/null" if _ % 50 == 0 else "echo hi")
        await until(lambda: daemon.children() <= children, "every child to be gone")
        await until(lambda: len(daemon.descriptors()) <= len(before), "descriptors to be closed")

    async def test_jobs_that_hold_their_output_are_bounded(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_OPEN_SHELL_OUTPUTS="3") as daemon:
            async with socket_of(daemon) as socket:
                kept = Kept(socket, "main")
                for _ in range(3):
                    assert (await kept("sleep 1000 &"))["openOutput"]
                _, last = await socket.call("shell", command="true")
                assert last["error"]["code"] == "busy"
                assert last["error"]["details"] == {"limit": "maxOpenShellOutputs", "value": 3}
                await socket.ok("shell_restart")
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while "error" in (await socket.call("shell", command="true"))[1]:
                        await asyncio.sleep(0.01)

    async def test_a_stopped_shell_leaves_nothing(self, socket: Socket, daemon: Daemon, root: Path) -> None:
        await socket.ok("shell", command="true")
        before = set((daemon.state / "sh").iterdir())
        kept = Kept(socket, "leaving")
        for _ in range(3):
            await kept("sleep 1000 & sleep 1000 >/dev/null & echo hi")
        await kept("exit")
        await kept("true")
        await socket.ok("shell_stop", name="leaving")
        await until(lambda: set((daemon.state / "sh").iterdir()) == before, "its files to be gone")

    async def test_over_http_it_is_the_same_shell(self, shell: Kept, http: Http) -> None:
        await shell("x=1")
        answer = await http.ok("shell", name=shell.name, command="echo $x")
        assert answer["stdout"] == "1\n"
