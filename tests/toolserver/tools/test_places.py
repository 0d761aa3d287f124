"""mkdir, move, copy, remove, chmod: whole or not at all, and never outside."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.paths import RESERVED
from tests.builder import Daemon, Http, Json, http_of, running, until
from tests.trees import Directory, File, Link, Tree, described, plant
from toolserver.system import removal, swap
from toolserver.system.disk import Disk
from toolserver.tools import places as module
from toolserver.tools.places import Places

TREE: Tree = {
    "a": Directory(0o750),
    "a/b": Directory(),
    "a/b/deep.txt": File(b"deep", 0o600),
    "a/empty": Directory(0o500),
    "a/run.sh": File(b"#!/bin/sh\n", 0o755),
    "a/to-nowhere": Link("nowhere"),
    "a/to-root": Link("/etc"),
    "file": File(b"file"),
    "other": File(b"other"),
}


@pytest.fixture
def tree(root: Path) -> Path:
    plant(root, TREE)
    return root


def moved(tree: Tree, above: str, to: str) -> Tree:
    """``tree`` with what is at and below ``above`` at ``to`` as well."""
    return {
        to + path.removeprefix(above): node
        for path, node in tree.items()
        if path == above or path.startswith(above + "/")
    }


async def test_mkdir_makes_what_is_missing(http: Http, root: Path) -> None:
    assert await http.ok("mkdir", path="x/y/z") == {"path": "x/y/z", "created": True}
    assert await http.ok("mkdir", path="x/y/z") == {"path": "x/y/z", "created": False}
    assert await http.ok("mkdir", path="secret", mode=0o700) == {"path": "secret", "created": True}
    assert await http.ok("mkdir", path=".") == {"path": ".", "created": False}
    assert described(root)["secret"] == Directory(0o700)


@pytest.mark.parametrize(
    ("operation", "params", "code", "message"),
    [
        ("mkdir", {"path": "file"}, "already_exists", "'file' is there already, and is no directory"),
        ("mkdir", {"path": "file/x"}, "not_found", "'file', or a name on the way to it, is not a directory"),
        ("mkdir", {"path": "n/x", "parents": False}, "not_found", None),
        ("mkdir", {"path": "x", "mode": 0o1777}, "invalid_request", None),
        ("move", {"path": "gone", "to": "x/y"}, "not_found", None),
        (
            "move",
            {"path": "file", "to": "other"},
            "already_exists",
            "'other' is there already; remove it, or say 'overwrite'",
        ),
        (
            "move",
            {"path": "a", "to": "a/b/c"},
            "invalid_request",
            "'a' cannot be moved into itself, to 'a/b/c'",
        ),
        ("move", {"path": ".", "to": "x"}, "invalid_request", None),
        ("move", {"path": "a", "to": "."}, "invalid_request", None),
        ("move", {"path": "file", "to": "n/x", "createParents": False}, "not_found", None),
        ("move", {"path": "file", "to": "../x"}, "outside_workspace", None),
        ("move", {"path": "file", "to": "a/to-root/x"}, "outside_workspace", None),
        ("move", {"path": "a/to-root/passwd", "to": "x"}, "outside_workspace", None),
        (
            "copy",
            {"path": "a", "to": "a/b/c"},
            "invalid_request",
            "'a' cannot be copied into itself, to 'a/b/c'",
        ),
        ("copy", {"path": "a", "to": "file"}, "already_exists", None),
        ("copy", {"path": "gone", "to": "x/y"}, "not_found", None),
        ("copy", {"path": "file", "to": "a/to-root/x"}, "outside_workspace", None),
        ("copy", {"path": "fifo", "to": "x"}, "conflict", None),
        ("remove", {"path": "gone"}, "not_found", None),
        (
            "remove",
            {"path": "a"},
            "conflict",
            "'a' is a directory with something in it; say 'recursive' to remove all",
        ),
        ("remove", {"path": ".", "recursive": True}, "invalid_request", None),
        ("remove", {"path": "x/../.", "recursive": True}, "invalid_request", None),
        ("remove", {"path": "file", "expectedHash": "sha256:00"}, "conflict", None),
        ("remove", {"path": "a/to-root/passwd"}, "outside_workspace", None),
        ("remove", {"path": ".workspace-core", "recursive": True}, "outside_workspace", None),
        ("chmod", {"path": "gone", "mode": 0o600}, "not_found", None),
        ("chmod", {"path": "file", "mode": 0o4755}, "invalid_request", None),
        ("chmod", {"path": "a/to-root/passwd", "mode": 0o666}, "outside_workspace", None),
        ("chmod", {"path": "fifo", "mode": 0o666}, "not_a_file", None),
    ],
)
async def test_what_is_refused_changes_nothing(
    http: Http, tree: Path, operation: str, params: Json, code: str, message: str | None
) -> None:
    os.mkfifo(tree / "fifo")
    refused = await http.refused(operation, **params)
    assert refused.code == code
    assert message in (None, refused.message)
    (tree / "fifo").unlink()
    assert described(tree) == TREE


async def test_a_directory_moves_with_all_that_is_in_it(http: Http, tree: Path) -> None:
    answer = await http.ok("move", path="a", to="new/place")
    assert answer == {"path": "a", "to": "new/place", "replaced": False}
    left = {path: node for path, node in TREE.items() if path != "a" and not path.startswith("a/")}
    new = Directory(tree.stat().st_mode & 0o755)  # less what the umask took of the root as well
    assert described(tree) == dict(sorted((left | {"new": new} | moved(TREE, "a", "new/place")).items()))


async def test_a_name_may_change_its_case_only(http: Http, tree: Path) -> None:
    await http.ok("move", path="file", to="FILE")
    assert "FILE" in described(tree)
    assert "file" not in described(tree)


@pytest.mark.parametrize(("path", "to"), [("file", "other"), ("a", "other"), ("file", "a"), ("a", "b")])
async def test_overwrite_replaces_whatever_is_there(http: Http, tree: Path, path: str, to: str) -> None:
    plant(tree, {"b": Directory(), "b/old": File(b"old")})
    expected = moved(TREE, path, to)
    assert (await http.ok("move", path=path, to=to, overwrite=True))["replaced"] is True
    now = described(tree)
    assert {each: node for each, node in now.items() if each == to or each.startswith(to + "/")} == expected
    assert path not in now


async def test_a_copy_has_everything_of_the_original(http: Http, tree: Path) -> None:
    os.utime(tree / "a/run.sh", (1_000_000_000, 1_000_000_000))
    answer = await http.ok("copy", path="a", to="copies/one")
    assert answer == {"path": "a", "to": "copies/one", "replaced": False, "entries": 7, "bytes": 14}
    now = described(tree)
    assert moved(now, "copies/one", "a") == moved(TREE, "a", "a")
    assert (tree / "copies/one/run.sh").stat().st_mtime == 1_000_000_000


async def test_a_copy_over_a_directory_leaves_nothing_of_the_old(http: Http, tree: Path) -> None:
    plant(tree, {"b": Directory(), "b/old": File(b"old")})
    assert (await http.ok("copy", path="a", to="b", overwrite=True))["replaced"] is True
    assert moved(described(tree), "b", "a") == moved(TREE, "a", "a")


async def test_a_copy_past_a_limit_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_ARCHIVE_ENTRIES="4") as daemon:
        plant(daemon.root, TREE)
        async with http_of(daemon) as http:
            refused = await http.refused("copy", path="a", to="x/y")
        assert (refused.code, refused.details["limit"]) == ("too_large", "maxArchiveEntries")
        assert described(daemon.root) == TREE


async def test_a_removed_directory_is_gone_at_once_and_then_for_good(
    http: Http, tree: Path, daemon: Daemon
) -> None:
    assert await http.ok("remove", path="a", recursive=True) == {"path": "a", "removed": True}
    assert sorted(described(tree)) == ["file", "other"]
    await until(
        lambda: not any(each.name.startswith("trash-") for each in daemon.state.iterdir()), "no trash"
    )


async def test_what_an_earlier_run_has_left_goes_once_the_daemon_is_up(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        plant(daemon.root, TREE)
    left: Tree = {"swap/new/half": File(b""), "trash-1/a/b": File(b""), "trash-2/c": File(b"")}
    plant(daemon.state, left)
    plant(daemon.root, {f"{RESERVED}/{path}": node for path, node in left.items()})
    assert swap.recover(daemon.root, daemon.state, stop=lambda: True) is swap.Recovery.NOTHING
    assert len(list(daemon.state.glob("trash-*"))) == len(list((daemon.root / RESERVED).iterdir())) == 3
    with running(tmp_path) as daemon:
        await until(lambda: not list(daemon.state.glob("trash-*")), "no trash in the state directory")
        await until(lambda: not (daemon.root / RESERVED).exists(), "no trash in the root")
        assert described(daemon.root) == TREE


async def test_a_link_is_removed_itself(http: Http, tree: Path) -> None:
    await http.ok("remove", path="a/to-root")
    assert Path("/etc").is_dir()
    assert not (tree / "a/to-root").is_symlink()


async def test_an_empty_directory_needs_no_recursion(http: Http, tree: Path) -> None:
    await http.ok("remove", path="a/empty")
    assert not (tree / "a/empty").exists()


async def test_nothing_to_remove_may_be_all_right(http: Http, tree: Path) -> None:
    assert await http.ok("remove", path="gone/x", missingOk=True) == {"path": "gone/x", "removed": False}


async def test_a_file_goes_only_as_it_was_seen(http: Http, tree: Path) -> None:
    seen = (await http.ok("read", path="file"))["hash"]
    (tree / "file").write_bytes(b"changed")
    assert (await http.refused("remove", path="file", expectedHash=seen)).code == "conflict"
    seen = (await http.ok("read", path="file"))["hash"]
    assert (await http.ok("remove", path="file", expectedHash=seen))["removed"] is True


async def test_a_tree_of_any_depth_is_removed(http: Http, root: Path, daemon: Daemon) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    await http.ok("remove", path="d", recursive=True)
    assert described(root) == {}
    await until(
        lambda: not any(each.name.startswith("trash-") for each in daemon.state.iterdir()), "no trash"
    )


async def test_permission_bits_are_set_and_told(http: Http, tree: Path) -> None:
    assert await http.ok("chmod", path="a/run.sh", mode=0o640) == {
        "path": "a/run.sh",
        "mode": 0o640,
        "previous": 0o755,
    }
    assert (tree / "a/run.sh").stat().st_mode & 0o7777 == 0o640


async def test_what_is_removed_while_trash_is_taken_apart_is_taken_apart_too() -> None:
    nothing: Any = None
    places = Places(nothing, nothing, nothing, nothing, nothing, nothing)
    begun, go_on, looks = threading.Event(), threading.Event(), list[int]()

    def look(stop: Callable[[], bool] = bool) -> None:
        looks.append(len(looks))
        begun.set()
        assert go_on.wait(60)

    places._places.empty_trash = look  # type: ignore[method-assign]
    places._empty_trash(needed=True)
    assert await asyncio.to_thread(begun.wait, 60)
    places._empty_trash(needed=True)
    go_on.set()
    assert places._emptying is not None
    async with asyncio.timeout(60):
        await places._emptying
    assert looks == [0, 1]
    places._empty_trash(needed=False)
    assert places._emptying.done()


async def test_trash_that_is_taken_apart_at_a_stop_is_left_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    plant(tmp_path, {"root": Directory(), "state": Directory(), "state/trash-0": Directory()})
    plant(tmp_path, {f"state/trash-0/{number}": File(b"") for number in range(3)})
    unlinked, begun, go_on = removal._unlinked, threading.Event(), threading.Event()

    def slowly(above: int, name: str) -> bool:
        if name != "trash-0":
            begun.set()
            assert go_on.wait(60)
        return unlinked(above, name)

    monkeypatch.setattr(removal, "_unlinked", slowly)
    monkeypatch.setattr(module, "_TRASH_SECONDS", 0)
    nothing: Any = None
    disk = Disk(root)
    places = Places(disk, state, nothing, nothing, nothing, nothing)
    places._empty_trash(needed=True)
    assert await asyncio.to_thread(begun.wait, 60)
    closing = asyncio.create_task(places.close())
    await until(places._closing.is_set)
    go_on.set()
    async with asyncio.timeout(60):
        await closing
    assert len(list((state / "trash-0").iterdir())) == 2
    swap.recover(root, state)
    assert list(state.iterdir()) == []
    disk.close()
