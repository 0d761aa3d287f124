"""Saves on their way to the disk."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.saves import format_of, write_save
from protocol.errors import ArchiveInvalid, InvalidRequest, Unavailable
from protocol.messages.archives import ArchiveFormat
from tests.orchestrator.archives import pieces, save_of


async def test_a_save_is_written_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    content = save_of("hello")
    saved = await write_save(pieces(content), tmp_path / "x.tar.gz")
    assert saved.path.read_bytes() == content
    assert (saved.size, saved.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert saved.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


@pytest.mark.parametrize("content", [b"half", save_of("x")[:-9], save_of("x") + b"more", b""])
async def test_what_is_no_whole_archive_gets_no_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"the last good one")
    with pytest.raises(ArchiveInvalid):
        await write_save(pieces(content), tmp_path / "x.tar.gz")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.tar.gz": b"the last good one"}


async def test_a_save_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "x.tar.gz"
    target.write_bytes(b"the last good one")
    with pytest.raises(Unavailable):
        await write_save(pieces(save_of("new"), fails=True), target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]
    assert target.read_bytes() == b"the last good one"


async def test_bytes_that_the_disk_changes_are_noticed_although_the_archive_is_whole(tmp_path: Path) -> None:
    good, other = save_of("good", 0), save_of("evil", 0)
    assert len(good) == len(other)

    async def swapped() -> AsyncIterator[bytes]:
        yield good
        [part] = tmp_path.glob(".*.part")
        part.write_bytes(other)  # the same file, with a whole archive in it that nobody sent

    with pytest.raises(ArchiveInvalid, match="gave back other bytes than were written"):
        await write_save(swapped(), tmp_path / "x.tar.gz")
    assert list(tmp_path.iterdir()) == []


async def test_what_was_not_packed_like_this_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveInvalid, match="not what the tool server packed"):
        await write_save(pieces(save_of("x")), tmp_path / "x.tar.gz", lambda: "sha256:00")
    assert list(tmp_path.iterdir()) == []


async def test_a_save_that_is_cancelled_at_any_moment_leaves_what_was_there(tmp_path: Path) -> None:
    target, content = tmp_path / "x.tar.gz", save_of("new", 200_000)
    for turns in range(20):
        target.write_bytes(b"the last good one")
        saving = asyncio.create_task(write_save(pieces(content), target))
        for _ in range(turns * 3):
            await asyncio.sleep(0)
        saving.cancel()
        done = not isinstance((await asyncio.gather(saving, return_exceptions=True))[0], BaseException)
        assert target.read_bytes() == (content if done else b"the last good one")
        assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.tar.gz", ArchiveFormat.GZIP),
        ("a.tgz", ArchiveFormat.GZIP),
        ("a.tar.zst", ArchiveFormat.ZSTD),
        ("a.b.tar", ArchiveFormat.TAR),
    ],
)
def test_the_name_says_the_format(name: str, expected: ArchiveFormat) -> None:
    assert format_of(Path(name)) is expected


@pytest.mark.parametrize("name", ["a.zip", "tar", ".tar", "a.tar.bz2"])
def test_a_name_that_says_no_format_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\.tar\.zst"):
        format_of(Path(name))
