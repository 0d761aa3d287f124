"""The program that ties itself down: what it leaves of files and ports. It never starts with less."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.isolation import landlock, launcher, seccomp

LAUNCHER = (sys.executable, "-I", "-S", str(Path(launcher.__file__)))
READABLE = (
    "read",
    "/usr",
    "read",
    "/lib",
    "read",
    "/lib64",
    "read",
    "/bin",
    "read",
    "/etc",
    "device",
    "/dev/null",
)
MACHINE = os.uname().machine

needs_landlock = pytest.mark.skipif(
    landlock.abi() < landlock.NET_ABI, reason="this kernel has no Landlock for ports"
)
needs_filter = pytest.mark.skipif(not seccomp.is_known(MACHINE), reason=f"no filter for {MACHINE}")


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    """``words`` are the launcher's, ``--``, and the command."""
    return subprocess.run([*LAUNCHER, *words], capture_output=True, text=True, timeout=60, check=False)


def sh(line: str, *words: str) -> subprocess.CompletedProcess[str]:
    return launched("landlock", str(landlock.abi()), *READABLE, *words, "--", "/bin/sh", "-c", line)


def test_without_any_word_the_command_just_runs() -> None:
    assert launched("--", "/bin/echo", "hello").stdout == "hello\n"


def test_the_exit_code_is_the_commands_own() -> None:
    assert launched("--", "/bin/sh", "-c", "exit 7").returncode == 7


def test_what_cannot_be_done_ends_the_start_with_a_sentence() -> None:
    done = launched("landlock", "7", "--", "/no/such/program")
    assert done.returncode == launcher.CANNOT_RUN
    assert done.stderr.startswith("this host does not let a workspace be isolated: ")


@pytest.mark.skipif(os.getuid() == 0, reason="root may become another user")
def test_somebody_who_may_not_become_another_user_does_not_run_as_himself() -> None:
    assert launched("uid", "7", "gid", "7", "--", "/bin/true").returncode == launcher.CANNOT_RUN


@needs_landlock
def test_only_what_was_granted_is_read_and_written(tmp_path: Path) -> None:
    granted, other = tmp_path / "granted", tmp_path / "other"
    for directory in (granted, other):
        directory.mkdir()
        (directory / "file").write_text(directory.name)
    line = f"cat {granted}/file; cat {other}/file; echo new > {granted}/new; echo new > {other}/new"
    assert sh(line, "write", str(granted)).stdout == "granted"
    assert (granted / "new").exists()
    assert not (other / "new").exists()


@needs_landlock
def test_a_file_moves_between_granted_directories_and_to_no_other(tmp_path: Path) -> None:
    for name in ("state", "root", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "state" / "file").touch()
    both = ("write", str(tmp_path / "state"), "write", str(tmp_path / "root"))
    assert sh(f"mv {tmp_path}/state/file {tmp_path}/root/file", *both).returncode == 0
    assert sh(f"mv {tmp_path}/root/file {tmp_path}/other/file", *both).returncode != 0


@needs_landlock
def test_what_the_command_starts_is_tied_down_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret")
    assert sh(f"sh -c 'setsid cat {tmp_path}/file'").stdout == ""


def test_no_program_gives_rights_back() -> None:
    assert launched("--", "/bin/grep", "NoNewPrivs", "/proc/self/status").stdout.split()[1] == "1"


@needs_landlock
@needs_filter
@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("socket.create_connection(('127.0.0.1', port))", "PermissionError"),
        ("socket.socket(2, 1, 262).connect(('127.0.0.1', port))", "OSError 93"),
        ("socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', port))", "OSError 95"),
        ("socket.socket().sendmsg([b'x'], [], 0x20000000, ('127.0.0.1', port))", "OSError 95"),
        ("socket.socket(43, 1, 0)", "OSError 97"),
        ("socket.socket(40, 1, 0)", "OSError 97"),
        ("socket.socket(2, 1, 132)", "OSError 93"),
        ("socket.socket(10, 1, 262)", "OSError 93"),
    ],
)
def test_no_way_leads_around_the_rules_on_ports(way: str, error: str) -> None:
    code = (
        f"import socket, sys\nport = int(sys.argv[1])\ntry: {way}\n"
        "except PermissionError: print('PermissionError')\n"
        "except OSError as error: print('OSError', error.errno)\n"
        "else: print('through')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        words = ("landlock", str(landlock.abi()), "read", "/", "connect", "443", "filter", MACHINE)
        done = launched(*words, "--", sys.executable, "-I", "-S", "-c", code, port)
    assert done.stdout.strip() == error, done.stderr


@needs_filter
def test_ordinary_sockets_pass_the_filter() -> None:
    code = (
        "import socket\n"
        "for each in ((1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 1, 6), (2, 2, 17), (10, 1, 0), (16, 3, 0)):\n"
        "    socket.socket(*each).close()\n"
        "a, b = socket.socketpair()\n"
        "a.sendmsg([b'x']); print(b.recv(1))\n"
    )
    done = launched("filter", MACHINE, "--", sys.executable, "-I", "-S", "-c", code)
    assert done.stdout.strip() == "b'x'", done.stderr


def test_every_filter_ends_in_an_answer_and_jumps_nowhere_beyond() -> None:
    for machine in ("x86_64", "aarch64"):
        code = seccomp.program(machine)
        words = [code[at : at + 8] for at in range(0, len(code), 8)]
        assert words[-1] == bytes.fromhex("06000000 0000ff7f")
        for index, word in enumerate(words):
            if word[0] in (0x15, 0x35, 0x45):
                assert index + 1 + max(word[2], word[3]) < len(words)
