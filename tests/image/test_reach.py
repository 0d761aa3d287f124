"""What a command in the workspace can reach, and what it cannot.

Commands run as the daemon's own user, in a domain of their own; ``test_separation`` tries what that keeps
them from. What is open without it is tested here too, as it is, and told in docs/image.md.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.image.support import (
    CUT_SHORT,
    HARDENED,
    TOKEN,
    Guest,
    daemon_pid,
    docker,
    eventually,
    in_image,
    workspace,
)
from tests.toolserver.system.test_separation import needs_landlock

WITHOUT_A_DOMAIN = "--env=TOOL_SERVER_SEPARATION=none"
"""What commands have on a kernel without Landlock, and a little more."""
READ_ALL = r"""
import os, pathlib, sys
seen = b""
for place in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("environ", "cmdline", "maps", "auxv"):
        try:
            seen += place.joinpath(name).read_bytes()
        except OSError:
            pass
for place in ("/var/lib/workspace", "/run", "/tmp", "/dev/shm", "/home/node", "/app"):
    for file in pathlib.Path(place).rglob("*"):
        try:
            seen += file.read_bytes()
        except OSError:
            pass
needle = bytes.fromhex(sys.argv[1])
print("found" if needle in seen else "not found", b"PATH=" in seen)
"""
ATTACH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, int(sys.argv[1]), 0, 0), os.strerror(ctypes.get_errno()))
"""


def python(guest: Guest, script: str, *arguments: str) -> str:
    """What a Python script, run as a command of the workspace, prints."""
    told = guest.call("command", {"argv": ["python3", "-c", script, *arguments]})
    assert told["exitCode"] == 0, told
    return str(told["stdout"]).strip()


@pytest.mark.parametrize("options", [(), HARDENED], ids=["plain", "hardened"])
def test_no_command_can_read_the_token_anywhere(options: tuple[str, ...]) -> None:
    with workspace(*options) as guest:
        assert python(guest, READ_ALL, TOKEN.encode().hex()) == "not found True"


def test_a_token_of_the_containers_own_making_is_as_hidden() -> None:
    with workspace("--env=TOOL_SERVER_TOKEN=") as started:
        token = started.first_line().removeprefix("token: ")
        guest = Guest(started.id, token)
        assert python(guest, READ_ALL, token.encode().hex()) == "not found True"


@pytest.mark.parametrize("options", [(), HARDENED], ids=["plain", "hardened"])
def test_memory_environment_and_files_of_daemon_and_init_are_closed(options: tuple[str, ...]) -> None:
    with workspace(*options) as guest:
        for pid in ("1", daemon_pid(guest)):
            for name in ("environ", "mem", "maps", "auxv", "stack"):
                told = guest.run(f"head -c 1 /proc/{pid}/{name}")
                assert told["exitCode"] != 0, (pid, name)
            assert guest.run(f"ls /proc/{pid}/fd/ /proc/{pid}/cwd/")["exitCode"] != 0
            assert python(guest, ATTACH, pid).endswith("Operation not permitted")


def test_the_health_checks_own_processes_show_nothing_either() -> None:
    # For six seconds, and on until one was seen: they are short.
    watch = """
import os, time
begun, seen, read = time.monotonic(), set(), b""
while (gone := time.monotonic() - begun) < 6 or b"/tools/sealed/curl" not in seen and gone < 60:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                seen.add(file.read().split(b"\\0")[0])
            with open(f"/proc/{pid}/environ", "rb") as file:
                read += file.read()
        except OSError:
            pass
print(b"/tools/sealed/curl" in seen, b"TOOL_SERVER_TOKEN" in read)
"""
    with workspace("--health-interval=1s") as guest:
        eventually("a first check", lambda: guest.state("Health.Status") == "healthy")
        assert python(guest, watch) == "True False"


@pytest.mark.parametrize("options", [(), HARDENED], ids=["plain", "hardened"])
def test_the_daemons_code_and_the_system_cannot_be_written(options: tuple[str, ...]) -> None:
    with workspace(*options) as guest:
        for place in (
            "/tools",
            "/tools/bin",
            "/tools/daemon/toolserver",
            "/tools/venv",
            "/usr/local/bin",
            "/etc",
        ):
            assert guest.run(f"touch {place}/x")["exitCode"] != 0, place
        assert guest.run("echo >> /tools/bin/toolserver")["exitCode"] != 0
        assert guest.run("cat /tools/sealed/init")["exitCode"] != 0


def test_there_is_no_way_to_another_user() -> None:
    assert in_image("find", "/", "-xdev", "-perm", "/6000", "-type", "f", options=["--user=0"]) == ""
    with workspace() as guest:
        assert guest.run("su root -c id < /dev/null")["exitCode"] != 0
        assert guest.run("ls /root /etc/shadow; cat /etc/shadow")["exitCode"] != 0
        assert guest.output("id -u; grep CapEff /proc/self/status").split() == [
            *("1000", "CapEff:", "0000000000000000"),
        ]


def test_commands_see_none_of_the_daemons_variables() -> None:
    with workspace("--env=SESSION_ID=s1", "--env=FOR_THE_WORKSPACE=yes") as guest:
        seen = {line.partition("=")[0] for line in guest.output("env").splitlines()}
    assert "FOR_THE_WORKSPACE" in seen
    assert not {name for name in seen if name.startswith("TOOL_SERVER_")}
    assert not seen & {"SESSION_ID", "WORKSPACE_ROOT", "DEV_SERVER_PORT"}


@needs_landlock
@pytest.mark.parametrize("options", [("--init",), ("--user=0",)], ids=["the engine's init", "root"])
def test_neither_the_engines_init_nor_a_program_of_yours_shows_a_command_anything(
    options: tuple[str, ...],
) -> None:
    with workspace(*options) as guest:
        docker("exec", "--detach", "--env=MINE=a-secret-of-yours", guest.id, "sleep", "1000")
        eventually("it runs", lambda: "sleep" in docker("top", guest.id))
        assert python(guest, READ_ALL, TOKEN.encode().hex()) == "not found True"
        assert python(guest, READ_ALL, b"a-secret-of-yours".hex()) == "not found True"


@needs_landlock
def test_a_command_can_neither_end_the_daemon_nor_write_in_its_area() -> None:
    with workspace() as guest:
        refused = guest.run(f"kill -KILL {daemon_pid(guest)}")
        assert (refused["exitCode"], "Operation not permitted" in refused["stderr"]) == (1, True)
        assert guest.run("touch /var/lib/workspace/.workspace/x")["exitCode"] == 1
        assert guest.output("echo goes on") == "goes on"


def test_not_held_without_a_domain_a_command_can_end_the_daemon_and_with_it_the_container() -> None:
    with workspace(WITHOUT_A_DOMAIN) as guest:
        daemon = daemon_pid(guest)
        with contextlib.suppress(*CUT_SHORT):  # no answer comes from who was killed
            guest.run(f"kill -KILL {daemon}")
        eventually("the container has ended", lambda: guest.state("Running") == "false")
        docker("start", guest.id)
        guest.wait_healthy()


def test_not_held_without_a_domain_a_command_can_write_in_the_daemons_own_area() -> None:
    with workspace(WITHOUT_A_DOMAIN) as guest:
        assert guest.run("touch /var/lib/workspace/.workspace/x")["exitCode"] == 0


def test_not_held_without_a_domain_the_engines_init_shows_its_environment() -> None:
    with workspace(WITHOUT_A_DOMAIN, "--init") as guest:
        assert python(guest, READ_ALL, TOKEN.encode().hex()) == "found True"
