"""Old output goes to the disk on a thread: readers see no difference, and a bad disk costs its own bytes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from tests.toolserver.system.disks import held_disk, on_the_disk, open_files_in
from toolserver.system import output, spill
from toolserver.system.output import OutputLog, Piece
from toolserver.system.processes import ProcessTable

MEMORY, RING, FLIGHT = 64, 1000, 200
MIB = 1024 * 1024


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MEMORY_BYTES", MEMORY)
    monkeypatch.setattr(output, "SPILL_BYTES", 0)
    monkeypatch.setattr(output, "CHUNK_BYTES", 8)
    monkeypatch.setattr(spill, "IN_FLIGHT_BYTES", FLIGHT)


@pytest.fixture
def log(tmp_path: Path, small: None) -> Iterator[OutputLog]:
    log = OutputLog(tmp_path, RING, 16)
    yield log
    log.release()
    on_the_disk()
    assert open_files_in(tmp_path) == []


def numbered(count: int, start: int = 0) -> bytes:
    """Bytes that tell their own offset."""
    return bytes((offset * 7 + offset // 251) % 251 for offset in range(start, start + count))


def fill(log: OutputLog, count: int, step: int = 40) -> None:
    for _ in range(count // step):
        log.append(numbered(step, log.end))


@given(st.lists(st.integers(1, 90) | st.sampled_from(["written", "read"]), max_size=40), st.integers(1, 300))
def test_reads_are_the_same_whatever_is_still_on_its_way(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str | int], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "MEMORY_BYTES", 32)
        patch.setattr(output, "SPILL_BYTES", 40)
        patch.setattr(output, "CHUNK_BYTES", 8)
        patch.setattr(spill, "_WRITE_BYTES", 50)
        log = OutputLog(tmp_path_factory.getbasetemp(), size, 16)
        for step in steps:
            if isinstance(step, int):
                log.append(numbered(step, log.end))
            elif step == "written":
                on_the_disk()
            else:
                kept = log.read(0, 10_000)
                assert kept == Piece(log.start, numbered(log.end - log.start, log.start), log.start)
                assert log.end - log.start >= min(size, log.end)
        log.release()


def test_what_the_disk_has_not_taken_yet_is_read_like_the_rest(log: OutputLog) -> None:
    fill(log, 200)
    on_the_disk()
    with held_disk() as disk:
        fill(log, 200)
        assert disk.asked.wait(60)
        assert log.read(0, 1000) == Piece(0, numbered(400), 0)
        assert log.read(150, 70).data == numbered(70, 150)
        assert log.ends(1000) == (numbered(400), b"", 0)


def test_a_log_that_is_released_while_it_is_written_lets_go_of_its_file(
    log: OutputLog, tmp_path: Path
) -> None:
    with held_disk() as disk:
        fill(log, 400)
        assert disk.asked.wait(60)
        log.release()
        assert log.read(0, 10) == Piece(400, b"", 400)
    assert open_files_in(tmp_path) == []


def test_bytes_that_a_full_disk_did_not_take_are_told_as_a_gap(
    log: OutputLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        fill(log, 400)
        on_the_disk()
        kept = log.read(0, 1000)
        assert kept.missing == kept.offset > 0
        assert kept.data == numbered(400 - kept.offset, kept.offset)
    fill(log, 400)
    on_the_disk()
    later = log.read(0, 1000)
    assert kept.offset <= later.offset <= 400
    assert later.data == numbered(800 - later.offset, later.offset)


@pytest.mark.parametrize("left", [0, 30])
def test_a_file_that_somebody_cut_off_is_a_gap(log: OutputLog, tmp_path: Path, left: int) -> None:
    fill(log, 400)
    on_the_disk()
    for each in open_files_in(tmp_path):
        os.truncate(each, left)
    kept = log.read(0, 1000)
    assert kept.missing == kept.offset > 0
    assert kept.data == numbered(400 - kept.offset, kept.offset)
    head, tail, omitted = log.ends(1000)
    assert (head, omitted) == (numbered(16), kept.offset - 16)
    assert tail == kept.data


async def test_the_program_waits_for_a_disk_that_is_slow(log: OutputLog) -> None:
    with held_disk() as disk:
        fill(log, FLIGHT)
        assert (log.full, log.end) == (False, FLIGHT)
        fill(log, 2 * MEMORY + 40)
        assert (log.full, log.end) == (True, FLIGHT + 160)
        room = asyncio.Event()
        log.when_room(room.set)
        assert not room.is_set()
        disk.go_on()
        async with asyncio.timeout(60):
            await room.wait()
    assert log.read(0, 1000).data == numbered(log.end)


@pytest.mark.parametrize("late", [False, True], ids=["since it was full", "since it was told of room"])
async def test_a_program_goes_on_after_the_disk_was_kept_busy_by_others(
    log: OutputLog, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """All streams' bytes count: one may be behind the disk for what the others wrote meanwhile."""
    monkeypatch.setattr(spill, "IN_FLIGHT_IN_ALL_BYTES", 1000)
    writer = spill.the_writer()
    with held_disk() as disk:
        log.wait_for("a reader", 0)
        fill(log, FLIGHT)
        assert log.full
        assert disk.asked.wait(60)
        room = asyncio.Event()
        if late:
            writer.account(1000)
        log.when_room(room.set)
        if not late:
            writer.account(1000)
        else:
            # Told of room by the ring, and by then another has taken it.
            assert log._ring is not None
            told = log._ring._on_room
            assert told is not None
            log._ring._on_room = None
            told()
            await asyncio.sleep(0)
        log.let_go("a reader")
        assert not room.is_set()
        writer.account(-1000)
        disk.go_on()
        async with asyncio.timeout(60):
            await room.wait()


async def test_a_disk_that_takes_nothing_is_waited_for_only_so_long(
    log: OutputLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "PATIENCE_SECONDS", 0.05)
    with held_disk():
        fill(log, 400)
        room = asyncio.Event()
        log.when_room(room.set)
        async with asyncio.timeout(60):
            await room.wait()
        assert not log.full
        fill(log, 4000)
        # No ring is begun on a disk that is known to be stuck, so nobody waits for it again.
        assert not log.full
        kept = log.read(0, 10_000)
        assert kept.missing == kept.offset == 4400 - len(kept.data)
        assert kept.data == numbered(len(kept.data), kept.offset)


async def test_no_command_waits_for_the_disk_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns, others run and end, while one waits for the disk; and that one loses nothing."""
    monkeypatch.setattr(spill, "PATIENCE_SECONDS", 600.0)  # however long the others take here
    table = ProcessTable(Limits(), tmp_path)
    table.open()
    environment = {"PATH": os.environ["PATH"]}
    try:
        with held_disk() as disk:
            asked = asyncio.create_task(asyncio.to_thread(disk.asked.wait, 60))
            loud = table.start(["head", "-c", str(8 * MIB), "/dev/zero"], cwd="/", env=environment)
            async with asyncio.timeout(60):
                assert await asked
                other = table.start(["echo", "there"], cwd="/", env=environment)
                await other.wait()
                assert other.stdout.read(0, 100).data == b"there\n"
                while not loud.stdout.full:
                    await asyncio.sleep(0)
            assert loud.running
            assert loud.stdout.end < 4 * MIB
            disk.go_on()
            async with asyncio.timeout(60):
                await loud.wait()
        head = loud.stdout.read(0, 16 * MIB)
        assert (head.missing, len(head.data)) == (0, 8 * MIB)
    finally:
        await table.close()
