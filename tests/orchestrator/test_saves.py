"""Saves on disk."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.saves import format_of, write_save
from protocol.errors import InvalidRequest, Unavailable
from protocol.messages.archives import ArchiveFormat


async def pieces(*parts: bytes, fails: bool = False) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if fails:
        raise Unavailable("gone")


async def test_a_save_is_written_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    saved = await write_save(pieces(b"abc", b"def"), tmp_path / "x.tar.gz")
    assert saved.path.read_bytes() == b"abcdef"
    assert (saved.size, saved.sha256) == (6, hashlib.sha256(b"abcdef").hexdigest())
    assert saved.path.stat().st_mode & 0o777 == 0o600


async def test_a_save_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "x.tar.gz"
    target.write_bytes(b"the last good one")
    with pytest.raises(Unavailable):
        await write_save(pieces(b"half", fails=True), target)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]
    assert target.read_bytes() == b"the last good one"


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
