"""Bytes on their way from here."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from orchestrator.spool import Spool


def open_files(directory: Path) -> int:
    """Those that this process has of it, with a name or without: others come and go as they like."""
    links = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return len([each for each in links if each.startswith(f"{directory}/")])


@pytest.mark.parametrize("in_memory", [0, 5, 10, 11, 1000])
async def test_what_was_written_is_read_whole_and_as_often_as_wanted(in_memory: int, tmp_path: Path) -> None:
    spool = Spool(lambda: tmp_path, in_memory)
    for part in (b"hello", b"", b"world", b"!"):
        spool.write(part)
    assert spool.size == 11
    for _ in range(2):
        assert b"".join([chunk async for chunk in spool.chunks()]) == b"helloworld!"
        assert spool.read() == b"helloworld!"
    assert spool.read_at(5, 3) == b"wor"
    assert spool.read_at(11) == b""


def test_its_file_has_no_name_and_goes_with_it(tmp_path: Path) -> None:
    spool = Spool(lambda: tmp_path, 10)
    spool.write(bytes(100))
    assert (list(tmp_path.iterdir()), open_files(tmp_path)) == ([], 1)
    del spool
    gc.collect()
    assert open_files(tmp_path) == 0


def test_a_directory_is_asked_for_only_when_a_file_is_needed(tmp_path: Path) -> None:
    def place() -> Path:
        raise AssertionError

    spool = Spool(place, 10)
    spool.write(b"few")
    assert spool.read() == b"few"
