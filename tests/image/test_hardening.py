"""Every flag that makes a container narrower, one by one and all together: all the work still goes."""

from __future__ import annotations

import json

import pytest

from tests.image.support import (
    HARDENED,
    IMAGE,
    TOKEN,
    Guest,
    archive_of,
    created,
    eventually,
    members,
    workspace,
)

FLAGS = {
    "read-only": ("--read-only", "--tmpfs=/app:exec"),
    "no capabilities": ("--cap-drop=ALL",),
    "no new privileges": ("--security-opt=no-new-privileges",),
    "few processes": ("--pids-limit=128",),
    "little memory": ("--memory=256m",),
    "another user": ("--user=12345",),
    "another user and group": ("--user=12345:23456",),
    "root without capabilities": ("--user=0", "--cap-drop=ALL"),
    "the engine's init": ("--init",),
    "all together": HARDENED,
    "all together, another user": (*HARDENED, "--user=12345:23456"),
}


@pytest.mark.parametrize("options", FLAGS.values(), ids=FLAGS.keys())
def test_all_the_work_goes_under(options: tuple[str, ...]) -> None:
    with workspace(*options) as guest:
        work(guest)


def work(guest: Guest) -> None:
    """Inject, search, edit, run, save, and inject again over it."""
    guest.inject(archive_of({"src/a.txt": b"Welcome\n", "old.txt": b"old\n"}))
    assert guest.call("search", {"pattern": "Welcome"})["matches"][0]["path"] == "src/a.txt"
    guest.call("edit", {"path": "src/a.txt", "oldText": "Welcome", "newText": "Hello"})
    assert guest.output("cat src/a.txt && node -p 1+1 && git init -q . && git status --short") == (
        "Hello\n2\n?? old.txt\n?? src/"
    )
    assert members(guest.save())["src/a.txt"][3] == b"Hello\n"
    guest.inject(archive_of({"new.txt": b"new\n"}))
    assert guest.output("ls") == "new.txt"


def test_the_flags_are_really_on() -> None:
    with workspace(*HARDENED) as guest:
        status = guest.output("cat /proc/self/status")
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert guest.run("touch /var/lib/workspace/x")["exitCode"] == 1


def test_read_only_without_any_tmpfs_is_healthy_and_reads_and_runs() -> None:
    with workspace("--read-only") as guest:
        assert guest.output("echo ran") == "ran"
        assert guest.call("list", {"path": "."})["entries"] == []


def test_all_flags_and_no_network_are_healthy_and_work_from_inside() -> None:
    with created(*HARDENED, "--network=none", "--env", f"TOOL_SERVER_TOKEN={TOKEN}", IMAGE) as guest:
        eventually("healthy", lambda: guest.state("Health.Status") == "healthy")
        told = guest.exec(
            *("curl", "-sS", "-H", f"Authorization: Bearer {TOKEN}", "-d", '{"command": "echo ran"}'),
            "http://127.0.0.1:3001/v1/command",
        )
        assert json.loads(told)["stdout"] == "ran\n"


def test_a_runaway_of_processes_stops_at_the_limit_and_the_daemon_goes_on() -> None:
    with workspace("--pids-limit=64") as guest:
        line, said = "for i in $(seq 200); do sleep 600 & done; wait", ""
        for milliseconds in (5000, 20_000, 60_000):  # a busy machine begins fewer in the same time
            said = said or guest.run(line, timeoutMs=milliseconds)["stderr"]
        assert "Resource temporarily unavailable" in said
        assert guest.output("echo still here") == "still here"
