"""Workspaces that come back: edited, saved, stopped, brought up again, with real tool servers and pages."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.common import Options
from tests.orchestrator.live import Host, get
from tests.ports import free_port

# Several tool servers one after another, each a start of a Python of its own.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end_everything()


def started(host: Host, *words: str) -> subprocess.CompletedProcess[bytes]:
    """``workspace up --detach`` to its end."""
    return host.inside("up", *words, "--detach", "--port", "0", "--dev-port", str(free_port()))


def up(host: Host, *words: str) -> dict[str, Any]:
    """Brought up and left running."""
    done = started(host, *words, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def refused(host: Host, *words: str) -> str:
    """What is told when it does not come up."""
    done = started(host, *words)
    assert done.returncode == 1
    return done.stderr.decode()


def root_of(host: Host, said: dict[str, Any]) -> Path:
    return host.data / "workspaces" / "default" / str(said["session"])


def tree(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Every entry: its kind, its permissions, and its content or where it leads."""
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        mode = stat.S_IMODE(info.st_mode)
        if path.is_symlink():
            found[str(path.relative_to(root))] = ("link", 0, os.fsencode(path.readlink()))
        elif path.is_dir():
            found[str(path.relative_to(root))] = ("directory", mode, b"")
        else:
            found[str(path.relative_to(root))] = ("file", mode, path.read_bytes())
    return found


def saves(host: Host, said: dict[str, Any]) -> list[dict[str, Any]]:
    return list(host.json("saves", str(said["workspace"])))


def damage(host: Host, said: dict[str, Any], name: str) -> None:
    path = host.data / "saves" / "default" / str(said["workspace"]) / f"{name}.tar.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_workspace_that_was_edited_saved_and_stopped_comes_back_with_its_page(host: Host) -> None:
    first = up(host, "static-html")
    assert [save["session"] for save in saves(host, first)] == [first["session"]]  # what the template became
    host.json("call", "write", '{"path": "index.html", "content": "<p>mine</p>\\n"}')
    host.json("down", "--save")
    again = up(host, "--workspace", str(first["workspace"]))
    assert (again["workspace"], again["template"]) == (first["workspace"], "static-html")
    assert again["session"] != first["session"]
    assert b"<p>mine</p>" in get(again["previewUrl"])[1]


def test_a_tree_is_the_same_after_many_times_of_saving_and_coming_back(host: Host) -> None:
    said = up(host, "static-html")
    host.json(
        "call",
        "command",
        '{"command": "mkdir -p empty a/b \\"with space\\"; ln -s ../index.html a/link; ln -s nowhere broken;'
        " printf '#!/bin/sh' > run; chmod 750 run; printf x > 'a/b/\\u00fc \\u2603'; chmod 600 a/b/*;"
        ' chmod 700 empty; head -c 100000 /dev/urandom > noise; : > nothing"}',
    )
    before = tree(root_of(host, said))
    assert len(before) > 12
    for cycle in range(3):
        host.json("call", "write", f'{{"path": "cycle.txt", "content": "{cycle}"}}')
        host.json("down", "--save")
        said = up(host, "--workspace", str(said["workspace"]))
        after = tree(root_of(host, said))
        assert after.pop("cycle.txt")[2] == str(cycle).encode()
        assert after == before
    digests = {host.json("saves", "verify", str(said["workspace"]), "--save", "1")[0]["whole"]}
    assert digests == {True}


def test_a_damaged_save_is_told_with_both_ways_out_and_both_work(host: Host) -> None:
    said = up(host, "static-html")
    workspace = str(said["workspace"])
    host.json("call", "write", '{"path": "mine.txt", "content": "work"}')
    host.json("down", "--save")
    newest, oldest = (save["name"] for save in saves(host, said))
    damage(host, said, newest)
    told = refused(host, "--workspace", workspace)
    assert f"save {newest} cannot be restored" in told
    again = f"workspace up --workspace {workspace}"
    assert f"`{again} --save {oldest}`, or begin anew by `{again} --from-template`" in told
    assert host.inside("saves", "verify", workspace).returncode == 1
    assert host.json("ls") == []
    assert "index.html" in tree(root_of(host, up(host, "--workspace", workspace, "--save", oldest)))
    host.json("down", "--remove")
    assert "index.html" in tree(root_of(host, up(host, "--workspace", workspace, "--from-template")))
    assert newest in {save["name"] for save in saves(host, said)}


def test_files_that_no_save_holds_are_not_passed_over_for_an_older_save(host: Host) -> None:
    said = up(host, "static-html")
    workspace = str(said["workspace"])
    host.json("call", "write", '{"path": "mine.txt", "content": "work"}')
    host.json("down")
    told = refused(host, "--workspace", workspace)
    assert f"left files in {root_of(host, said)} that no save holds" in told
    assert f"`workspace resume {said['session']}`" in told
    assert "mine.txt" not in tree(root_of(host, up(host, "--workspace", workspace, "--save", "1")))
    assert (root_of(host, said) / "mine.txt").read_text() == "work"


def test_a_running_workspace_is_put_back_and_what_it_held_is_kept(host: Host) -> None:
    said = up(host, "static-html")
    host.json("call", "write", '{"path": "index.html", "content": "<p>mine</p>\\n"}')
    done = host.json("saves", "restore", str(said["workspace"]), "--save", "1")
    assert b"mine" not in get(said["previewUrl"])[1]
    assert done["problem"] is None
    host.json("saves", "restore", str(said["session"]), "--save", done["before"]["name"])
    assert b"<p>mine</p>" in get(said["previewUrl"])[1]
    assert "runs already" in refused(host, "--workspace", str(said["workspace"]))


def test_stopping_a_session_keeps_a_save_of_its_workspace(host: Host) -> None:
    said = up(host, "static-html")

    async def stopped() -> str:
        sessions = Options(host.data, "default", True).sessions()
        record = await sessions.find(Options(host.data, "default", True).user_id(), str(said["session"]))
        ended = await sessions.stop(record)
        assert ended.saved is not None
        assert ended.saved.stored is not None
        return ended.saved.stored.record.name

    assert asyncio.run(stopped()) == saves(host, said)[0]["name"]
    assert up(host, "--workspace", str(said["workspace"]))["workspace"] == said["workspace"]


def test_a_registry_that_was_lost_costs_no_workspace(host: Host) -> None:
    said = up(host, "static-html")
    host.json("call", "write", '{"path": "mine.txt", "content": "work"}')
    host.json("down", "--save")
    for path in (host.data / "db").iterdir():
        path.unlink()
    again = up(host, "--workspace", str(said["workspace"]))
    assert (root_of(host, again) / "mine.txt").read_text() == "work"


def test_saves_are_listed_pruned_and_removed(host: Host) -> None:
    said = up(host, "static-html", "--remove")
    assert saves(host, said) == []  # nothing of it shall stay
    for _ in range(3):
        host.json("save")
    workspace = str(said["workspace"])
    names = [save["name"] for save in host.json("saves")]
    assert [save["number"] for save in host.json("saves")] == [3, 2, 1]
    assert names[0] in host.inside("saves", workspace).stdout.decode()
    assert [save["name"] for save in host.json("saves", "prune", workspace, "--keep", "2")] == names[2:]
    damage(host, said, names[0])
    done = host.inside("saves", "prune", "--keep", "1")
    assert (done.returncode, "keeps all of its saves" in done.stderr.decode()) == (1, True)
    assert len(host.json("saves", "remove", workspace, "--save", names[0])) == 1
    assert [save["name"] for save in host.json("saves", workspace)] == names[1:2]
    assert len(host.json("saves", "remove", workspace)) == 1
    assert host.json("saves") == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("up",), "Missing argument 'SOURCE'"),
        (("up", "static-html", "--save", "1"), "name it by --workspace"),
        (("up", "static-html", "--from-template"), "name it by --workspace"),
        (("saves", "verify", "--save", "1"), "name the WORKSPACE as well"),
    ],
)
def test_what_makes_no_sense_is_told(host: Host, words: tuple[str, ...], sentence: str) -> None:
    done = host.inside(*words)
    assert (done.returncode, sentence in done.stderr.decode()) == (2, True)


def test_a_workspace_that_nobody_knows_is_told(host: Host) -> None:
    for words in (
        ("up", "--workspace", "x"),
        ("saves", "x"),
        ("saves", "remove", "x"),
        ("saves", "restore", "x"),
    ):
        done = host.inside(*words)
        assert (done.returncode, "no workspace 'x'" in done.stderr.decode()) == (1, True)
