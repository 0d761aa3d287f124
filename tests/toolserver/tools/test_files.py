"""write, list, stat, through the HTTP door."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from tests.builder import Daemon, Http, Json, http_of, running, tree_of

PNG = b"\x89PNG\r\n\x1a\n\0\xff"


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def paths_in(answer: Json) -> list[str]:
    return [each["path"] for each in answer["entries"]]


class TestWrite:
    async def test_a_file_is_made_with_its_directories(self, http: Http, root: Path) -> None:
        answer = await http.ok("write", path="a/b/c.txt", content="hello")
        assert (answer["path"], answer["size"], answer["created"]) == ("a/b/c.txt", 5, True)
        assert answer["hash"] == (await http.ok("read", path="a/b/c.txt"))["hash"]
        assert tree_of(root) == {"a": None, "a/b": None, "a/b/c.txt": b"hello"}

    async def test_a_file_is_replaced_and_keeps_its_mode(self, http: Http, root: Path) -> None:
        (root / "run.sh").write_text("old")
        (root / "run.sh").chmod(0o755)
        answer = await http.ok("write", path="run.sh", content="new")
        assert not answer["created"]
        assert (root / "run.sh").stat().st_mode & 0o777 == 0o755

    async def test_a_mode_may_be_given(self, http: Http, root: Path) -> None:
        await http.ok("write", path="a", content="", mode=0o700)
        assert (root / "a").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755])
    async def test_a_mode_is_permission_bits(self, http: Http, root: Path, mode: int) -> None:
        refused = await http.refused("write", path="a", content="", mode=mode)
        assert refused.message == "'mode' holds permission bits, 0 to 511 (0o777)"
        assert tree_of(root) == {}

    async def test_bytes_come_as_base64(self, http: Http, root: Path) -> None:
        await http.ok("write", path="a", content=base64.b64encode(PNG).decode(), encoding="base64")
        assert (root / "a").read_bytes() == PNG

    async def test_wrong_base64_changes_nothing(self, http: Http, root: Path) -> None:
        refused = await http.refused("write", path="a", content="***", encoding="base64")
        assert refused.message.startswith("'content' is not valid base64: ")
        assert tree_of(root) == {}

    async def test_a_write_over_the_limit_changes_nothing(self, http: Http, root: Path) -> None:
        refused = await http.refused("write", path="a", content="x" * (10 * 2**20 + 1))
        assert (refused.code, refused.details["limit"]) == ("too_large", "maxWriteBytes")
        assert tree_of(root) == {}

    async def test_an_expected_hash_guards_against_lost_work(self, http: Http, root: Path) -> None:
        first = await http.ok("write", path="a", content="1", expectedHash="")
        await http.ok("write", path="a", content="2", expectedHash=first["hash"])
        refused = await http.refused("write", path="a", content="3", expectedHash=first["hash"])
        assert (refused.status, refused.code) == (409, "conflict")
        assert refused.message == "'a' has changed since it was read; read it again and redo the edit"
        assert refused.details["expectedHash"] == first["hash"]
        assert (root / "a").read_text() == "2"

    async def test_a_file_that_was_to_be_new_is_not_replaced(self, http: Http, root: Path) -> None:
        (root / "a").write_text("mine")
        refused = await http.refused("write", path="a", content="x", expectedHash="")
        assert (refused.code, refused.message) == ("conflict", "'a' exists already, and was expected not to")
        assert (root / "a").read_text() == "mine"

    async def test_a_file_that_was_to_be_there_is_not_made(self, http: Http, root: Path) -> None:
        refused = await http.refused("write", path="a/b", content="x", expectedHash="sha256:0")
        assert (refused.code, refused.message) == (
            "conflict",
            "'a/b' does not exist any more; it was expected to",
        )
        assert tree_of(root) == {}

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            (".", "not_a_file"),
            ("dir", "not_a_file"),
            ("file/x", "not_found"),
            ("../x", "outside_workspace"),
            ("link-out/x", "outside_workspace"),
            ("fifo", "not_a_file"),
            ("missing/x", "not_found"),
        ],
    )
    async def test_what_cannot_be_written_changes_nothing(
        self, http: Http, root: Path, daemon: Daemon, path: str, code: str
    ) -> None:
        (root / "dir").mkdir()
        (root / "file").write_text("x")
        os.mkfifo(root / "fifo")
        (root / "link-out").symlink_to(root.parent / "home")
        before = tree_of(root.parent / "home"), names_in(root)
        refused = await http.refused("write", path=path, content="new", createParents=False)
        assert refused.code == code
        assert (tree_of(root.parent / "home"), names_in(root)) == before

    async def test_writes_to_one_file_at_once_leave_one_of_them(self, http: Http, root: Path) -> None:
        contents = [str(n) * 10_000 for n in range(10)]
        await asyncio.gather(*(http.ok("write", path="a", content=content) for content in contents))
        assert (root / "a").read_text() in contents
        assert names_in(root) == ["a"]

    async def test_of_writes_that_expect_the_same_state_one_wins(self, http: Http, root: Path) -> None:
        first = await http.ok("write", path="a", content="0")

        async def write(content: str) -> int:
            params = {"path": "a", "content": content, "expectedHash": first["hash"]}
            async with http.session.post("/v1/write", json=params) as response:
                return response.status

        statuses = await asyncio.gather(*(write(str(n)) for n in range(1, 11)))
        assert sorted(statuses) == [200] + [409] * 9

    async def test_text_is_written_as_it_is(self, http: Http, root: Path) -> None:
        text = "\ufeffa\r\nb\rc\u2028ü😀\0"
        await http.ok("write", path="a", content=text)
        assert (root / "a").read_bytes() == text.encode()


class TestList:
    async def test_entries_are_sorted_and_told_apart(self, http: Http, root: Path) -> None:
        (root / "b").mkdir()
        (root / "a.txt").write_text("hello")
        (root / "a.txt").chmod(0o640)
        (root / "c").symlink_to("b")
        os.mkfifo(root / "d")
        answer = await http.ok("list")
        assert [(each["path"], each["kind"]) for each in answer["entries"]] == [
            ("a.txt", "file"),
            ("b", "directory"),
            ("c", "symlink"),
            ("d", "other"),
        ]
        file, _, link, _ = answer["entries"]
        assert (file["size"], file["mode"], file["target"]) == (5, 0o640, None)
        assert file["modified"].endswith("+00:00")
        assert link["target"] == "b"

    async def test_levels_are_counted(self, http: Http, root: Path) -> None:
        (root / "a" / "b" / "c").mkdir(parents=True)
        assert paths_in(await http.ok("list")) == ["a"]
        assert paths_in(await http.ok("list", depth=2)) == ["a", "a/b"]
        assert paths_in(await http.ok("list", path="a", depth=64)) == ["a/b", "a/b/c"]

    async def test_what_saves_leave_out_is_shown_but_not_entered(self, http: Http, root: Path) -> None:
        (root / "node_modules" / "x").mkdir(parents=True)
        (root / "src" / "dist").mkdir(parents=True)
        (root / "src" / "dist" / "keep").touch()
        shown = [each["path"] for each in (await http.ok("list", depth=9))["entries"]]
        assert shown == ["node_modules", "src", "src/dist", "src/dist/keep"]
        every = [each["path"] for each in (await http.ok("list", depth=9, ignored=True))["entries"]]
        assert "node_modules/x" in every

    async def test_links_are_not_followed_down(self, http: Http, root: Path) -> None:
        (root / "loop").symlink_to(".")
        (root / "out").symlink_to("/etc")
        answer = await http.ok("list", depth=9)
        assert [each["path"] for each in answer["entries"]] == ["loop", "out"]

    async def test_a_linked_directory_may_be_listed_by_its_name(self, http: Http, root: Path) -> None:
        (root / "a").mkdir()
        (root / "a" / "f").touch()
        (root / "link").symlink_to("a")
        assert [each["path"] for each in (await http.ok("list", path="link"))["entries"]] == ["link/f"]

    @pytest.mark.parametrize("depth", [0, -1, 65])
    async def test_a_depth_out_of_range_is_refused(self, http: Http, depth: int) -> None:
        assert (await http.refused("list", depth=depth)).message == "'depth' is from 1 to 64"

    async def test_a_file_cannot_be_listed(self, http: Http, root: Path) -> None:
        (root / "f").touch()
        refused = await http.refused("list", path="f")
        assert refused.message == "'f', or a name on the way to it, is not a directory"

    async def test_more_than_the_limit_is_told(self, tmp_path: Path) -> None:
        with running(tmp_path, TOOL_SERVER_MAX_LIST_ENTRIES="5") as daemon:
            async with http_of(daemon) as http:
                for name in "abcde":
                    (daemon.root / name).touch()
                assert not (await http.ok("list"))["truncated"]
                (daemon.root / "f").touch()
                answer = await http.ok("list")
        assert (len(answer["entries"]), answer["truncated"]) == (5, True)

    async def test_a_name_that_is_not_utf8_is_shown_as_far_as_it_can_be(self, http: Http, root: Path) -> None:
        (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))).touch()
        (Path(os.fsdecode(os.fsencode(root) + b"/link"))).symlink_to(os.fsdecode(b"caf\xe9"))
        entries = (await http.ok("list"))["entries"]
        assert [(each["path"], each["target"]) for each in entries] == [
            ("caf\ufffd", None),
            ("link", "caf\ufffd"),
        ]

    async def test_a_date_beyond_the_calendar_is_shown_as_its_end(self, http: Http, root: Path) -> None:
        (root / "future").touch()
        os.utime(root / "future", (2**40, 2**40))
        assert (await http.ok("stat", path="future"))["modified"] >= "2262"


class TestStat:
    async def test_a_file_has_its_hash(self, http: Http, root: Path) -> None:
        (root / "a").write_text("x")
        answer = await http.ok("stat", path="a")
        assert (answer["kind"], answer["hash"]) == ("file", (await http.ok("read", path="a"))["hash"])

    async def test_a_link_is_shown_as_itself_even_when_it_leaves(self, http: Http, root: Path) -> None:
        (root / "link").symlink_to("/etc/passwd")
        answer = await http.ok("stat", path="link")
        assert (answer["kind"], answer["target"], answer["hash"]) == ("symlink", "/etc/passwd", None)

    @pytest.mark.parametrize("path", [".", "/app", "/workspace/"])
    async def test_the_root_is_a_directory(self, http: Http, root: Path, path: str) -> None:
        answer = await http.ok("stat", path=path)
        assert (answer["path"], answer["kind"]) == (".", "directory")

    async def test_a_large_file_has_no_hash(self, http: Http, root: Path) -> None:
        with (root / "big").open("wb") as file:
            file.truncate(11 * 2**20)
        answer = await http.ok("stat", path="big")
        assert (answer["size"], answer["hash"]) == (11 * 2**20, None)

    async def test_nothing_there_is_not_found(self, http: Http, root: Path) -> None:
        assert (await http.refused("stat", path="nothing")).code == "not_found"
