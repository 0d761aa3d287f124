"""Archives read to their last byte."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest
import zstandard

from orchestrator.archive_check import Checked, read_through
from protocol.errors import ArchiveInvalid
from protocol.messages.archives import ArchiveFormat
from tests.orchestrator.archives import tar_of

TAR = tar_of({"a.txt": b"hello", "b/c.bin": random.Random(7).randbytes(50_000), "empty": b""})
PACKED = {
    ArchiveFormat.GZIP: gzip.compress(TAR, mtime=0),
    ArchiveFormat.ZSTD: zstandard.ZstdCompressor(write_checksum=True).compress(TAR),
    ArchiveFormat.TAR: TAR,
}


@pytest.mark.parametrize("form", PACKED)
def test_a_whole_archive_is_told_by_both_of_its_digests(form: ArchiveFormat, tmp_path: Path) -> None:
    data = PACKED[form]
    (tmp_path / "x").write_bytes(data)
    assert read_through(tmp_path / "x") == Checked(
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        digest=f"sha256:{hashlib.sha256(TAR).hexdigest()}",
        files=3,
        format=form,
    )


@pytest.mark.parametrize("form", PACKED)
def test_an_archive_that_is_cut_short_anywhere_is_damaged(form: ArchiveFormat, tmp_path: Path) -> None:
    data = PACKED[form]
    for end in {0, 1, 5, 100, 600, len(data) // 2, len(data) - 1025, len(data) - 1}:
        (tmp_path / "x").write_bytes(data[:end])
        with pytest.raises(ArchiveInvalid, match=f"the archive {tmp_path / 'x'} is damaged"):
            read_through(tmp_path / "x")


@pytest.mark.parametrize("form", [ArchiveFormat.GZIP, ArchiveFormat.ZSTD])
def test_one_changed_byte_is_noticed_wherever_it_is(form: ArchiveFormat, tmp_path: Path) -> None:
    whole = PACKED[form]
    expected = hashlib.sha256(TAR).hexdigest()
    for place in random.Random(1).sample(range(10, len(whole)), 60):
        data = bytearray(whole)
        data[place] ^= 0x40
        (tmp_path / "x").write_bytes(data)
        try:
            checked = read_through(tmp_path / "x")
        except ArchiveInvalid:
            continue
        # A byte of the header that means nothing: the content is whole, and the file's own digest tells.
        assert checked.digest == f"sha256:{expected}"
        assert checked.sha256 != hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("form", PACKED)
def test_what_follows_after_the_end_is_told(form: ArchiveFormat, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(PACKED[form] + b"more")
    with pytest.raises(ArchiveInvalid):
        read_through(tmp_path / "x")
