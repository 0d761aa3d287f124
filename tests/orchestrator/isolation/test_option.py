"""``workspace up --isolation``: what cannot be had ends the start, what was not asked for is not done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.isolation import landlock
from tests.orchestrator.live import Host, template


def test_a_tier_that_cannot_be_had_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    template(tmp_path, "plain", {"index.html": "hello"})
    host = Host(tmp_path)
    host.environ["PATH"] = str(path_without(tmp_path / "bin", "bwrap"))
    done = host.run("up", "plain", "--isolation", "bwrap")
    assert done.returncode == 1
    assert b"isolation by bubblewrap is not to be had: bwrap is not installed" in done.stderr
    assert b"in the package bubblewrap); or set WORKSPACE_ISOLATION=auto" in done.stderr.replace(b"\n", b" ")
    assert host.sessions() == []


def path_without(directory: Path, program: str) -> Path:
    """A PATH of one directory with all the programs of this one but one."""
    directory.mkdir()
    for each in reversed(os.get_exec_path()):
        for found in Path(each).iterdir() if Path(each).is_dir() else ():
            link = directory / found.name
            if found.name != program:
                link.unlink(missing_ok=True)
                link.symlink_to(found)
    return directory


def test_none_leaves_commands_as_they_were_and_auto_ties_them_down(tmp_path: Path) -> None:
    template(tmp_path, "plain", {"index.html": "hello"})
    host = Host(tmp_path)
    found = {}
    for wish in ("none", "auto"):
        with host.up("plain", "--detach", "--isolation", wish) as up:
            session = up.ready().session
            up.end()
        found[wish] = host.inside("exec", session, "--", "grep NoNewPrivs /proc/self/status").stdout.split()[
            1
        ]
        host.inside("down", session, "--remove")
    assert found == {"none": b"0", "auto": b"1" if landlock.abi() >= landlock.MIN_ABI else b"0"}


@pytest.mark.skipif(os.geteuid() != 0, reason="for anybody else no session is another user")
def test_root_has_a_workspace_also_where_nobody_else_can_read_what_it_needs(tmp_path: Path) -> None:
    template(tmp_path, "plain", {"index.html": "hello"})
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"node": 'echo "$0"; echo 24.1.0', "npm": "exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    programs.chmod(0o700)
    host = Host(tmp_path)
    host.environ["PATH"] = f"{programs}:{host.environ['PATH']}"
    with host.up("plain", "--detach") as up:
        session = up.ready().session
        up.end()
    told = host.inside("exec", session, "--", "echo > /dev/null && id -u")
    host.inside("down", session, "--remove")
    assert told.stdout == b"0\n"
