"""Whatever a command started is found, listed, signalled and ended, however it hides."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builder import (
    PATIENCE_SECONDS,
    Daemon,
    Http,
    Json,
    Socket,
    http_of,
    is_alive,
    running,
    socket_of,
    until,
)
from tests.ports import free_port
from tests.toolserver.tools.families import gone, killed_by, pid_in, runaway

HIDING = {
    "stays a child": ("keeps",),
    "has a session of its own": ("keeps", "setsid"),
    "forks twice": ("twice",),
    "forks twice and drops its environment": ("twice", "scrubbed"),
    "forks twice, drops its environment and ignores TERM": ("twice", "scrubbed", "deaf"),
}


LONG_MS = 20_000
"""A grace within which everybody who heeds TERM has died of it; nobody waits for its end."""


@pytest.fixture(params=list(HIDING.values()), ids=list(HIDING))
def ways(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


async def started(http: Http, argv: list[str], **params: object) -> str:
    return str((await http.ok("command", argv=argv, background=True, **params))["processId"])


class TestStop:
    async def test_a_stop_reaches_a_child_that(self, http: Http, root: Path, ways: tuple[str, ...]) -> None:
        id = await started(http, runaway(root / "pid", *ways))
        pid = await pid_in(root / "pid")
        answer = await http.ok("stop", processId=id, graceMs=200 if "deaf" in ways else LONG_MS)
        assert not is_alive(pid)
        assert answer["survivors"] == []
        assert killed_by(answer)[pid] == ("SIGKILL" if "deaf" in ways else "SIGTERM")
        assert all(each["name"] for each in answer["killed"])

    async def test_a_timeout_reaches_a_child_that(
        self, http: Http, root: Path, ways: tuple[str, ...]
    ) -> None:
        # Its first process must be there still when the clock runs out.
        line = f'"$0" "$@"; while [ ! -e {root}/pid ]; do sleep 0.02; done; while :; do sleep 0.1; done'
        answer = await http.ok(
            "command", argv=["sh", "-c", line, *runaway(root / "pid", *ways)], timeoutMs=1500
        )
        assert answer["timedOut"]
        assert answer["survivors"] == []
        if (root / "pid").exists():
            assert not is_alive(await pid_in(root / "pid"))

    async def test_a_cancelled_request_reaches_a_child_that(
        self, socket: Socket, root: Path, ways: tuple[str, ...]
    ) -> None:
        line = '"$0" "$@"; while :; do sleep 0.1; done'
        await socket.send("1", "command", {"argv": ["sh", "-c", line, *runaway(root / "pid", *ways)]})
        pid = await pid_in(root / "pid")
        await socket.send("1", "cancel")
        _, last = await socket.end_of("1")
        assert last["error"]["code"] == "cancelled"
        assert not is_alive(pid)

    async def test_closing_the_daemon_reaches_a_child_that(
        self, tmp_path: Path, ways: tuple[str, ...]
    ) -> None:
        with running(tmp_path, TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
            async with http_of(daemon) as http:
                await started(http, runaway(daemon.root / "pid", *ways))
                pid = await pid_in(daemon.root / "pid")
        assert not is_alive(pid)

    async def test_one_that_stands_still_is_asked_like_any_other(self, http: Http, root: Path) -> None:
        line = "trap 'echo tidied; exit 3' TERM; echo $$ > pid; kill -STOP $$; sleep 1000"
        id = await started(http, ["bash", "-c", line])
        pid = await pid_in(root / "pid")
        await until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        answer = await http.ok("stop", processId=id, graceMs=LONG_MS)
        assert killed_by(answer) == {pid: "SIGTERM"}
        ended = await http.ok("attach", processId=id)
        assert (ended["exitCode"], ended["stdout"]) == (3, "tidied\n")

    async def test_what_nohup_left_behind_is_ended_after_its_command(self, http: Http, root: Path) -> None:
        away = "nohup setsid sh -c 'echo $$ > pid; exec sleep 1000' >/dev/null 2>&1 &"
        line = f"{away} until [ -s pid ]; do sleep 0.01; done"
        ended = await http.ok("command", command=line)
        pid = await pid_in(root / "pid")
        assert is_alive(pid)
        answer = await http.ok("stop", processId=ended["processId"], graceMs=LONG_MS)
        assert killed_by(answer) == {pid: "SIGTERM"}
        assert not is_alive(pid)

    async def test_a_child_that_holds_the_pipe_holds_up_no_answer_and_is_ended(
        self, http: Http, root: Path
    ) -> None:
        ended = await http.ok(
            "command",
            command="sh -c 'echo $$ > pid; exec sleep 1000' & until [ -s pid ]; do sleep 0.01; done",
        )
        assert ended["exitCode"] == 0
        pid = await pid_in(root / "pid")
        assert pid in killed_by(await http.ok("stop", processId=ended["processId"]))
        assert not is_alive(pid)

    async def test_neighbours_are_left_alone(self, http: Http, root: Path) -> None:
        other = await started(http, runaway(root / "other", "twice", "scrubbed"))
        one = await started(http, runaway(root / "one", "twice", "scrubbed"))
        pids = await pid_in(root / "one"), await pid_in(root / "other")
        assert list(killed_by(await http.ok("stop", processId=one))) == [pids[0]]
        assert is_alive(pids[1])
        await http.ok("stop", processId=other)

    async def test_a_command_that_has_ended_and_left_nobody_is_stopped_by_nothing(self, http: Http) -> None:
        id = (await http.ok("command", argv=["true"]))["processId"]
        assert await http.ok("stop", processId=id) == {"processId": id, "killed": [], "survivors": []}

    async def test_many_are_stopped_at_once(self, socket: Socket) -> None:
        ids = [f"many-{number}" for number in range(40)]
        for id in ids:
            await socket.ok("command", argv=["sleep", "1000"], background=True, commandId=id)
        for id in ids:
            await socket.send(id, "stop", {"processId": id})
        for id in ids:
            _, last = await socket.end_of(id)
            assert [each["name"] for each in last["result"]["killed"]] == ["sleep"]

    async def test_one_that_hides_from_every_mark_is_found_by_its_cgroup(
        self, daemon: Daemon, http: Http, root: Path
    ) -> None:
        if "cgroup" not in means(daemon):
            pytest.skip("cgroup v2 may not be written here")
        ways = "wait", "unlimited", "twice", "scrubbed", "deaf"
        id = await started(http, runaway(root / "pid", *ways))
        leader = (await record_of(http, id))["pid"]
        placed = Path(f"/proc/{leader}/cgroup")
        await until(lambda: "workspace-core-" in placed.read_text(), "the command to be in a cgroup")
        (root / "pid.go").touch()
        pid = await pid_in(root / "pid")
        assert killed_by(await http.ok("stop", processId=id, graceMs=100)) == {pid: "SIGKILL"}

    async def test_one_that_hides_from_everything_is_a_stray_or_found(self, tmp_path: Path) -> None:
        """It took its marks away before it could be placed: still below the daemon, and ended with it."""
        with running(tmp_path, TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
            async with http_of(daemon) as http:
                id = await started(http, runaway(daemon.root / "pid", "unlimited", "twice", "scrubbed"))
                pid = await pid_in(daemon.root / "pid")
                listed = await http.ok("processes")
                found = [
                    *listed["strays"],
                    *next(each for each in listed["processes"] if each["processId"] == id)["members"],
                ]
                assert [each["pid"] for each in found] == [pid]
        assert not is_alive(pid)


_CHAIN = """
import os, signal, sys, time
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.time() + 100
while time.time() < end:
    if os.fork(): os._exit(0)
    os.setsid()
"""


class TestChain:
    """Each of its processes forks and ends at once: when a walk over /proc comes by, it is another one."""

    @pytest.mark.parametrize("ways", [(), ("deaf",)])
    async def test_it_is_caught_by_a_stop(self, http: Http, root: Path, ways: tuple[str, ...]) -> None:
        id = await started(http, [sys.executable, "-c", _CHAIN, *ways])
        assert (await http.ok("wait", processId=id))["exitCode"] == 0
        assert not (await http.ok("output", processId=id))["closed"]
        for _ in range(3):  # on a machine that is busy enough it may get away from one
            answer = await http.ok("stop", processId=id, graceMs=100)
            assert answer["survivors"] == []
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while not (await http.ok("output", processId=id))["closed"]:
                        await asyncio.sleep(0.02)
                    break
        assert (await http.ok("output", processId=id))["closed"], "somebody holds its output open"

    async def test_it_ends_with_the_daemon(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
            os.mkfifo(daemon.root / "held")
            held = os.open(daemon.root / "held", os.O_RDONLY | os.O_NONBLOCK)
            async with http_of(daemon) as http:
                line = 'exec "$0" -c "$1" 9> held'
                id = await started(http, ["sh", "-c", line, sys.executable, _CHAIN])
                await http.ok("wait", processId=id)
                with pytest.raises(BlockingIOError):
                    os.read(held, 1)
        assert os.read(held, 1) == b"", "somebody holds it open"
        os.close(held)


_BOMB = """
import os, resource, signal, sys, time
user = int(sys.argv[1])
os.setgroups([]); os.setgid(user); os.setuid(user)
resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try: os.fork()
    except OSError: time.sleep(0.005)
"""


async def test_a_fork_bomb_under_a_limit_is_ended_whole(http: Http) -> None:
    if os.geteuid():
        pytest.skip("the limit is on a user of its own, and only root may become one")
    user = random.randrange(700_000, 2_000_000)
    id = await started(http, [sys.executable, "-c", _BOMB, str(user)])
    await until(lambda: len(of_user(user)) >= 35, "the bomb to fill its limit")
    answer = await http.ok("stop", processId=id, graceMs=50)
    assert answer["survivors"] == []
    assert of_user(user) == set()
    assert len(answer["killed"]) >= 35


def of_user(user: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if entry.stat().st_uid == user and is_alive(int(entry.name)):
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def means(daemon: Daemon) -> list[str]:
    return next(line["foundBy"] for line in daemon.log() if line["message"] == "families")


async def record_of(http: Http, id: str) -> Json:
    answer = await http.ok("processes")
    found: Json = next(each for each in answer["processes"] if each["processId"] == id)
    return found


class TestList:
    async def test_a_command_is_listed_with_its_tree_and_what_it_uses(self, http: Http, root: Path) -> None:
        port = free_port()
        serve = f"{sys.executable} -m http.server --bind 127.0.0.1 {port} >/dev/null 2>&1"
        id = (await http.ok("command", command=f"{serve} & sleep 1000; :", background=True, cwd="."))[
            "processId"
        ]

        async def listens() -> bool:
            return bool((await record_of(http, id))["ports"] == [port])

        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await listens():
                await asyncio.sleep(0.02)
        record = await record_of(http, id)
        leader, *children = record["members"]
        assert leader["pid"] == record["pid"]
        assert {each["parent"] for each in children} == {leader["pid"]}
        server = next(each for each in children if each["ports"])
        assert server["commandLine"][1:3] == ["-m", "http.server"]
        assert server["ports"] == [port]
        assert server["memoryBytes"] > 1024 * 1024
        assert record["memoryBytes"] == sum(each["memoryBytes"] for each in record["members"])
        assert record["cpuMs"] == sum(each["cpuMs"] for each in record["members"])
        assert {each["state"] for each in record["members"]} <= set("RSDI")
        await http.ok("stop", processId=id, graceMs=LONG_MS)
        ended = await record_of(http, id)
        assert (ended["state"], ended["members"], ended["ports"]) == ("exited", [], [])
        assert ended["signal"] == "SIGTERM"

    async def test_what_an_ended_command_used_is_told(self, http: Http) -> None:
        code = "x = bytearray(300_000_000)\nfor _ in range(3_000_000): pass"
        id = (await http.ok("command", argv=[sys.executable, "-c", code]))["processId"]
        usage = (await record_of(http, id))["usage"]
        assert usage["userCpuMs"] > 0
        assert usage["systemCpuMs"] > 0
        assert usage["peakMemoryBytes"] > 300_000_000
        assert (await http.ok("wait", processId=id))["usage"] == usage


class TestSignal:
    async def test_by_name_and_by_number(self, http: Http) -> None:
        for signal, name in (("USR1", "SIGUSR1"), ("sigint", "SIGINT"), (12, "SIGUSR2"), ("15", "SIGTERM")):
            id = await started(http, ["sleep", "1000"])
            answer = await http.ok("signal", processId=id, signal=signal)
            assert answer["signal"] == name
            assert (await http.ok("wait", processId=id))["signal"] == name

    async def test_the_command_alone_or_its_whole_tree(self, http: Http, root: Path) -> None:
        id = await started(http, runaway(root / "pid", "keeps", "setsid"))
        child = await pid_in(root / "pid")
        leader = (await record_of(http, id))["pid"]
        assert (await http.ok("signal", processId=id, signal="CONT"))["pids"] == [leader]
        assert (await http.ok("signal", processId=id, signal="KILL", tree=True))["pids"] == [leader, child]
        await gone(leader, child)

    async def test_what_an_ended_command_left_behind_is_reached_when_asked_for(
        self, http: Http, root: Path
    ) -> None:
        id = await started(http, runaway(root / "pid", "twice"))
        pid = await pid_in(root / "pid")
        await http.ok("wait", processId=id)
        refusal = await http.refused("signal", processId=id, signal="KILL")
        assert refusal.code == "conflict"
        assert refusal.message == f"process {id!r} has ended; 'tree': true reaches what it left behind"
        assert (await http.ok("signal", processId=id, signal="KILL", tree=True))["pids"] == [pid]

    @pytest.mark.parametrize(
        ("signal", "hint"),
        [
            ("TREM", "'TREM' is no signal; did you mean 'TERM'?"),
            (99, "99 is no signal; give a number from 1 to 64, or a name like 'TERM'"),
            ("", "'' is no signal; give a name like 'TERM', or a number"),
        ],
    )
    async def test_what_is_no_signal_is_refused(self, http: Http, signal: object, hint: str) -> None:
        refusal = await http.refused("signal", processId="nobody", signal=signal)
        assert (refusal.code, refusal.message) == ("invalid_request", hint)

    async def test_nobody_is_no_process(self, http: Http) -> None:
        for operation, params in (("signal", {"signal": 9}), ("wait", {}), ("stop", {})):
            assert (await http.refused(operation, processId="nobody", **params)).code == "not_found"


class TestWait:
    async def test_a_wait_that_is_too_short_answers_and_leaves_it_running(self, http: Http) -> None:
        id = await started(http, ["sleep", "1000"])
        answer = await http.ok("wait", processId=id, timeoutMs=1)
        assert (answer["running"], answer["exitCode"], answer["usage"]) == (True, None, None)
        await http.ok("stop", processId=id, graceMs=LONG_MS)
        answer = await http.ok("wait", processId=id)
        assert (answer["running"], answer["exitCode"], answer["signal"]) == (False, 143, "SIGTERM")

    async def test_each_of_many_waits_gets_the_status_of_its_own_while_orphans_are_reaped(
        self, daemon: Daemon, socket: Socket
    ) -> None:
        orphans = "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.0$i &) ; done; exit "
        ids = {f"exits-{secrets.token_hex(4)}": code for code in range(1, 31)}
        for id, code in ids.items():
            await socket.send(id, "command", {"command": f"{orphans}{code}", "commandId": id})
        for id, code in ids.items():
            _, last = await socket.end_of(id)
            assert last["result"]["exitCode"] == code
        await until(lambda: not zombies_of(daemon.pid), "every orphan to be reaped")


def zombies_of(pid: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] == b"Z":
                found.add(int(entry.name))
    return found


_AS_INIT = """
import asyncio, os, pathlib, sys, tempfile
from protocol.limits import Limits
from toolserver.system.processes import ProcessTable
async def main():
    directory = tempfile.mkdtemp()
    table = ProcessTable(Limits(), pathlib.Path(directory))
    table.open()
    line = "for i in 1 2 3 4 5; do (sleep 0.0$i &) ; done; exit "
    env = {"PATH": os.environ["PATH"]}
    started = [table.start(["sh", "-c", line + str(n)], cwd="/", env=env) for n in range(40)]
    codes = [(await each.wait()).code for each in started]
    async with asyncio.timeout(30):
        while [name for name in os.listdir("/proc") if name.isdecimal() and name != "1"]:
            await asyncio.sleep(0.01)
    survivors = await table.close()
    print(os.getpid(), codes == list(range(40)), survivors)
asyncio.run(main())
"""


def test_as_pid_1_every_zombie_is_reaped_and_no_status_is_stolen() -> None:
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", "--pid", "--fork", "--mount-proc"]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a pid namespace of its own is not to be had here")
    ended = subprocess.run(
        [*command, sys.executable, "-c", _AS_INIT], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ended.stdout, ended.stderr) == ("1 True []\n", "")


class TestScale:
    async def test_a_thousand_commands_leave_no_descriptor_no_zombie_and_no_thread(
        self, tmp_path: Path
    ) -> None:
        with running(tmp_path) as daemon:
            async with socket_of(daemon) as socket:
                await batch(socket, 100)
                before = daemon.descriptors(), threads(daemon)
                for _ in range(9):
                    await batch(socket, 100)
                await until(lambda: len(daemon.descriptors()) <= len(before[0]), "descriptors to be closed")
                await until(lambda: not zombies_of(daemon.pid), "every child to be reaped")
                # A pool may still grow up to its bound; it does not grow by the command.
                assert threads(daemon) <= max(before[1], 40)

    async def test_500_idle_and_64_busy_commands_on_one_socket_keep_nobody_from_an_answer(
        self, tmp_path: Path
    ) -> None:
        with running(tmp_path) as daemon:
            async with socket_of(daemon) as socket, http_of(daemon) as http:
                idle = [f"idle-{number}" for number in range(500)]
                for id in idle:
                    await socket.send(
                        id, "command", {"argv": ["sleep", "1000"], "commandId": id}, stream=False
                    )
                busy = [f"busy-{number}" for number in range(64)]
                for id in busy:
                    line = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done"
                    await socket.send(id, "command", {"command": line, "commandId": id}, stream=False)
                healthy = 0
                for _ in range(100):
                    async with http.session.get("/health") as response:
                        healthy += response.status == 200
                assert healthy == 100
                expected = "".join(f"{number}\n" for number in range(300))
                for id in busy:
                    _, last = await socket.end_of(id)
                    assert last["result"]["stdout"] == expected
                listed = await http.ok("processes")
                assert sum(each["state"] == "running" for each in listed["processes"]) == 500
                for id in idle:
                    await socket.send(f"stop-{id}", "stop", {"processId": id})
                for id in idle:
                    _, last = await socket.end_of(f"stop-{id}")
                    assert last["result"]["survivors"] == []


async def batch(socket: Socket, count: int) -> None:
    ids = [secrets.token_hex(6) for _ in range(count)]
    for id in ids:
        await socket.send(id, "command", {"argv": ["true"]})
    for id in ids:
        _, last = await socket.end_of(id)
        assert last["result"]["exitCode"] == 0


def threads(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
