"""The command line with workspaces that run: brought up, worked in, saved, taken down. No npm."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.environment import marker
from orchestrator.processes import members
from tests.builder import CLOCKS_MS
from tests.orchestrator.archives import names_in
from tests.orchestrator.live import WAIT_SECONDS, WORKSPACE, Host, Up, get, template, until
from tests.ports import free_port

PAGE = {"index.html": "<p>hello</p>\n"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end_everything()


@pytest.fixture
def running(host: Host) -> Iterator[Up]:
    """static-html, ready."""
    with host.up("static-html") as up:
        yield up.ready()


# -- up ---------------------------------------------------------------------------------------------------


def test_every_stage_is_told_with_its_duration(running: Up) -> None:
    stages = {"archive", "tool server", "extract", "install", "dev server", "total"}
    assert set(running.said["durationsMs"]) <= stages
    _, errors = running.signal(signal.SIGINT)
    assert re.search(r"^archive: done in \d+ ms \(\d+ files", errors, re.MULTILINE)
    assert re.search(r"^extract: done in \d+ ms \(\d+ files", errors, re.MULTILINE)
    assert re.search(r"^dev server: done in", errors, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_and_leaves_no_process(
    host: Host, running: Up, number: signal.Signals
) -> None:
    host.inside("exec", "--", "setsid sleep 300 > /dev/null 2>&1 & sleep 300 > /dev/null 2>&1 &")
    # The dev server and the two; the daemon itself shows its environment to root only.
    until(lambda: len(running.processes()) >= 3)
    code, errors = running.signal(number)
    assert (code, running.processes()) == (0, set())
    assert "files kept in" in errors


def test_files_are_kept_and_can_be_gone_on_with(host: Host, running: Up) -> None:
    host.inside("call", "write", '{"path": "mine.txt", "content": "work"}')
    _, errors = running.signal(signal.SIGINT)
    found = re.search(r"files kept in (\S+)\n +go on with them: workspace (.+)", errors)
    assert found is not None
    assert (Path(found[1]) / "mine.txt").read_text() == "work"
    assert host.json(*found[2].split())["session"] == running.session
    assert host.json("call", "read", '{"path": "mine.txt"}')["content"] == "work"
    host.inside("down", "--all", "--remove")


def test_files_are_removed_when_asked(host: Host) -> None:
    with host.up("static-html", "--remove") as up:
        assert up.ready().signal(signal.SIGINT)[0] == 0
    assert (host.sessions(), host.json("ls", "--all")) == ([], [])


def test_it_is_saved_by_itself_to_the_file_that_was_named(host: Host) -> None:
    target = host.directory / "auto.tar.gz"
    wishes = ("--autosave", "0.1s", "--autosave-to", target.name, "--remove")
    saves = set[int]()
    with host.up("static-html", *wishes) as up:
        up.ready()

        def is_saved() -> bool:
            # Again and again: what was there at its first look counts as saved.
            host.inside("call", "write", json.dumps({"path": "mine.txt", "content": secrets.token_hex(4)}))
            if target.exists():
                saves.add(target.stat().st_mtime_ns)
            return len(saves) > 1  # with the second one under way, the first was told

        until(is_saved)
        _, errors = up.signal(signal.SIGINT)
    assert f"{up.session} autosaved to {target}" in errors
    assert "./mine.txt" in names_in(target)


@pytest.mark.parametrize("wish", ["auto", "none"])
def test_the_first_session_of_all_makes_what_its_package_managers_keep(wish: str) -> None:
    # Not below /tmp: what is hidden there is hidden from nobody, for a sandbox has all of its own /tmp.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        host = Host(Path(directory))
        with host.up("static-html", "--isolation", wish, "--remove") as up:
            up.ready()
            made = 'mkdir -p "$npm_config_cache/_cacache" "$COREPACK_HOME/v1" && touch "$npm_config_cache/a"'
            done = host.inside("exec", up.session, "--", made)
            assert (done.returncode, done.stderr) == (0, b"")
            up.signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--autosave-to", "a.tar.gz"], "give --autosave 5m as well"),
        (["--autosave", "5m", "--detach"], "leave out --detach"),
        (["--autosave", "5m", "--autosave-to", "a.zip"], "is no name of an archive"),
        (["--autosave", "5m", "--autosave-to", "none/a.tar.gz"], "there is no directory"),
    ],
)
def test_an_autosave_that_could_never_be_is_refused_before_anything_starts(
    host: Host, words: list[str], reason: str
) -> None:
    done = host.inside("up", "static-html", *words)
    assert done.returncode
    assert reason in done.stderr.decode()
    assert host.sessions() == []


def test_ctrl_c_before_it_is_ready_leaves_nothing(host: Host) -> None:
    template(host.directory, "slow", PAGE, installCommand="touch installing; sleep 300")
    with host.up("slow") as up:
        until(lambda: list(host.data.glob("workspaces/*/*/installing")))
        session = host.sessions()[0]
        code, errors = up.signal(signal.SIGINT)
    assert errors.splitlines()[-2:] == [
        "stopping…",
        "nothing is kept: it was not ready, and its files were only a copy of slow",
    ]
    assert (code, members(marker(session))) == (130, set())
    assert (host.sessions(), host.json("ls", "--all")) == ([], [])


def test_a_failed_install_is_told_with_its_output_and_leaves_nothing(host: Host) -> None:
    template(host.directory, "bad", PAGE, installCommand="echo 'error: no such package x y z'; exit 7")
    with host.up("bad") as up:
        out, errors = up.process.communicate(timeout=WAIT_SECONDS)
    assert up.process.returncode == 1
    assert json.loads(out)["error"]["code"] == "install_failed"
    assert "exit code 7" in errors
    assert errors.count("  | error: no such package x y z") == 1
    assert json.loads(out)["error"]["details"]["output"] == ["error: no such package x y z"]
    assert (host.sessions(), host.processes(), host.json("ls", "--all")) == ([], set(), [])


def test_a_dev_server_that_exits_is_told(host: Host) -> None:
    template(host.directory, "bad", PAGE, devCommand="echo cannot bind {port}; exit 3")
    with host.up("bad") as up:
        code, errors = up.end()
    assert code == 1
    assert "exit code 3" in errors
    assert host.processes() == set()


def test_detach_leaves_it_running_until_down(host: Host) -> None:
    up = host.json("up", "static-html", "--detach", "--port", "0")
    assert get(up["previewUrl"])[0] == 200
    assert [row["state"] for row in host.json("ls")] == ["running"]
    done = host.json("down")
    assert (done[0]["survivors"], host.processes()) == ([], set())


def test_the_printed_lines_work_when_pasted(host: Host) -> None:
    done = host.run("up", "static-html", "--detach", "--port", "0")
    lines = [line.strip() for line in done.stdout.decode().splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 3
    health, read, command = (
        json.loads(subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout)
        for line in lines
    )
    assert health["status"] == "healthy"
    assert read["path"] == "index.html"
    assert "index.html" in command["stdout"]


def test_a_taken_port_gives_way_aloud_unless_it_was_asked_for(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        template(host.directory, "wish", PAGE, port=port)
        done = host.run("up", "wish", "--detach", "--port", "0", "--json")
        errors = done.stderr.decode()
        assert f"port {port} is taken: the dev server gets 8" in errors
        assert errors.index("is taken: the dev server") < errors.index("tool server: done")
        done = host.run("up", "wish", "--dev-port", str(port))
        assert done.returncode == 1
        assert (
            f"port {port} is taken; stop what listens on it, or choose another by --dev-port"
            in done.stderr.decode()
        )


def test_two_run_side_by_side_with_ports_of_their_own(host: Host, running: Up) -> None:
    with host.up("static-html") as other:
        other.ready()
        assert other.said["previewUrl"] != running.said["previewUrl"]
        assert {row["session"] for row in host.json("ls")} == {other.session, running.session}
        done = host.inside("exec", "--", "true")
        assert done.returncode == 1
        assert "2 sessions run: say which" in done.stderr.decode()
        assert host.inside("exec", other.session.rpartition("_")[2], "--", "true").returncode == 0


def test_a_directory_is_taken_as_a_copy_with_its_history_and_without_its_packages(host: Host) -> None:
    mine = host.directory / "mine"
    for path in ("index.html", ".git/HEAD", "node_modules/x/index.js", ".env"):
        (mine / path).parent.mkdir(parents=True, exist_ok=True)
        (mine / path).write_text(path)
    with host.up("./mine") as up:
        up.ready()
        names = {
            entry["path"] for entry in host.json("call", "list", '{"ignored": true, "depth": 2}')["entries"]
        }
        assert {"index.html", ".git/HEAD"} <= names
        assert not {"node_modules", ".env"} & names
        host.inside("call", "edit", '{"path": "index.html", "oldText": "index", "newText": "changed"}')
        assert (mine / "index.html").read_text() == "index.html"


def test_a_damaged_archive_starts_nothing(host: Host) -> None:
    (host.directory / "save.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    done = host.run("up", "save.tar.gz")
    assert done.returncode == 1
    assert "is damaged" in done.stderr.decode()
    assert host.sessions() == []


# -- what goes wrong meanwhile ----------------------------------------------------------------------------


def test_a_tool_server_that_is_killed_ends_up_with_a_sentence(host: Host, running: Up) -> None:
    label = next(host.data.glob("workspaces/*/.*/guest.json"))
    os.kill(int(json.loads(label.read_text())["labels"]["pid"]), signal.SIGKILL)
    code, errors = running.end()
    assert code == 1
    assert "the tool server ended; its log is" in errors
    assert running.processes() == set()


def test_down_from_another_terminal_ends_up(host: Host, running: Up) -> None:
    assert host.inside("down").returncode == 0
    code, errors = running.end()
    assert (code, errors.splitlines()[-1]) == (0, "stopped by another `workspace down`")
    assert running.processes() == set()


def test_a_workspace_whose_up_was_killed_runs_on_and_is_ended_by_down(host: Host, running: Up) -> None:
    running.signal(signal.SIGKILL)
    assert [(row["session"], row["state"]) for row in host.json("ls")] == [(running.session, "running")]
    assert host.inside("exec", "--", "true").returncode == 0
    assert host.inside("down", "--remove").returncode == 0
    assert (running.processes(), host.sessions()) == (set(), [])


def test_a_dead_session_is_shown_dead_and_cleaned_up(host: Host, running: Up) -> None:
    running.process.kill()
    label = next(host.data.glob("workspaces/*/.*/guest.json"))
    os.kill(int(json.loads(label.read_text())["labels"]["pid"]), signal.SIGKILL)
    until(lambda: [row["state"] for row in host.json("ls")] == ["dead"])
    assert host.inside("exec", running.session, "--", "true").returncode == 1
    done = host.json("down", running.session)
    assert (done[0]["survivors"], running.processes(), host.json("ls")) == ([], set(), [])


def test_a_closed_terminal_ends_everything(host: Host) -> None:
    master, slave = os.openpty()
    script = (
        "import os, sys; os.setsid(); tty = os.open(sys.argv[1], os.O_RDWR); "
        "[os.dup2(tty, fd) for fd in range(3)]; os.execv(sys.executable, sys.argv[2:])"
    )
    words = ["-c", script, os.ttyname(slave), *WORKSPACE, "up", "static-html", "--port", "0"]
    with subprocess.Popen([sys.executable, *words], cwd=host.directory, env=host.environ) as process:
        until(lambda: [row["state"] for row in host.json("ls")] == ["running"])
        os.close(slave)
        os.close(master)
        process.wait(WAIT_SECONDS)
    assert host.processes() == set()
    assert [row["state"] for row in host.json("ls", "--all")] == ["stopped"]


def test_a_dev_server_whose_port_was_taken_meanwhile_gets_another(host: Host) -> None:
    port = free_port()
    loses = f"test {{port}} = {port} && echo 'Error: listen EADDRINUSE: address already in use' && exit 1"
    serves = f"exec {sys.executable} -m http.server --bind 127.0.0.1 {{port}}"
    template(host.directory, "late", PAGE, devCommand=f"{loses}; {serves}", port=port)
    with host.up("late") as up:
        assert get(up.ready().said["previewUrl"])[0] == 200
        assert f":{port}/" not in up.said["previewUrl"]
        assert len(host.sessions()) == 2  # the root and the area of one
        _, errors = up.signal(signal.SIGINT)
    assert f"port {port} was taken by another program meanwhile: once more, on another" in errors


def test_a_port_that_was_asked_for_is_not_exchanged(host: Host) -> None:
    template(host.directory, "bad", PAGE, devCommand="echo EADDRINUSE {port}; exit 1")
    with host.up("bad", "--dev-port", str(free_port())) as up:
        code, errors = up.end()
    assert (code, errors.count("EADDRINUSE")) == (1, 2)
    assert "once more" not in errors


def test_a_session_that_was_stopped_already_is_said_to_be(host: Host, running: Up) -> None:
    running.signal(signal.SIGINT)
    assert b"was stopped already; files kept in" in host.inside("down", running.session).stderr
    done = host.inside("down", running.session, "--remove")
    assert done.stderr.decode().splitlines() == [f"{running.session} was stopped already; files removed"]
    assert list(host.data.glob("logs/*/*")) == []


@pytest.fixture
def small_disk(host: Host) -> Iterator[Path]:
    """The data directory on a disk of 3 MB."""
    host.data.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(host.data)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small disk")
    try:
        yield host.data
        host.end_everything()
    finally:
        # Lazily: a test that failed may have left a process in there.
        subprocess.run(["umount", "--lazy", str(host.data)], check=True)


def fill(disk: Path) -> None:
    with (disk / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def test_on_a_full_disk_a_session_is_listed_used_and_ended(host: Host, small_disk: Path) -> None:
    session = host.json("up", "static-html", "--detach", "--port", "0")["session"]
    fill(small_disk)
    assert [row["state"] for row in host.json("ls")] == ["running"]
    assert host.inside("exec", "--", "echo hi").stdout == b"hi\n"
    assert host.json("call", "stat", '{"path": "index.html"}')["kind"] == "file"
    for words in (("save",), ("up", "static-html")):
        done = host.inside(*words)
        assert done.returncode == 1
        assert b"make room" in done.stderr
        assert done.stderr.splitlines()[-1].startswith(b"workspace: ")
    assert host.json("down", "--remove")[0]["survivors"] == []
    assert (members(marker(session)), host.sessions(), host.json("ls", "--all")) == (set(), [], [])


def test_a_disk_that_fills_during_up_leaves_nothing_running(host: Host, small_disk: Path) -> None:
    template(host.directory, "big", PAGE, installCommand="dd if=/dev/zero of=fill bs=512; exit 1")
    with host.up("big") as up:
        code, errors = up.end()
    assert code == 1
    assert "No space left on device" in errors
    assert "Traceback" not in errors
    assert (host.sessions(), host.processes(), host.json("ls", "--all")) == ([], set(), [])


# -- exec, call, save -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def brought_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, dict[str, Any]]]:
    """One workspace for tests that only look, and what ``up`` said of it."""
    host = Host(tmp_path_factory.mktemp("shared"))
    yield host, host.json("up", "static-html", "--detach", "--port", "0")
    host.end_everything()


@pytest.fixture(scope="module")
def shared(brought_up: tuple[Host, dict[str, Any]]) -> Host:
    return brought_up[0]


@pytest.fixture(scope="module")
def said(brought_up: tuple[Host, dict[str, Any]]) -> dict[str, Any]:
    return brought_up[1]


def test_the_page_answers_and_the_tool_server_is_healthy(said: dict[str, Any]) -> None:
    assert get(said["previewUrl"])[0] == 200
    status, body = get(said["toolServerUrl"] + "/health")
    assert (status, json.loads(body)["status"]) == (200, "healthy")


def test_another_user_sees_none_of_it(shared: Host, said: dict[str, Any]) -> None:
    assert shared.json("ls", "--user", "bob") == []
    done = shared.inside("exec", said["session"], "--user", "bob", "--", "true")
    assert f"no session '{said['session']}'" in done.stderr.decode()
    assert done.returncode == 1


def test_exec_exits_with_the_commands_own_code(shared: Host) -> None:
    assert shared.inside("exec", "--", "exit 37").returncode == 37


def test_exec_keeps_the_streams_apart_byte_for_byte(shared: Host) -> None:
    done = shared.run("exec", "--", r"printf 'a\377\0b'; printf 'err' >&2")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\xff\0b", b"err", 0)


def test_exec_of_several_words_needs_no_quoting(shared: Host) -> None:
    assert shared.inside("exec", "--", "printf", "%s|", "a b", "$HOME", "*").stdout == b"a b|$HOME|*|"


def test_exec_loses_nothing_of_a_large_output(shared: Host) -> None:
    done = shared.run("exec", "--", "seq 300000")
    assert done.stdout == b"".join(b"%d\n" % number for number in range(1, 300001))


def test_exec_gives_standard_input_when_asked(shared: Host) -> None:
    assert shared.inside("exec", "-i", "--", "cat", stdin=b"hi").stdout == b"hi"
    assert shared.inside("exec", "--", "cat", stdin=b"hi").stdout == b""


def test_exec_sets_directory_and_environment(shared: Host) -> None:
    shared.inside("exec", "--", "mkdir -p sub")
    done = shared.inside("exec", "--cwd", "sub", "-e", "A=1", "--", 'echo "${PWD##*/} $A"')
    assert done.stdout == b"sub 1\n"


def test_exec_tells_which_clock_ended_it(shared: Host) -> None:
    said = b""
    for milliseconds in CLOCKS_MS:
        if said:  # else the time was over before it had begun
            break
        done = shared.inside("exec", "--timeout", f"{milliseconds / 1000}", "--", "echo a; sleep 60")
        said = done.stdout
        assert done.returncode == 124
        assert f"ended after {milliseconds} ms (--timeout)" in done.stderr.decode()
    assert said == b"a\n"


def test_exec_of_a_program_that_is_not_there_is_refused(shared: Host) -> None:
    done = shared.inside("exec", "--", "no-such-program", "x")
    assert done.returncode in (1, 127)
    assert b"no-such-program" in done.stderr


def test_exec_for_programs_is_the_answer(shared: Host) -> None:
    done = shared.inside("exec", "--json", "--", "echo hi; exit 3")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["stdout"], answer["exitCode"]) == (3, "hi\n", 3)


def test_ctrl_c_ends_the_command_in_the_workspace(shared: Host) -> None:
    words = [*WORKSPACE, "exec", "--", "echo $$; exec sleep 300"]
    with subprocess.Popen(words, cwd=shared.directory, env=shared.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 130
    until(lambda: pid not in shared.processes())


def test_call_prints_the_answer(shared: Host) -> None:
    assert json.loads(shared.inside("call", "stat", '{"path": "index.html"}').stdout)["kind"] == "file"
    done = shared.inside("call", "stat", "-", stdin=b'{"path": "style.css"}')
    assert json.loads(done.stdout)["path"] == "style.css"


def test_call_streams_lines_and_ends_with_the_result(shared: Host) -> None:
    done = shared.inside("call", "command", '{"command": "echo hi"}', "--stream")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["event"]["type"] == "started"
    assert {"type": "stdout", "offset": 0, "nextOffset": 3, "data": "hi\n"} in [
        line.get("event") for line in lines
    ]
    assert lines[-1]["result"]["exitCode"] == 0


def test_a_refused_call_is_the_tool_servers_own_error(shared: Host) -> None:
    done = shared.inside("call", "read", '{"path": "gone.txt"}', "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "not_found"
    assert error["requestId"]
    streamed = shared.inside("call", "search", '{"pattern": "("}', "--stream")
    assert streamed.returncode == 1
    assert json.loads(streamed.stdout.splitlines()[-1])["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst", ".tar"])
def test_a_save_brings_the_same_tree_back(shared: Host, suffix: str) -> None:
    shared.inside(
        "exec", "--", "mkdir -p a/empty; echo x > a/run.sh; chmod 755 a/run.sh; ln -sf a/run.sh link"
    )
    listing = "find . -printf '%P %M %l\\n' | sort; cat index.html a/run.sh | sha256sum"
    before = shared.inside("exec", "--", listing).stdout
    saved = shared.json("save", "-o", str(shared.directory / f"work{suffix}"))
    assert (saved["leftOut"], saved["changed"]) == ([], [])
    other = Host(shared.directory / suffix.strip("."))
    other.directory.mkdir()
    other.json("up", saved["path"], "--detach", "--port", "0")
    try:
        assert other.inside("exec", "--", listing).stdout == before
    finally:
        other.end_everything()


def test_a_save_without_a_name_lies_in_the_data_directory(shared: Host) -> None:
    path = Path(shared.inside("save").stdout.decode().strip())
    assert path.is_relative_to(shared.data / "saves" / "default")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_save_into_nowhere_is_refused(shared: Host) -> None:
    done = shared.inside("save", "-o", "no/such/place.tar.gz")
    assert done.returncode == 1
    assert b"there is no directory" in done.stderr


def test_down_can_save_first(host: Host) -> None:
    host.json("up", "static-html", "--detach", "--port", "0")
    done = host.json("down", "--save", "--remove")
    assert Path(done[0]["save"]).is_file()
    assert host.sessions() == []


def test_a_reader_that_has_seen_enough_ends_exec_quietly(shared: Host) -> None:
    line = " ".join([*WORKSPACE, "exec", "--", "yes", "|", "head", "-1;", "echo", "${PIPESTATUS[0]}"])
    done = subprocess.run(
        ["bash", "-c", line], env=shared.environ, capture_output=True, timeout=WAIT_SECONDS, check=True
    )
    assert (done.stdout, done.stderr) == (b"y\n141\n", b"")


def test_the_way_to_end_it_names_the_data_directory_when_it_is_another(tmp_path: Path) -> None:
    host = Host(tmp_path)
    words = ("up", "static-html", "--detach", "--port", "0", "--data-dir", str(host.data), "--user", "bob")
    done = host.inside(*words)
    last = done.stdout.decode().splitlines()[-1].partition("workspace ")[2]
    assert host.inside(*last.split()).returncode == 0
    assert host.inside("ls", "--user", "bob", "--json").stdout == b"[]\n"
