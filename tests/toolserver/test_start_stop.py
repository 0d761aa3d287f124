"""The daemon's start and end: what it says, what it refuses, what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from protocol import __version__
from protocol.paths import RESERVED
from tests.builder import (
    PATIENCE_SECONDS,
    TOKEN,
    http_of,
    is_alive,
    raw_of,
    run_to_end,
    running,
    socket_of,
    until,
)


def test_all_wrong_variables_are_told_at_once(tmp_path: Path) -> None:
    ended = run_to_end(tmp_path, "--port", "x", DEV_SERVER_PORT="99999", TOOL_SERVER_TOKEN="a b")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "toolserver: TOOL_SERVER_PORT must be a number from 0 to 65535, not 'x'",
        "toolserver: DEV_SERVER_PORT must be a number from 0 to 65535, not '99999'",
        "toolserver: TOOL_SERVER_TOKEN must be at least 16 ASCII characters without spaces",
    ]
    assert ended.stdout == ""


def test_an_open_door_without_a_token_is_refused(tmp_path: Path) -> None:
    ended = run_to_end(tmp_path, TOOL_SERVER_HOST="0.0.0.0")
    assert ended.returncode == 2
    assert ended.stderr == (
        "toolserver: TOOL_SERVER_HOST is '0.0.0.0', which others can reach, and no token is set: "
        "set TOOL_SERVER_TOKEN or TOOL_SERVER_PUBLIC_KEY, or bind 127.0.0.1\n"
    )


def test_a_taken_port_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = run_to_end(tmp_path, "--port", str(port))
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"toolserver: cannot serve {tmp_path}/root on 127.0.0.1:{port}: ")
    assert "address already in use" in last
    assert "Traceback" not in ended.stderr


def test_a_root_that_is_a_file_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    ended = run_to_end(tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("toolserver: cannot serve ")
    assert "Traceback" not in ended.stderr


def test_the_version_is_printed(tmp_path: Path) -> None:
    ended = run_to_end(tmp_path, "--version")
    assert (ended.returncode, ended.stdout) == (0, f"{__version__}\n")


def test_without_a_token_it_says_so(tmp_path: Path) -> None:
    with running(tmp_path, token=None) as daemon:
        messages = [line["message"] for line in daemon.log()]
        assert "no token is set: every program on this machine may use this tool server" in messages


def test_root_and_state_directory_are_made(tmp_path: Path) -> None:
    with running(tmp_path, WORKSPACE_ROOT=str(tmp_path / "deep" / "root")) as daemon:
        assert daemon.root.is_dir()
        assert daemon.state.stat().st_mode & 0o777 == 0o700


def test_what_an_idle_daemon_has_no_use_for_is_not_in_its_memory(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        mapped = Path(f"/proc/{daemon.pid}/maps").read_text(encoding="utf-8")
    assert "uvloop" in mapped
    # The last one is loaded with aiohttp's client alone.
    for library in ("zstandard", "isal", "cryptography", "libstdc++", "_pickle"):
        assert library not in mapped


async def test_what_killed_placings_of_packages_left_is_gone_after_a_start(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    for beside in (root / RESERVED, state):
        (beside / "dependencies-0123/node_modules/a").mkdir(parents=True)
    with running(tmp_path, WORKSPACE_ROOT=str(root), TOOL_SERVER_STATE_DIR=str(state)):
        assert not list(state.glob("dependencies-*"))
        await until(lambda: not list(root.iterdir()) and not list(state.glob("trash-*")), "the tidying")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as daemon:
        os.kill(daemon.pid, number)
        assert daemon.process.wait(PATIENCE_SECONDS) == 0
    assert [line["message"] for line in daemon.log()][-1] == "stopping"


STUBBORN = "trap '' TERM INT HUP; echo stubborn; while :; do sleep 0.1; done"


async def test_a_stop_ends_commands_sockets_and_descendants_within_its_promise(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        async with socket_of(daemon) as socket:
            await socket.send("slow", "command", {"command": "echo on; sleep 1000"})
            await socket.send("stubborn", "command", {"command": STUBBORN})
            await socket.send(
                "away", "command", {"command": "setsid sleep 1001 & (setsid nohup sleep 1002 &) ; echo on"}
            )
            for id in ("slow", "stubborn", "away"):
                while (await socket.next_of(id)).get("event", {}).get("type") != "stdout":
                    pass
            await socket.end_of("away")
            # slow, stubborn and the two sleeps that went away; stubborn's own sleep comes and goes.
            await until(lambda: len(daemon.children()) >= 4, "all of them")
            os.kill(daemon.pid, signal.SIGTERM)
            assert await socket.closed() == (1001, "the tool server stops")
            # running() then asserts: exit code 0 within 10 s, and nothing left.


async def test_a_stop_while_a_slow_client_uploads_nothing_more(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        head = f"POST /v1/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        async with raw_of(daemon, f"{head}Content-Length: 1000000\r\n\r\n{{".encode()) as reader:
            assert await asyncio.to_thread(daemon.stop) == 0
            await reader.read()


async def test_a_stop_while_a_client_reads_nothing_of_what_it_asked_for(tmp_path: Path) -> None:
    """The pieces of an endless command's output fill all that there is room for between the two."""
    frame = b'{"id":"1","op":"command","params":{"command":"yes","commandId":"all"}}'
    with running(tmp_path) as daemon, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(PATIENCE_SECONDS)
        deaf.connect(("127.0.0.1", daemon.port))
        deaf.sendall(
            f"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\n\r\n".encode()
        )
        assert deaf.recv(12) == b"HTTP/1.1 101"
        deaf.sendall(bytes([0x81, 0x80 | len(frame), 0, 0, 0, 0]) + frame)
        async with http_of(daemon) as http, asyncio.timeout(PATIENCE_SECONDS):
            while sum(each["stdoutBytes"] for each in (await http.ok("processes"))["processes"]) < 12 << 20:
                await asyncio.sleep(0.02)
        assert await asyncio.to_thread(daemon.stop) == 0


async def test_signals_that_its_starter_ignored_or_blocked_are_themselves_in_commands(tmp_path: Path) -> None:
    ignored = signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2])
    try:
        with running(tmp_path) as daemon:
            os.kill(daemon.pid, signal.SIGHUP)
            async with http_of(daemon) as http:
                for request in (
                    {"argv": ["cat", "/proc/self/status"]},
                    {"command": "cat /proc/self/status", "pty": {}},
                ):
                    status = (await http.ok("command", **request))["stdout"]
                    assert re.findall(r"Sig(?:Blk|Ign):\s*([0-9a-f]+)", status) == ["0" * 16] * 2
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
        async with http_of(daemon) as http:
            started = await http.ok("command", command=STUBBORN, background=True)
            pid = (await http.ok("processes"))["processes"][0]["pid"]
            assert started["running"]
        os.kill(daemon.pid, signal.SIGTERM)
        os.kill(daemon.pid, signal.SIGTERM)
        os.kill(daemon.pid, signal.SIGINT)
        await until(lambda: not is_alive(pid))


def test_the_log_is_one_json_object_a_line(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        pass
    lines = daemon.log()
    assert len(lines) == len(daemon.errors.read_text().splitlines())
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    listening = next(line for line in lines if line["message"] == "listening")
    assert (listening["url"], listening["root"]) == (daemon.url, str(daemon.root))


def test_a_state_directory_in_the_root_is_refused(tmp_path: Path) -> None:
    ended = run_to_end(tmp_path, TOOL_SERVER_STATE_DIR=str(tmp_path / "root" / "state"))
    assert ended.returncode == 2
    assert "lies in the workspace root: choose one outside" in ended.stderr


async def test_what_programs_are_to_trust_is_theirs_though_it_is_not_read_here(
    tmp_path: Path,
) -> None:
    given = {"SSL_CERT_FILE": str(tmp_path / "given.pem")}
    with running(tmp_path, **given) as daemon:
        async with http_of(daemon) as http:
            answer = await http.ok("command", argv=["printenv", "SSL_CERT_FILE"])
            assert answer["stdout"] == f"{given['SSL_CERT_FILE']}\n"
            answer = await http.ok("command", argv=["printenv", "SSL_CERT_DIR"])
            assert answer["exitCode"] == 1
