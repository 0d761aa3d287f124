"""However a program is started, it finds the same directory, session, signals and descriptors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.errors import Forbidden, InvalidRequest, NotFound
from toolserver.system import spawn as rooms
from toolserver.system.spawn import DEVNULL, spawn

LOOK = """
import json, os, signal
print(json.dumps({
    "cwd": os.getcwd(), "session": os.getsid(0) == os.getpid(), "env": dict(os.environ),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
    "stdin": os.readlink("/proc/self/fd/0"),
    "ignored": [line.split()[1] for line in open("/proc/self/status") if line.startswith("SigIgn")],
}))
"""


@pytest.fixture(params=["the C library", "subprocess"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "subprocess":
        monkeypatch.setattr(rooms, "_library", lambda: None)
    elif rooms._library() is None:
        pytest.skip("this C library cannot change directory on the way")


@pytest.fixture
def output() -> Iterator[tuple[int, Callable[[int], str]]]:
    """A descriptor to write to, and what was written once the program of that pid has ended."""
    read, write = os.pipe()

    def ended(pid: int) -> str:
        os.waitpid(pid, 0)
        os.close(write)
        with os.fdopen(os.dup(read)) as file:
            return file.read()

    yield write, ended
    os.close(read)


@pytest.mark.usefixtures("_way")
class TestEitherWay:
    def test_it_finds_what_was_asked_for_and_nothing_else(
        self, tmp_path: Path, output: tuple[int, Callable[[int], str]]
    ) -> None:
        inherited, other = os.pipe()
        os.set_inheritable(inherited, True)
        write, ended = output
        env = {"PATH": os.environ["PATH"], "A": "ä=\udcff\n"}
        pid = spawn([sys.executable, "-I", "-c", LOOK], str(tmp_path), env, DEVNULL, write, write)
        found = json.loads(ended(pid))
        os.close(inherited)
        os.close(other)
        assert found["cwd"] == str(tmp_path)
        assert found["session"]
        assert {name: value for name, value in found["env"].items() if name != "LC_CTYPE"} == env
        assert found["open"] == [0, 1, 2]
        assert found["stdin"] == "/dev/null"
        # Python itself ignores SIGPIPE and SIGXFSZ; who started these tests may ignore more, as a script that
        # ends a line with ``&``. Signals 32 and 33 are the C library's own.
        status = Path("/proc/self/status").read_text().splitlines()
        ours = next(line.split()[1] for line in status if line.startswith("SigIgn"))
        assert (int(found["ignored"][0], 16) ^ int(ours, 16)) & ~(0b11 << 31) == 0
        assert int(ours, 16) & (1 << 12 | 1 << 24) == 1 << 12 | 1 << 24

    def test_a_name_is_looked_up_on_its_own_path(
        self, tmp_path: Path, output: tuple[int, Callable[[int], str]]
    ) -> None:
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "here"
        script.write_text("#!/bin/sh\necho found\n")
        script.chmod(0o755)
        write, ended = output
        pid = spawn(["here"], str(tmp_path), {"PATH": str(script.parent)}, DEVNULL, write, write)
        assert ended(pid) == "found\n"

    def test_a_pipe_that_nobody_reads_ends_it(self, tmp_path: Path) -> None:
        read, write = os.pipe()
        os.close(read)
        pid = spawn(["yes"], str(tmp_path), {"PATH": os.environ["PATH"]}, DEVNULL, write, write)
        os.close(write)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -13

    def test_what_cannot_be_started_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("x")
        (tmp_path / "lost").write_text("#!/no/such/program\n")
        (tmp_path / "lost").chmod(0o755)
        (tmp_path / "odd").write_text("x")
        (tmp_path / "odd").chmod(0o755)
        env = {"PATH": "/bin:/usr/bin"}
        for argv, kind, message in (
            (
                ["no-such-program"],
                NotFound,
                "there is no program 'no-such-program' on the PATH; check its name",
            ),
            (["./lost"], NotFound, "'./lost' is there, but the program that its first line names is not"),
            (["./plain"], Forbidden, "'./plain' may not be executed; is its x bit set?"),
            (["./odd"], InvalidRequest, "'./odd' cannot be started: Exec format error"),
            (["/bin/echo", "a\0b"], InvalidRequest, "'/bin/echo' cannot be started: embedded null byte"),
        ):
            with pytest.raises(kind) as caught:
                spawn(argv, str(tmp_path), env, DEVNULL, 1, 2)
            assert caught.value.message == message
