"""A full disk: every refusal says so, and nothing was changed.

The workspace is a file system of one mebibyte, which only root can mount.
"""

from __future__ import annotations

import base64
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder import Daemon, Http, Refusal, emptied, http_of, running, tree_of, until

KIB = 1024


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on a file system of 1 MiB."""
    yield from mounted_at(tmp_path_factory.mktemp("small") / "disk", "1m")


def mounted_at(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory, for as long as somebody looks."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def daemon(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Root and state directory both on the small disk."""
    with running(
        tmp_path_factory.mktemp("daemon"),
        WORKSPACE_ROOT=str(small_disk / "root"),
        TOOL_SERVER_STATE_DIR=str(small_disk / "state"),
        TOOL_SERVER_STOP_GRACE_MS="300",
    ) as daemon:
        yield daemon


@pytest.fixture
def root(daemon: Daemon) -> Path:
    return emptied(daemon.root)


async def test_a_write_that_does_not_fit_is_refused(http: Http, root: Path) -> None:
    (root / "mine").write_text("x")
    refused = await http.refused("write", path="new/deep/big", content="x" * 2000 * KIB)
    assert (refused.status, refused.code) == (507, "no_space")
    assert refused.message == (
        "no space is left for 'new/deep/big'; nothing was changed. Remove files and try again"
    )
    assert tree_of(root) == {"mine": b"x"}


async def test_a_file_keeps_its_content_when_the_new_one_does_not_fit(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="a" * 400 * KIB)
    refused = await http.refused("write", path="a", content="b" * 700 * KIB)
    assert refused.code == "no_space"
    assert tree_of(root) == {"a": b"a" * 400 * KIB}


async def test_a_batch_of_edits_of_which_one_does_not_fit_changes_nothing(http: Http, root: Path) -> None:
    before = {"a": b"<a>" + b"." * 300 * KIB, "b": b"<b>" + b"." * 300 * KIB}
    for name, content in before.items():
        (root / name).write_bytes(content)
    grow = [
        {"path": "a", "oldText": "<a>", "newText": "[a]"},
        {"path": "b", "oldText": "<b>", "newText": "b" * 400 * KIB},
    ]
    refused = await http.refused("edit", edits=grow)
    assert (refused.status, refused.code) == (507, "no_space")
    assert tree_of(root) == before


async def test_there_is_room_again_after_something_was_removed(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="a" * 600 * KIB)
    assert (await http.refused("write", path="b", content="b" * 600 * KIB)).code == "no_space"
    await http.ok("command", command="rm a")
    await http.ok("write", path="b", content="b" * 600 * KIB)


async def test_reading_and_searching_go_on(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="needle\n" + "a" * 300 * KIB)
    await http.ok("command", command="head -c 2000000 /dev/zero > filler; true")
    assert (await http.ok("read", path="a", startLine=1, endLine=1))["content"] == "needle\n"
    assert (await http.ok("search", pattern="needle"))["matchCount"] == 1
    assert [each["path"] for each in (await http.ok("list"))["entries"]] == ["a", "filler"]


async def test_a_command_tells_the_full_disk_itself(http: Http, root: Path) -> None:
    answer = await http.ok("command", command="head -c 2000000 /dev/zero > big")
    assert answer["exitCode"] == 1
    assert "No space left on device" in answer["stderr"]


async def test_output_that_cannot_be_kept_is_a_counted_gap(http: Http, root: Path) -> None:
    """A full disk never stops a program: what is not kept of its output is told."""
    await http.ok("command", command="head -c 2000000 /dev/zero > filler; true")
    answer = await http.ok("command", command="seq 1000000", commandId="much")
    whole = "".join(f"{n}\n" for n in range(1, 1_000_001))
    assert (answer["exitCode"], answer["stdoutBytes"], answer["truncated"]) == (0, len(whole), True)
    head, _, tail = answer["stdout"].partition("\n[… ")
    assert whole.startswith(head)
    assert whole.endswith(tail.partition("…]\n")[2])
    *frames, _ = await http.stream("attach", processId="much")
    (gap,) = (event for event in (frame["event"] for frame in frames) if event["type"] == "gap")
    kept = "".join(frame["event"].get("data", "") for frame in frames)
    assert gap["offset"] == 0
    assert kept == whole[gap["missingBytes"] :]


async def test_an_archive_that_does_not_fit_changes_nothing(http: Http, root: Path) -> None:
    (root / "mine").write_text("x")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("big")
        member.size = 2000 * KIB
        tar.addfile(member, io.BytesIO(os.urandom(member.size)))
    refused = await http.refused("inject", archive=base64.b64encode(packed.getvalue()).decode())
    assert (refused.status, refused.code) == (507, "no_space")
    assert tree_of(root) == {"mine": b"x"}
    await http.ok("write", path="room", content="y" * 700 * KIB)


async def test_after_all_that_nothing_is_left_of_it(http: Http, daemon: Daemon, root: Path) -> None:
    def left() -> list[str]:
        names = (name for _, *inside in os.walk(daemon.state) for names in inside for name in names)
        return [name for name in names if "~" in name or "staging" in name or "trash" in name]

    # What was there before is removed after the answers.
    await until(lambda: not daemon.children() and not left(), "the tidying")
    assert tree_of(root) == {}


# -- before it is full ------------------------------------------------------------------------------------

MIB = 1024 * KIB


@pytest.fixture(scope="module")
def larger_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of 16 MiB, of which a hundredth is kept."""
    yield from mounted_at(tmp_path_factory.mktemp("larger") / "disk", "16m")


@pytest.fixture(scope="module")
def reserving(larger_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Of whose workspace 2 MiB is all there may be."""
    with running(
        tmp_path_factory.mktemp("reserving"),
        WORKSPACE_ROOT=str(larger_disk / "root"),
        TOOL_SERVER_STATE_DIR=str(larger_disk / "state"),
        TOOL_SERVER_MAX_WORKSPACE_BYTES=str(2 * MIB),
    ) as daemon:
        yield daemon


async def test_the_last_hundredth_of_the_disk_is_not_for_requests(
    reserving: Daemon, larger_disk: Path
) -> None:
    disk = os.statvfs(larger_disk)
    others = larger_disk / "others"
    others.write_bytes(bytes(disk.f_bavail * disk.f_frsize - 140 * KIB))
    async with http_of(reserving) as http:
        refused = await http.refused("write", path="a", content="a")
        assert (refused.code, refused.details["limit"]) == ("no_space", "reservedDiskBytes")
        assert tree_of(reserving.root) == {}
        by_hand = await http.ok("command", command="head -c 8192 /dev/zero > by-hand; wc -c < by-hand")
        assert by_hand["stdout"] == "8192\n"
        others.unlink()
        await http.ok("write", path="a", content="a")


async def test_a_workspace_takes_no_more_than_it_may(reserving: Daemon) -> None:
    emptied(reserving.root)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("big")
        member.size = 3 * MIB
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    archive = base64.b64encode(packed.getvalue()).decode()
    much = 1200 * KIB
    async with http_of(reserving) as http:
        await http.ok("write", path="a", content="a" * much)
        wrong = [
            await http.refused("write", path="b", content="b" * much),
            await http.refused("edit", edits=[{"op": "create", "path": "b", "content": "b" * much}]),
            await http.refused("copy", path="a", to="b"),
            await http.refused("inject", archive=archive),
            await http.refused("inject", archive=archive, mode="merge"),
        ]
        async with http.session.put("/v1/files/b", data=io.BytesIO(b"b" * much)) as response:
            wrong.append(Refusal.of(response.status, await response.json()))
        assert [(each.status, each.details["limit"], each.details["value"]) for each in wrong] == [
            (507, "maxWorkspaceBytes", 2 * MIB)
        ] * 6
        assert tree_of(reserving.root).keys() == {"a"}
        await http.ok("write", path="c", content="c" * 20 * KIB)
