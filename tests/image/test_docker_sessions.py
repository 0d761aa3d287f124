"""``workspace`` with its sessions in containers, as a person runs it."""

from __future__ import annotations

import json
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.support import IMAGE, docker, remove_network
from tests.orchestrator.live import Host, get, template, until

NETWORK = f"tests-of-workspace-core-{secrets.token_hex(4)}"
UP = ("site", "--backend", "docker")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str) -> Iterator[Host]:
    """A data directory with the template ``site``; containers and network are gone afterwards."""
    for name, value in {"WORKSPACE_DOCKER_NETWORK": NETWORK, "WORKSPACE_DOCKER_IMAGE": IMAGE}.items():
        monkeypatch.setenv(name, value)
    template(tmp_path, "site", {"index.html": "<h1>Hello</h1>"})
    host = Host(tmp_path)
    yield host
    host.inside("down", "--all", "--remove")
    remove_network(NETWORK)


def running() -> list[str]:
    """Containers on these tests' network."""
    return docker("ps", "--all", "--quiet", "--filter", f"network={NETWORK}").split()


def test_a_page_is_served_and_ctrl_c_keeps_the_work_as_a_save(host: Host) -> None:
    with host.up(*UP) as up:
        assert b"Hello" in get(up.ready().said["previewUrl"])[1]
        host.json("call", "write", json.dumps({"path": "work.txt", "content": "mine"}))
        code, errors = up.signal(signal.SIGINT)
    save = max(host.data.rglob("*.tar.gz"))  # one is also kept on the way
    assert (code, str(save) in errors, "--remove" in errors) == (0, True, False)
    assert running() == []
    with host.up(str(save), "--backend", "docker") as again:
        again.ready()
        assert host.json("call", "read", '{"path": "work.txt"}')["content"] == "mine"
        again.signal(signal.SIGINT)


def test_one_whose_up_was_killed_is_found_used_and_ended_by_another(host: Host) -> None:
    with host.up(*UP) as up:
        up.ready()
        up.process.kill()
    (row,) = host.json("ls")
    assert (row["session"], row["state"], row["backend"]) == (up.session, "running", "docker")
    assert host.inside("exec", "--", "cat", "index.html").stdout == b"<h1>Hello</h1>"
    assert host.json("down")[0]["kept"].endswith(".tar.gz")
    assert running() == []


def test_ctrl_c_before_it_is_ready_leaves_no_container(host: Host) -> None:
    with host.up(*UP) as up:
        assert up.process.stderr is not None
        up.process.stderr.readline()  # the archive is packed, the container is next
        up.signal(signal.SIGINT)
    assert running() == []
    assert host.json("ls", "--all") == []


def test_what_was_committed_in_a_container_is_there_after_its_end(host: Host) -> None:
    with host.up(*UP, "--detach") as up:
        up.ready()
        up.end()
    commit = "git init -q && git add -A && git -c user.name=a -c user.email=a@b commit -qm mine"
    assert host.inside("exec", "--", commit).returncode == 0
    for end in (("down",), ("idle", "--after", "0.001s")):
        # The command's own connection may still be seen open, and keeps it from being idle.
        until(lambda end=end: host.json(*end) and running() == [])
        host.json("resume", up.session)
        assert host.inside("exec", "--", "git log --format=%s && git status --short").stdout == b"mine\n"


def test_one_whose_container_is_killed_while_it_comes_up_is_told_and_nothing_is_left(host: Host) -> None:
    files = {"package.json": '{"name": "endless"}'}
    template(host.directory, "endless", files, installCommand="sleep 7531", devCommand="true")
    with host.up("endless", "--backend", "docker") as up:
        until(lambda: [row["state"] for row in host.json("ls")] == ["initializing"])
        docker("kill", *running())
        code, _ = up.end()
    assert (code, running(), host.json("ls", "--all")) == (1, [], [])


@pytest.fixture
def crashed(host: Host) -> str:
    """A session with work in it that no save holds, and whose container was killed."""
    with host.up(*UP, "--detach") as up:
        up.ready()
        up.end()
    host.json("call", "write", json.dumps({"path": "work.txt", "content": "mine"}))
    docker("kill", *running())
    # The engine says that it has killed it before its list does.
    until(lambda: [row["state"] for row in host.json("ls")] == ["dead"])
    return up.session


def test_resuming_one_whose_container_was_killed_goes_on_with_all_that_was_in_it(
    host: Host, crashed: str
) -> None:
    assert host.json("resume", crashed)["session"] == crashed
    assert host.json("call", "read", '{"path": "work.txt"}')["content"] == "mine"
    assert len(running()) == 1


def test_ending_one_whose_container_was_killed_saves_what_was_in_it(host: Host, crashed: str) -> None:
    save = host.json("down", crashed)[0]["kept"]
    assert running() == []
    with host.up(save, "--backend", "docker") as again:
        again.ready()
        assert host.json("call", "read", '{"path": "work.txt"}')["content"] == "mine"
        again.signal(signal.SIGINT)


def test_files_that_cannot_be_saved_are_given_up_only_when_told(host: Host, crashed: str) -> None:
    (seen,) = json.loads(docker("inspect", *running()))
    ports = {each["HostPort"] for bound in seen["HostConfig"]["PortBindings"].values() for each in bound}
    taken = max(map(int, filter(None, ports)))  # the dev server's; the other is the engine's choice
    with socket.create_server(("127.0.0.1", taken)):  # so the container cannot be started again
        for command in ("resume", "down"):
            done = host.inside(command, crashed)
            assert (done.returncode, b"--remove" in done.stderr) == (1, True), done.stderr
            assert running() != []
        assert host.inside("down", crashed, "--remove").returncode == 0
    assert running() == []
