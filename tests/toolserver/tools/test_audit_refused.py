"""What becomes of lines of the audit that the disk does not take."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from protocol.limits import Limits
from toolserver.system import trail as module
from toolserver.system.large_files import write_all
from toolserver.system.trail import Trail
from toolserver.tools.auditing import Auditing


class Disk:
    """Takes the first ``room`` bytes of a write and no more, once it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.room = 0
        monkeypatch.setattr(module, "write_all", self.write)

    def write(self, fd: int, data: bytes) -> None:
        write_all(fd, data[: self.room] if self.full else data)
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def noted(auditing: Auditing, count: int) -> None:
    for _ in range(count):
        auditing.note(1.5e9, b'{"who":"ann","operation":"read","outcome":"ok"}')


def written(directory: Path) -> list[int]:
    files = [directory / name for name in ("audit.1.jsonl", "audit.jsonl")]
    lines = "".join(file.read_text() for file in files if file.exists()).splitlines()
    return [json.loads(line)["number"] for line in lines]


async def next_time(auditing: Auditing) -> None:
    auditing.write_soon()
    assert auditing._writing is not None
    await auditing._writing


@pytest.mark.parametrize("room", [0, 100])
async def test_lines_that_the_disk_refuses_are_written_once_it_takes_them(
    tmp_path: Path, disk: Disk, room: int
) -> None:
    """Also where it took a part of them: each line is there once, and whole."""
    auditing = Auditing(Limits(), Trail(tmp_path, 1_000_000))
    noted(auditing, 3)
    await next_time(auditing)
    disk.full, disk.room = True, room
    noted(auditing, 200)
    await next_time(auditing)
    assert written(tmp_path) == [1, 2, 3]
    disk.full = False
    await next_time(auditing)
    assert written(tmp_path) == list(range(1, 204))
    assert auditing.lost == 0


async def test_no_more_of_them_wait_than_the_bound_and_what_is_given_up_is_counted(
    tmp_path: Path, disk: Disk
) -> None:
    auditing = Auditing(Limits(max_audit_entries=50), Trail(tmp_path, 1_000_000))
    noted(auditing, 10)
    await next_time(auditing)
    disk.full = True
    for _ in range(3):
        noted(auditing, 40)
        await next_time(auditing)
    noted(auditing, 90)
    await next_time(auditing)
    assert len(auditing._waiting) == 50
    assert auditing.lost == 120 + 90 - 50
    disk.full = False
    noted(auditing, 5)
    await auditing.close()
    assert written(tmp_path) == [*range(1, 11), *range(176, 226)]
    assert auditing.lost == 165


async def test_lines_of_an_earlier_run_count_for_nothing(tmp_path: Path, disk: Disk) -> None:
    first = Auditing(Limits(), Trail(tmp_path, 1_000_000))
    noted(first, 4)
    await first.close()
    again = Auditing(Limits(), Trail(tmp_path, 1_000_000))
    again.remember()
    noted(again, 2)
    await again.close()
    assert written(tmp_path) == list(range(1, 7))
    assert again.lost == 0


async def test_lines_that_wait_at_the_end_are_told(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    auditing = Auditing(Limits(), Trail(tmp_path, 1_000_000))
    disk.full = True
    noted(auditing, 7)
    await auditing.close()
    told = [each for each in caplog.records if each.getMessage() == "audit lines are lost"]
    assert [each.__dict__["data"] for each in told] == [{"lines": 7}]


async def test_what_has_waited_long_fits_into_small_files(tmp_path: Path, disk: Disk) -> None:
    auditing = Auditing(Limits(), Trail(tmp_path, 80_000))
    disk.full = True
    noted(auditing, 5_000)
    await next_time(auditing)
    disk.full = False
    await next_time(auditing)
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 80_000
    numbers = written(tmp_path)
    assert numbers == list(range(numbers[0], 5_001))
