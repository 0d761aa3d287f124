"""Checkpoints over a real daemon: what goes in comes back, whole, and the way back has a way back."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builder import Daemon, Http, Json, emptied, http_of, running, tree_of


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One whose bounds a test can reach."""
    small = {"TOOL_SERVER_MAX_CHECKPOINT_FILE_BYTES": "200000", "TOOL_SERVER_MAX_UNDO_BYTES": "500000"}
    with running(tmp_path_factory.mktemp("daemon"), **small) as daemon:
        yield daemon


def modes_of(directory: Path) -> dict[str, int]:
    return {
        str(each.relative_to(directory)): stat.S_IMODE(each.lstat().st_mode)
        for each in directory.rglob("*")
        if not each.is_symlink()
    }


def fill(root: Path) -> None:
    """A tree with everything that a tree may have."""
    (root / "src/deep/er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "src/a.ts").write_text("one\ntwo\n")
    (root / "src/deep/run.sh").write_text("#!/bin/sh\n")
    (root / "src/deep/run.sh").chmod(0o755)
    (root / "src/deep/er/noise").write_bytes(bytes(range(256)) * 40)
    (root / ".env").write_text("SECRET=1\n")
    (root / "link").symlink_to("src/a.ts")
    (root / "broken").symlink_to("nowhere")
    (root / "line\nend").write_text("x")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).write_text("y")
    (root / "node_modules/left").mkdir(parents=True)
    (root / "node_modules/left/index.js").write_text("tools fill this\n")


async def test_a_checkpoint_brings_the_whole_tree_back(http: Http, root: Path) -> None:
    fill(root)
    before, modes = tree_of(root), modes_of(root)
    made = await http.ok("checkpoint", name="start")
    assert made["files"] == 6
    assert made["name"] == "start"
    assert not made["automatic"]
    (root / "src/a.ts").write_text("changed\n")
    (root / "src/deep/run.sh").chmod(0o600)
    (root / "src/deep/er/noise").unlink()
    (root / "src/deep/er").rmdir()
    (root / "empty").rmdir()
    (root / "empty").write_text("a file now")
    (root / "link").unlink()
    (root / "link").mkdir()
    (root / "link/in").write_text("z")
    (root / "new").mkdir()
    (root / "new/file").write_text("new")
    changed = tree_of(root)
    answer = await http.ok("rollback", to="start")
    assert tree_of(root) == before
    assert modes_of(root) == modes
    assert {each["path"] for each in answer["changes"]} >= {"src/a.ts", "new/file", "empty", "link/in"}
    # And the way back from there.
    await http.ok("undo")
    assert tree_of(root) == changed
    await http.ok("redo")
    assert tree_of(root) == before


async def test_only_what_is_named_goes_back(http: Http, root: Path) -> None:
    (root / "a").mkdir()
    (root / "a/one").write_text("1")
    (root / "two").write_text("2")
    await http.ok("checkpoint", name="named")
    for each in ("a/one", "two", "a/three"):
        (root / each).write_text("other")
    await http.ok("rollback", to="named", paths=["a"])
    assert tree_of(root) == {"a": None, "a/one": b"1", "two": b"other"}


async def test_what_tools_fill_stays_when_the_rest_goes_back(http: Http, root: Path) -> None:
    await http.ok("checkpoint", name="bare")
    (root / "pkg/node_modules/x").mkdir(parents=True)
    (root / "pkg/node_modules/x/index.js").write_text("x")
    (root / "pkg/package.json").write_text("{}")
    await http.ok("rollback", to="bare")
    assert set(tree_of(root)) == {
        "pkg", "pkg/node_modules", "pkg/node_modules/x", "pkg/node_modules/x/index.js",
    }  # fmt: skip


async def test_only_what_changed_takes_room(http: Http, root: Path) -> None:
    for number in range(50):
        (root / f"{number}.txt").write_text(f"{number}\n" * 500)
    await http.ok("checkpoint")
    size = (await http.ok("checkpoints"))["bytes"]
    (root / "copy.txt").write_text("7\n" * 500)  # a content that is kept already
    await http.ok("checkpoint")
    assert (await http.ok("checkpoints"))["bytes"] == size
    (root / "7.txt").write_text("nobody has written this")
    again = await http.ok("checkpoint")
    assert (await http.ok("checkpoints"))["bytes"] == size + len("nobody has written this")
    assert again["files"] == 51


async def test_a_change_right_after_a_checkpoint_is_seen_though_size_and_time_are_the_same(
    http: Http, root: Path
) -> None:
    file = root / "same.txt"
    file.write_text("aaaa")
    info = file.stat()
    first = await http.ok("checkpoint")
    file.write_text("bbbb")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    second = await http.ok("checkpoint")
    diff = await http.ok("checkpoint_diff", **{"from": first["id"], "to": second["id"]})
    assert [each["path"] for each in diff["changes"]] == ["same.txt"]


async def test_a_diff_tells_what_became_of_each_path(http: Http, root: Path) -> None:
    (root / "edited").write_text("one\ntwo\n")
    (root / "gone").write_text("gone\n")
    (root / "mode").write_text("mode\n")
    (root / "binary").write_bytes(b"\0\1")
    first = await http.ok("checkpoint")
    (root / "edited").write_text("one\nTWO\n")
    (root / "gone").unlink()
    (root / "mode").chmod(0o755)
    (root / "binary").write_bytes(b"\0\2")
    (root / "born").write_text("born\n")
    answer = await http.ok("checkpoint_diff", **{"from": first["id"]})
    kinds = {each["path"]: each["kind"] for each in answer["changes"]}
    assert kinds == {
        "edited": "modified", "gone": "deleted", "mode": "mode", "binary": "modified", "born": "created",
    }  # fmt: skip
    by_path = {each["path"]: each for each in answer["changes"]}
    assert by_path["edited"]["diff"] == "--- a/edited\n+++ b/edited\n@@ -1,2 +1,2 @@\n one\n-two\n+TWO\n"
    assert by_path["binary"]["diff"] is None
    assert (by_path["mode"]["modeBefore"], by_path["mode"]["modeAfter"]) == (0o644, 0o755)
    only = await http.ok("checkpoint_diff", **{"from": first["id"], "paths": ["gone"], "diff": False})
    assert [each["path"] for each in only["changes"]] == ["gone"]
    assert only["total"] == 1


async def undo_all(http: Http, count: int) -> list[str]:
    return [(await http.ok("undo"))["cause"] for _ in range(count)]


async def test_every_operation_that_changes_files_can_be_undone(http: Http, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_text("f\n")
    (root / "old").write_text("old\n")
    trees: list[Any] = [(tree_of(root), modes_of(root))]

    async def act(operation: str, **params: Any) -> None:
        await http.ok(operation, **params)
        trees.append((tree_of(root), modes_of(root)))

    await act("write", path="new/deep/file", content="x")
    await act("write", path="old", content="newer")
    await act("mkdir", path="made/of/three")
    await act("chmod", path="old", mode=0o600)
    await act("move", path="d", to="moved/d")
    await act("copy", path="moved", to="copied")
    await act("copy", path="old", to="copied/d/e/f", overwrite=True)
    await act("remove", path="moved", recursive=True)
    await act(
        "edit",
        edits=[
            {"path": "old", "oldText": "newer", "newText": "newest"},
            {"path": "copied/d/e/f", "oldText": "newer", "newText": "newest"},
        ],
    )
    async with http.session.put("/v1/files/raw/put", data=b"raw") as response:
        assert response.status == 201
    trees.append((tree_of(root), modes_of(root)))
    async with http.session.delete("/v1/files/old") as response:
        assert response.status == 204
    steps = [
        "raw_remove",
        "raw_write",
        "edit",
        "remove",
        "copy",
        "copy",
        "move",
        "chmod",
        "mkdir",
        "write",
        "write",
    ]
    for step in steps:
        assert (await http.ok("undo"))["cause"] == step
        tree, modes = trees.pop()
        assert tree_of(root) == tree
        assert modes_of(root) == modes
    end = tree_of(root)
    for _ in steps:
        await http.ok("redo")
    assert not (root / "old").exists()
    assert (root / "raw/put").read_bytes() == b"raw"
    await undo_all(http, len(steps))
    assert tree_of(root) == end


async def test_an_edit_after_an_undo_ends_what_can_be_redone(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="1")
    await http.ok("write", path="a", content="2")
    await http.ok("undo")
    await http.ok("write", path="b", content="3")
    refusal = await http.refused("redo")
    assert (refusal.status, refusal.code) == (404, "not_found")
    assert await undo_all(http, 2) == ["write", "write"]
    assert tree_of(root) == {}


async def test_a_request_that_failed_or_changed_nothing_is_nothing_to_undo(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="1")
    await http.refused("write", path="a/b", content="x")
    await http.refused("move", path="gone", to="there")
    await http.ok("mkdir", path=".")
    await http.ok("remove", path="gone", missingOk=True)
    await http.ok("undo")
    assert tree_of(root) == {}


async def test_an_undo_refuses_to_take_others_work_away_unless_forced(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="ours")
    (root / "a").write_text("theirs")
    refusal = await http.refused("undo")
    assert (refusal.status, refusal.code) == (409, "conflict")
    assert refusal.details["paths"] == ["a"]
    assert (root / "a").read_text() == "theirs"
    await http.ok("undo", force=True)
    assert not (root / "a").exists()
    await http.ok("redo")
    assert (root / "a").read_text() == "theirs"


async def test_an_undo_keeps_what_others_put_into_a_directory_that_was_made(http: Http, root: Path) -> None:
    await http.ok("write", path="made/ours", content="x")
    (root / "made/theirs").write_text("y")
    await http.ok("undo")
    assert tree_of(root) == {"made": None, "made/theirs": b"y"}


async def test_writes_at_once_into_a_new_directory_are_undone_one_after_the_other(
    http: Http, root: Path
) -> None:
    for turn in range(8):  # which of them makes it is chance
        await asyncio.gather(*(http.ok("write", path=f"new{turn}/{each}", content="x") for each in range(10)))
        for left in reversed(range(10)):
            await http.ok("undo")
            assert sum(1 for _ in root.glob(f"new{turn}/*")) == left
        assert not (root / f"new{turn}").exists()


async def test_a_rollback_to_an_automatic_checkpoint_takes_back_all_since(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="1")
    await http.ok("write", path="b", content="2")
    await http.ok("write", path="a", content="3")
    (root / "c").write_text("by a command")
    listed = (await http.ok("checkpoints"))["checkpoints"]
    second = listed[1]
    assert (second["cause"], second["automatic"]) == ("write", True)
    diff = await http.ok("checkpoint_diff", **{"from": second["id"]})
    assert [(each["path"], each["kind"]) for each in diff["changes"]] == [
        ("a", "modified"), ("b", "created"),
    ]  # fmt: skip
    await http.ok("rollback", to=second["id"])
    assert tree_of(root) == {"a": b"1", "c": b"by a command"}


async def test_a_dry_run_tells_and_changes_nothing(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="1")
    answer = await http.ok("undo", dryRun=True)
    assert [(each["path"], each["kind"]) for each in answer["changes"]] == [("a", "deleted")]
    assert answer["undoCheckpoint"] is None
    assert tree_of(root) == {"a": b"1"}
    await http.ok("undo")
    assert tree_of(root) == {}


async def test_a_link_that_is_written_through_goes_back_at_its_target(http: Http, root: Path) -> None:
    (root / "real").mkdir()
    (root / "real/file").write_text("old")
    (root / "link").symlink_to("real/file")
    (root / "dir").symlink_to("real")
    await http.ok("write", path="link", content="new")
    await http.ok("write", path="dir/other", content="new")
    await undo_all(http, 2)
    assert tree_of(root) == {"dir": "real", "link": "real/file", "real": None, "real/file": b"old"}


async def test_a_file_too_large_to_keep_stays_and_is_told(http: Http, root: Path) -> None:
    (root / "large").write_bytes(b"x" * 300_000)
    (root / "small").write_text("s")
    made = await http.ok("checkpoint", name="large")
    assert made["incomplete"] == "1 files are too large, or closed to the tool server"
    (root / "small").write_text("t")
    (root / "large").unlink()
    answer = await http.ok("rollback", to="large")
    assert answer["skipped"] == ["large"]
    assert tree_of(root) == {"small": b"s"}


async def test_a_rollback_never_replaces_what_it_could_not_bring_back(http: Http, root: Path) -> None:
    (root / "file").write_text("small")
    await http.ok("checkpoint", name="before-large")
    (root / "file").write_bytes(b"x" * 300_000)
    refusal = await http.refused("rollback", to="before-large")
    assert (refusal.status, refusal.code) == (413, "too_large")
    assert (root / "file").stat().st_size == 300_000


async def test_a_request_too_large_to_be_undone_happens_and_is_told(http: Http, root: Path) -> None:
    for number in range(4):
        (root / f"d{number}").mkdir()
        (root / f"d{number}/file").write_bytes(os.urandom(150_000))
    (root / "all").mkdir()
    for number in range(4):
        (root / f"d{number}").rename(root / f"all/d{number}")
    await http.ok("remove", path="all", recursive=True)
    assert tree_of(root) == {}
    refusal = await http.refused("undo")
    assert refusal.code == "conflict"
    assert "maxUndoBytes" in refusal.message


async def test_what_is_unknown_is_refused_with_the_way_out(http: Http, root: Path) -> None:
    await http.ok("checkpoint", name="known")
    refusal = await http.refused("rollback", to="unknown")
    assert refusal.code == "not_found"
    assert "'known'" in refusal.message
    for name in ("", "12", "now"):
        assert (await http.refused("checkpoint", name=name)).code == "invalid_request"


async def test_a_rollback_is_told_to_watchers_as_the_requests_own(http: Http, root: Path) -> None:
    (root / "a").write_text("1")
    await http.ok("checkpoint", name="watched")
    number = (await http.ok("watch", timeoutMs=0))["number"]
    (root / "a").write_text("2")
    while not (seen := await http.ok("watch", since=number, timeoutMs=1000))["changes"]:
        pass
    async with http._post("rollback", {"to": "watched"}, **{"X-Request-Id": "the-rollback"}) as response:
        assert response.status == 200
    changes: list[Json] = []
    while not changes:
        changes = (await http.ok("watch", since=seen["number"], timeoutMs=1000))["changes"]
    assert {(each["path"], each["requestId"] is not None) for each in changes} == {("a", True)}


async def test_checkpoints_outlive_the_daemon(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        fill(first.root)
        before = tree_of(first.root)
        async with http_of(first) as http:
            await http.ok("checkpoint", name="kept")
            await http.ok("write", path="src/a.ts", content="other")
    with running(tmp_path) as second:
        async with http_of(second) as http:
            assert [each["name"] for each in (await http.ok("checkpoints"))["checkpoints"]] == [None, "kept"]
            await http.ok("undo")
            assert tree_of(second.root) == before
            emptied(second.root)
            await http.ok("rollback", to="kept")
            del before["node_modules/left"], before["node_modules/left/index.js"], before["node_modules"]
            assert tree_of(second.root) == before


async def test_saves_hold_nothing_of_the_past(http: Http, root: Path) -> None:
    (root / "a").write_text("1")
    await http.ok("checkpoint")
    saved = await http.ok("save")
    assert b"checkpoints" not in base64.b64decode(saved["archive"])
    assert tree_of(root) == {"a": b"1"}


async def test_the_oldest_go_first_and_are_counted(tmp_path: Path) -> None:
    bounds = {"TOOL_SERVER_MAX_CHECKPOINTS": "3", "TOOL_SERVER_MAX_KEPT_EDITS": "10"}
    with running(tmp_path, **bounds) as daemon:
        async with http_of(daemon) as http:
            for number in range(25):
                await http.ok("write", path="file", content=str(number))
            for number in range(5):
                await http.ok("write", path="file", content=f"at {number}")
                await http.ok("checkpoint", name=f"at {number}")
            told = await http.ok("checkpoints", automatic=False)
            names = [each["name"] for each in told["checkpoints"]]
            assert names[0] == "at 4"
            assert 2 <= len(names) <= 3
            everything = await http.ok("checkpoints")
            assert everything["total"] <= 13
            assert everything["dropped"] == 35 - everything["total"]
            await http.ok("rollback", to=names[-1])
            assert (daemon.root / "file").read_text() == names[-1]


async def test_bytes_are_bounded_and_what_fits_never_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_CHECKPOINT_BYTES="300000") as daemon:
        async with http_of(daemon) as http:
            last: Json = {}
            for number in range(6):
                (daemon.root / "noise").write_bytes(os.urandom(100_000))
                last = await http.ok("checkpoint", name=f"n{number}")
            told = await http.ok("checkpoints")
            assert told["bytes"] <= 300_000
            assert last["dropped"]
            content = (daemon.root / "noise").read_bytes()
            (daemon.root / "noise").write_text("other")
            await http.ok("rollback", to="n5")
            assert (daemon.root / "noise").read_bytes() == content
            (daemon.root / "more").write_bytes(os.urandom(400_000))
            refusal = await http.refused("checkpoint")
            assert refusal.code == "too_large"
            assert refusal.details["limit"] == "maxCheckpointBytes"


async def test_a_damaged_content_is_told_and_never_restored(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        (daemon.root / "a").write_text("the content")
        (daemon.root / "b").write_text("the other")
        async with http_of(daemon) as http:
            await http.ok("checkpoint", name="kept")
            db = sqlite3.connect(daemon.state / "checkpoints.db")
            with db:
                db.execute("UPDATE contents SET data = 'the c0ntent' WHERE data = ?", (b"the content",))
            db.close()
            (daemon.root / "a").write_text("now")
            (daemon.root / "b").write_text("now")
            refusal = await http.refused("rollback", to="kept")
            assert refusal.code == "conflict"
            assert refusal.message.startswith("the kept content of 'a' is damaged")
            assert tree_of(daemon.root) == {"a": b"now", "b": b"now"}
            await http.ok("rollback", to="kept", paths=["b"])
            assert tree_of(daemon.root) == {"a": b"now", "b": b"the other"}


async def test_an_unreadable_store_is_set_aside_and_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "checkpoints.db").write_bytes(b"not a database, not at all" * 1000)
    with running(tmp_path) as daemon:
        async with http_of(daemon) as http:
            await http.ok("write", path="a", content="1")
            told = await http.ok("checkpoints")
            assert (state / told["setAside"]).is_file()
            await http.ok("undo")
            assert tree_of(daemon.root) == {}


@pytest.mark.parametrize("after", [0, 3, 8])
async def test_a_kill_leaves_the_store_readable_and_the_tree_whole(tmp_path: Path, after: int) -> None:
    """Killed in the middle of many requests, at another place each time."""
    acknowledged: list[int] = []

    async def until_killed(daemon: Daemon) -> None:
        async with http_of(daemon) as http:
            for number in range(after + 1):
                await http.ok("write", path="count", content=str(number))
                await http.ok("checkpoint", name=f"at {number}")
                acknowledged.append(number)
            busy = asyncio.gather(
                *(http.ok("write", path=f"more/{number}", content="x" * 5000) for number in range(20)),
                http.ok("checkpoint", name="cut"),
                return_exceptions=True,
            )
            while not (daemon.root / "more").exists():
                await asyncio.sleep(0)
            os.kill(daemon.pid, signal.SIGKILL)
            await busy

    def one_life() -> None:
        with running(tmp_path) as daemon:
            asyncio.run(until_killed(daemon))

    with pytest.raises(AssertionError, match="exit code -9"):
        await asyncio.to_thread(one_life)
    with running(tmp_path) as again:
        async with http_of(again) as http:
            assert (again.root / "count").read_text() == str(after)
            names = [each["name"] for each in (await http.ok("checkpoints", automatic=False))["checkpoints"]]
            assert names[-len(acknowledged) :] == [f"at {each}" for each in reversed(acknowledged)]
            while (again.root / "more").exists():  # each write that was begun can be taken back
                await http.ok("undo")
            await http.ok("rollback", to="at 0")
            assert (again.root / "count").read_text() == "0"
