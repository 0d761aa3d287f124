"""Large files are written whole, and no further than they go, whatever a disk says when asked for room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.limits import KIB, MIB
from protocol.tar import Member, pack
from toolserver.system import large_files
from toolserver.system.large_files import Allocation, write_all
from toolserver.system.tarballs import Extraction


@pytest.fixture(params=["a disk that has room to give", "a disk that knows no such call"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if "no such call" in request.param:
        monkeypatch.setattr(large_files, "_allocated", lambda *_: False)
    monkeypatch.setattr(large_files, "_WINDOW_BYTES", 4 * MIB)
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_a_large_file_comes_out_whole_and_takes_no_more_room_than_it_has(target: Path) -> None:
    content = os.urandom(KIB) * (11 * KIB) + b"end"
    archive = b"".join(pack([(Member(name="large", size=len(content)), [content])]))
    with Extraction(target) as extraction:
        for at in range(0, len(archive), MIB // 3):
            extraction.feed(archive[at : at + MIB // 3])
        extraction.finish()
    assert (target / "large").read_bytes() == content
    assert (target / "large").stat().st_blocks * 512 <= len(content) + 64 * KIB


def test_a_file_that_is_announced_and_not_sent_takes_a_window_at_most(target: Path) -> None:
    head = b"".join(pack([(Member(name="large", size=40 * MIB), [bytes(40 * MIB)])]))[: 2 * MIB]
    with Extraction(target) as extraction:
        extraction.feed(head)
        extraction._unpacking.wait()
        info = (target / "large").stat()
    assert info.st_size < 2 * MIB
    assert info.st_blocks * 512 <= 5 * MIB


def test_what_is_no_file_on_a_disk_is_written_all_the_same() -> None:
    reader, writer = os.pipe()
    try:
        Allocation(writer, 100 * MIB).reach(1)
        write_all(writer, b"all of it")
        assert os.read(reader, 100) == b"all of it"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: 50 * KIB]))
    content = os.urandom(300 * KIB)
    with (tmp_path / "a").open("wb", buffering=0) as file:
        write_all(file.fileno(), content)
    assert (tmp_path / "a").read_bytes() == content
