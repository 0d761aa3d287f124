"""watch: every change is told, once, with its number and who made it; or that some were missed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.limits import Limits
from tests.builder import Daemon, Http, Json, Socket, emptied, http_of, running, socket_of, until
from toolserver.system import settling
from toolserver.system.touching import Marks
from toolserver.system.tree_index import Change, What
from toolserver.system.watcher import Watcher


class Follower:
    """One ``watch`` under way, and what it was told so far."""

    def __init__(self, socket: Socket, id: str) -> None:
        self.socket = socket
        self.id = id
        self.changes: list[Json] = []
        self.resyncs: list[str] = []
        self.number = 0

    async def take(self) -> Json:
        frame = await self.socket.next_of(self.id)
        event: Json = frame["event"]
        self.number = event["number"]
        if event["type"] == "changes":
            self.changes += event["changes"]
        elif event["type"] == "resync":
            self.resyncs.append(event["reason"])
        return event

    async def told(self, *wanted: tuple[str, str]) -> list[tuple[str, str]]:
        """Take events until all of ``wanted`` have come; everything that has."""
        while not set(wanted) <= set(self.seen):
            await self.take()
        return self.seen

    @property
    def entries(self) -> set[tuple[str, str]]:
        """What came and went. A new file may be told as modified, too, when it was looked at meanwhile."""
        return {each for each in self.seen if each[0] != "modified"}

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(each["kind"], each["path"]) for each in self.changes]


@asynccontextmanager
async def following(socket: Socket, **params: Any) -> AsyncIterator[Follower]:
    id = f"w{os.urandom(4).hex()}"
    await socket.send(id, "watch", {"debounceMs": 0, **params})
    follower = Follower(socket, id)
    assert (await follower.take())["type"] == "watching"
    yield follower
    await socket.send(id, "cancel")
    while "event" in (frame := await socket.next_of(id)):
        pass
    assert frame["error"]["code"] == "cancelled"


@pytest.fixture
def root(daemon: Daemon) -> Path:
    root = emptied(daemon.root)
    (root / "src").mkdir()
    (root / "src/a.ts").write_text("a")
    return root


async def test_what_others_do_is_told(socket: Socket, root: Path) -> None:
    async with following(socket) as follower:
        (root / "new.txt").write_text("new")
        await follower.told(("created", "new.txt"))
        with (root / "src/a.ts").open("r+") as file:
            file.write("b")
        await follower.told(("modified", "src/a.ts"))
        (root / "new.txt").rename(root / "src/new.txt")
        await follower.told(("moved", "src/new.txt"))
        shutil.rmtree(root / "src")
        await follower.told(("deleted", "src"), ("deleted", "src/a.ts"), ("deleted", "src/new.txt"))
    assert follower.changes[-1]["isDirectory"] is True
    assert [each["from"] for each in follower.changes if each["kind"] == "moved"] == ["new.txt"]
    numbers = [each["number"] for each in follower.changes]
    assert numbers == sorted(set(numbers))


async def test_a_directory_made_at_once_is_followed_to_its_last_file(socket: Socket, root: Path) -> None:
    async with following(socket) as follower:
        for number in range(30):
            (root / f"d{number}/e/f").mkdir(parents=True)
            (root / f"d{number}/e/f/last").touch()
        await follower.told(*(("created", f"d{number}/e/f/last") for number in range(30)))
        (root / "d7/e/f/last").write_text("later")
        await follower.told(("modified", "d7/e/f/last"))
    created = [path for kind, path in follower.seen if kind == "created"]
    assert len(created) == len(set(created)) == 120


async def test_a_directory_that_moved_is_still_followed(socket: Socket, root: Path) -> None:
    async with following(socket) as follower:
        (root / "src").rename(root / "lib")
        await follower.told(("moved", "lib"))
        (root / "lib/b.ts").touch()
        await follower.told(("created", "lib/b.ts"))
    assert ("deleted", "src") not in follower.seen


async def test_our_own_changes_carry_the_request_that_made_them(socket: Socket, root: Path) -> None:
    async with following(socket) as follower:
        await socket.send("r-write", "write", {"path": "w.txt", "content": "x"})
        await follower.told(("created", "w.txt"))
        (root / "other.txt").touch()
        await follower.told(("created", "other.txt"))
        await socket.send("r-edit", "edit", {"path": "src/a.ts", "oldText": "a", "newText": "b"})
        await follower.told(("modified", "src/a.ts"))
        await socket.send("r-move", "move", {"path": "src", "to": "lib"})
        await follower.told(("moved", "lib"))
    by_path = {each["path"]: each["requestId"] for each in follower.changes}
    assert by_path["w.txt"] == "r-write"
    assert by_path["other.txt"] is None
    assert by_path["src/a.ts"] == "r-edit"
    assert by_path["lib"] == "r-move"


async def test_an_atomic_write_is_one_change(socket: Socket, root: Path) -> None:
    async with following(socket) as follower:
        await socket.call("write", path="src/a.ts", content="other")
        await socket.call("write", path="end", content="")
        await follower.told(("created", "end"))
    assert sorted(follower.seen) == [("created", "end"), ("modified", "src/a.ts")]


async def test_only_what_was_asked_for_is_told(socket: Socket, root: Path) -> None:
    async with following(socket, paths=["src"], glob=["*.ts", "!*.test.ts"], ignore=["gen/"]) as follower:
        for name in ("a.ts", "src/x.js", "src/b.test.ts", "src/gen/c.ts", "srcs/d.ts", "src/deep/e.ts"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
        (root / "src/last.ts").touch()
        await follower.told(("created", "src/last.ts"))
        (root / "src/last.ts").rename(root / "gone.ts")
        await follower.told(("deleted", "src/last.ts"))
        (root / "gone.ts").rename(root / "src/back.ts")
        await follower.told(("created", "src/back.ts"))
    assert follower.entries == {
        ("created", "src/deep/e.ts"),
        ("created", "src/last.ts"),
        ("deleted", "src/last.ts"),
        ("created", "src/back.ts"),
    }


async def test_what_tools_fill_is_not_followed(socket: Socket, root: Path) -> None:
    async with following(socket) as follower:
        (root / "node_modules/p").mkdir(parents=True)
        (root / "node_modules/p/index.js").touch()
        (root / ".git").mkdir()
        (root / ".git/HEAD").touch()
        (root / "end").touch()
        await follower.told(("created", "end"))
    assert follower.entries == {("created", "node_modules"), ("created", ".git"), ("created", "end")}


async def test_who_comes_back_with_a_number_gets_the_rest(socket: Socket, root: Path) -> None:
    async with following(socket) as first:
        (root / "one").touch()
        await first.told(("created", "one"))
    (root / "two").touch()
    (root / "one").unlink()
    async with following(socket, since=first.number) as second:
        await second.told(("created", "two"), ("deleted", "one"))
    assert second.entries == {("created", "two"), ("deleted", "one")}
    assert second.resyncs == []


async def test_without_a_stream_it_answers_with_what_there_was(http: Http, root: Path) -> None:
    begin = await http.ok("watch")
    assert begin["changes"] == []
    (root / "one").touch()
    answer = await http.ok("watch", since=begin["number"])
    assert [(each["kind"], each["path"]) for each in answer["changes"]][:1] == [("created", "one")]
    assert {each["path"] for each in answer["changes"]} == {"one"}


async def test_without_a_stream_it_may_wait_for_the_first(http: Http, root: Path) -> None:
    begin = await http.ok("watch")
    asking = asyncio.create_task(http.ok("watch", since=begin["number"], timeoutMs=60_000, debounceMs=0))
    await asyncio.sleep(0)
    (root / "one").touch()
    assert {each["path"] for each in (await asking)["changes"]} == {"one"}


async def test_a_number_that_is_not_ours_is_told(http: Http, socket: Socket, root: Path) -> None:
    begin = await http.ok("watch")
    for number in (0, begin["number"] - 1_000_000_000, begin["number"] + 1000):
        answer = await http.ok("watch", since=number)
        assert (answer["resync"], answer["changes"]) == ("expired", [])
    async with following(socket, since=1) as follower:
        assert (await follower.take())["type"] == "resync"
        (root / "one").touch()
        await follower.told(("created", "one"))
    assert follower.resyncs == ["expired"]


async def test_a_reader_that_was_too_slow_is_told_to_look_again(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_KEPT_CHANGES="10") as daemon:
        async with http_of(daemon) as http:
            begin = (await http.ok("watch"))["number"]
            for number in range(30):
                (daemon.root / f"{number}").touch()
            answer = await http.ok("watch", since=begin)
            assert (answer["resync"], answer["changes"]) == ("expired", [])
            (daemon.root / "later").touch()
            later = await http.ok("watch", since=answer["number"])
            assert {each["path"] for each in later["changes"]} == {"later"}


async def test_a_queue_that_ran_over_loses_no_change_and_is_told(daemon: Daemon, root: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 100
    (root / "src/b.ts").touch()
    async with socket_of(daemon) as socket, following(socket) as follower:
        os.kill(daemon.pid, 19)  # SIGSTOP: nobody takes notices meanwhile
        try:
            for _ in range(most):  # one notice each, for no two that follow each other are the same
                os.utime(root / "src/a.ts")
                os.utime(root / "src/b.ts")
            (root / "src/last").touch()
        finally:
            os.kill(daemon.pid, 18)  # SIGCONT
        while not follower.resyncs:
            await follower.take()
        (root / "after").touch()
        await follower.told(("created", "after"))
    assert follower.resyncs == ["lost"]


async def test_an_injection_is_told_as_what_it_changed(
    http: Http, socket: Socket, root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "new"
    (source / "src").mkdir(parents=True)
    (source / "src/b.ts").write_text("b")
    packed = tmp_path / "a.tar.gz"
    await _run("tar", "-czf", str(packed), "-C", str(source), ".")
    async with following(socket) as follower:
        async with http.session.put("/v1/archive", data=packed.read_bytes()) as response:
            assert response.status == 200
            request_id = response.headers["X-Request-Id"]
        await follower.told(("deleted", "src/a.ts"), ("created", "src/b.ts"))
    assert {each["requestId"] for each in follower.changes} == {request_id}


async def _run(*argv: str) -> None:
    process = await asyncio.create_subprocess_exec(*argv)
    assert await process.wait() == 0


async def test_a_tree_past_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_INDEXED_ENTRIES="10") as daemon:
        for number in range(11):
            (daemon.root / f"{number}").touch()
        async with http_of(daemon) as http:
            refused = await http.refused("watch")
            assert (refused.code, refused.details["limit"]) == ("unavailable", "maxIndexedEntries")
            (daemon.root / "0").unlink()
            (daemon.root / "1").unlink()
            assert (await http.ok("watch"))["changes"] == []


async def test_followers_end_with_their_socket(daemon: Daemon, root: Path) -> None:
    async with http_of(daemon) as http:
        await http.ok("watch")
        before = len(daemon.descriptors())
        for _ in range(5):
            async with socket_of(daemon) as socket:
                await socket.send("w", "watch", {})
                await socket.next_of("w")
        await until(lambda: len(daemon.descriptors()) <= before, "the descriptors of before")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"debounceMs": -1}, "debounceMs"),
        ({"debounceMs": 60_001}, "debounceMs"),
        ({"timeoutMs": -1}, "timeoutMs"),
        ({"glob": "a[z-a]"}, None),
    ],
)
async def test_what_cannot_be_watched_is_told(
    http: Http, root: Path, params: Json, field: str | None
) -> None:
    if field is not None:
        assert (await http.refused("watch", **params)).details["field"] == field
    assert (await http.refused("watch", paths=["../x"])).code == "outside_workspace"


async def test_a_change_that_is_over_is_told_without_waiting_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("saved", "written", "kept", "taken"):
        (tmp_path / name).write_text("old")
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    watcher = Watcher(root, Limits())
    try:
        await watcher.start()
        monkeypatch.setattr(settling, "_GATHER_SECONDS", 3600.0)
        number = watcher.number

        async def told() -> list[tuple[str, str]]:
            nonlocal number
            await asyncio.wait_for(watcher.wait_past(number), 60)
            found = watcher.since(number)
            assert found is not None
            number = watcher.number
            return [(each.change.what.value, each.change.path) for each in found]

        (tmp_path / "saved.new").write_text("new")
        (tmp_path / "saved.new").rename(tmp_path / "saved")
        assert await told() == [("modified", "saved")]
        (tmp_path / "written").write_text("new")
        assert await told() == [("modified", "written")]
        # An editor that keeps the old file: half of that save is not told, whoever has noticed it.
        (tmp_path / "kept").rename(tmp_path / "kept~")
        for _ in range(20):
            await asyncio.sleep(0)
        (tmp_path / "kept").write_text("new")
        (tmp_path / "kept~").unlink()
        assert await told() == [("modified", "kept")]
        # Nor is half of what a request does.
        with watcher.touching("r1", ("taken", "written")):
            (tmp_path / "taken").write_text("new")
            for _ in range(20):
                await asyncio.sleep(0)
            (tmp_path / "written").write_text("newer")
        assert await told() == [("modified", "taken"), ("modified", "written")]
    finally:
        await watcher.close()
        os.close(root)


def test_a_mark_holds_until_what_was_done_is_told_and_the_newest_counts() -> None:
    marks = Marks()
    marks.begin("r1", ("src",))
    marks.begin("r2", ("src/a", "b"))

    def request_of(path: str, source: str | None = None) -> str | None:
        return marks.request_of(Change(What.CREATED, path, False, source))

    assert request_of("src/x") == "r1"
    assert request_of("src/a/y") == "r2"
    assert request_of("c", source="b") == "r2"
    assert request_of("srcs") is None
    marks.end("r1")
    assert request_of("src/x") == "r1"
    marks.forget()
    assert request_of("src/x") is None
    assert request_of("src/a") == "r2"
