"""Room: refused before the disk is full, or the workspace larger than it may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import NoSpace
from protocol.limits import MIB, Limits
from toolserver.system.room import Room, used_bytes


class Disk(NamedTuple):
    """As much of ``statvfs`` as is looked at: by default 10 GB with everything free."""

    f_bavail: int = 2_500_000
    f_blocks: int = 2_500_000
    f_frsize: int = 4096
    f_files: int = 1_000_000
    f_favail: int = 1_000_000


def room(disk: Disk, **limits: int) -> Room:
    return Room(-1, Limits(**limits), look=lambda _: disk)  # type: ignore[arg-type,return-value]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield tmp_path, fd
    os.close(fd)


def test_what_fits_beside_the_reserve_is_let_in_and_a_byte_more_is_not() -> None:
    free = 100 * MIB
    tight = room(Disk(f_bavail=free // 4096))
    tight.need("a", free - 64 * MIB)
    with pytest.raises(NoSpace) as caught:
        tight.need("a", free - 64 * MIB + 1)
    assert caught.value.message == "no space is left for 'a'; nothing was changed. Remove files and try again"
    assert caught.value.details == {
        "limit": "reservedDiskBytes",
        "value": 64 * MIB,
        "freeBytes": free,
        "neededBytes": free - 64 * MIB + 1,
    }


def test_of_a_small_disk_a_hundredth_is_kept_and_of_a_tiny_one_nothing() -> None:
    small = Disk(f_blocks=2560, f_bavail=100)
    room(small).need("a", 100 * 4096 - 2560 * 4096 // 100)
    with pytest.raises(NoSpace):
        room(small).need("a", 100 * 4096)
    room(Disk(f_blocks=256, f_bavail=100)).need("a", 100 * 4096)


def test_inodes_run_out_too() -> None:
    with pytest.raises(NoSpace) as caught:
        room(Disk(f_favail=2_000)).need("a", 1)
    assert caught.value.details["limit"] == "reservedDiskEntries"
    room(Disk(f_favail=2_001)).need("a", 1)


def test_a_file_system_that_counts_no_inodes_has_enough() -> None:
    room(Disk(f_files=0, f_favail=0)).need("a", 1)


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(0, 10**11))
def test_nothing_that_is_let_in_touches_the_reserve(free: int, blocks: int, size: int) -> None:
    disk = Disk(f_bavail=min(free, blocks), f_blocks=blocks)
    try:
        room(disk).need("a", size)
    except NoSpace:
        return
    hundredth = blocks * 4096 // 100
    assert disk.f_bavail * 4096 - size >= (0 if hundredth < 2**16 else min(64 * MIB, hundredth))


def test_a_workspace_has_its_share(root: tuple[Path, int]) -> None:
    path, fd = root
    (path / "there").write_bytes(b"x" * 40_000)
    now = [0.0]
    share = Room(fd, Limits(max_workspace_bytes=100_000, reserved_disk_bytes=0), clock=lambda: now[0])
    share.need("a", 50_000)
    with pytest.raises(NoSpace) as caught:
        share.need("b", 50_000)
    assert caught.value.details["limit"] == "maxWorkspaceBytes"
    # What was asked for was not written, or replaced something: the next look finds out.
    now[0] = 2.0
    share.need("b", 50_000)


def test_a_file_of_two_names_counts_once_and_what_vanishes_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"x" * 100_000)
    fd = os.open(tmp_path, os.O_RDONLY)
    before = used_bytes(fd)
    os.link(tmp_path / "d" / "a", tmp_path / "b")
    (tmp_path / "out").symlink_to("/")
    assert 100_000 <= before <= used_bytes(fd) <= before + 4096
    os.close(fd)
