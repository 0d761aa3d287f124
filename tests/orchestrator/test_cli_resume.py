"""``workspace resume``, ``idle`` and ``ls`` after a crash, as a person runs them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_one_whose_tool_server_was_killed_is_resumed(host: Host) -> None:
    with host.up("site", "--detach") as up:
        up.ready()
        up.end()
        for pid in up.processes():
            os.kill(pid, signal.SIGKILL)
    until(lambda: [row["state"] for row in host.json("ls")] == ["dead"])
    assert b"Hello" in get(host.json("resume", up.session)["previewUrl"])[1]
    assert [row["state"] for row in host.json("ls")] == ["running"]


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
    assert row["idle"] == "stops in 14 min"
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
