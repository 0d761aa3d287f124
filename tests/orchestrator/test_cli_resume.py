"""``workspace resume``, ``idle`` and ``ls`` after a crash, as a person runs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.backends.environment import marker
from orchestrator.trust import CLAUDE_SETTINGS, CODEX_CONFIG
from tests.orchestrator.live import Host, get, template, until


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A data directory with templates; nothing of it is left afterwards."""
    template(tmp_path, "site", {"index.html": "<h1>Hello</h1>"})
    template(
        tmp_path,
        "endless",
        {"package.json": '{"name": "endless"}'},
        installCommand="sleep 7531",
        devCommand="true",
    )
    host = Host(tmp_path)
    yield host
    host.inside("down", "--all", "--remove")


def test_a_stopped_session_is_resumed_on_its_files_with_its_page(host: Host) -> None:
    with host.up("site", "--detach") as up:
        up.ready()
        up.end()
    host.json("call", "write", json.dumps({"path": "index.html", "content": "<h1>Mine</h1>"}))
    host.json("down")
    assert [row["state"] for row in host.json("ls", "--all")] == ["stopped"]
    resumed = host.json("resume", up.session)
    assert (resumed["session"], resumed["problem"]) == (up.session, None)
    assert b"Mine" in get(resumed["previewUrl"])[1]
    done = host.inside("resume", up.session)
    assert (done.returncode, b"is running: it runs already" in done.stderr) == (1, True)


def kill(pids: set[int]) -> None:
    """All at once, as a host that runs out of memory would."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # the end of one may be the end of another
            os.kill(pid, signal.SIGKILL)


def installing(host: Host) -> set[int]:
    """Wait until it comes up and has begun to install; all processes of the sandbox."""
    until(lambda: [row["state"] for row in host.json("ls")] == ["initializing"])
    (row,) = host.json("ls")
    mark = marker(row["session"])
    until(lambda: any(command_line(pid) == b"sleep\0007531\0" for pid in processes.members(mark)))
    return processes.members(mark)


def command_line(pid: int) -> bytes:
    """Empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_one_whose_tool_server_was_killed_is_told_resumed_on_its_files_and_ended(host: Host) -> None:
    with host.up("site", "--detach") as up:
        up.ready()
        up.end()
        host.json("call", "write", json.dumps({"path": "work.txt", "content": "mine"}))
        kill(up.processes())
    until(lambda: [row["state"] for row in host.json("ls")] == ["dead"])
    sentence = "its tool server ended without being asked"
    assert sentence in host.json("ls")[0]["reason"]
    assert f"{up.session} is dead: {sentence}; `workspace resume" in host.inside("ls").stderr.decode()
    assert b"Hello" in get(host.json("resume", up.session)["previewUrl"])[1]
    assert [(row["state"], row["reason"]) for row in host.json("ls")] == [("running", None)]
    assert host.json("call", "read", '{"path": "work.txt"}')["content"] == "mine"
    kill(up.processes())
    assert host.json("down", up.session, "--remove")[0]["survivors"] == []
    assert (host.sessions(), host.json("ls", "--all")) == ([], [])


def test_one_whose_tool_server_is_killed_while_it_comes_up_is_told_and_nothing_is_left(host: Host) -> None:
    with host.up("endless") as up:
        kill(installing(host))
        code, _ = up.end()
    assert code == 1
    assert (host.sessions(), host.json("ls", "--all")) == ([], [])


def test_when_both_are_killed_while_it_comes_up_the_next_ls_undoes_it(host: Host) -> None:
    with host.up("endless") as up:
        sandbox = installing(host)
        up.process.kill()
        up.process.wait()
        kill(sandbox)
        done = host.inside("ls")
    assert b"was left initializing: its start was undone" in done.stderr
    assert (host.sessions(), host.json("ls", "--all")) == ([], [])


def test_agents_still_trust_a_persons_own_directory_when_it_is_resumed(host: Host, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with host.up("./mine", "--detach") as up:
        up.ready()
        up.end()
    look = ("exec", "--", "sh", "-c", f"cd ~ && cat {CODEX_CONFIG} {CLAUDE_SETTINGS}")
    placed = host.inside(*look).stdout
    assert b"trust_level" in placed
    assert b"hasTrustDialogAccepted" in placed
    host.json("down")
    host.json("resume", up.session)
    assert host.inside(*look).stdout == placed


def test_an_up_that_was_killed_half_way_is_undone_by_the_next_ls(host: Host) -> None:
    with host.up("endless") as up:
        until(lambda: any(row["state"] == "initializing" for row in host.json("ls")))
        up.process.kill()
        up.process.wait()
        assert host.sessions() != []
        done = host.inside("ls")
    assert b"was left initializing: its start was undone" in done.stderr
    assert host.json("ls", "--all") == []
    assert host.sessions() == []


def test_idle_says_what_keeps_a_session_and_stops_one_that_nothing_keeps(host: Host) -> None:
    with host.up("site", "--detach") as up:
        up.ready()
        up.end()
    (row,) = host.json("ls", "--idle", "15m")
    assert row["idle"] in {f"stops in {minutes} min" for minutes in range(10, 15)}
    started = host.json("call", "command", '{"command": "sleep 7532", "background": true}')
    (told,) = host.json("idle", "--after", "0.001s", "--dry-run")
    assert told["keptAliveBy"] == [f"process {started['processId']} (sleep 7532)"]
    assert not host.json("idle", "--after", "0.001s")[0]["stopped"]
    host.json("call", "stop", json.dumps({"processId": started["processId"]}))
    until(lambda: host.json("idle", "--after", "0.001s")[0]["stopped"])
    assert [row["state"] for row in host.json("ls", "--all")] == ["stopped"]
    assert list(host.data.rglob("*.tar.gz")) != []


def test_a_duration_that_is_none_is_refused(host: Host) -> None:
    done = host.inside("idle", "--after", "soon")
    assert (done.returncode, b"'soon' is no duration: write it as 90s, 15m or 1h" in done.stderr) == (2, True)
