"""What a process wrote: the same bytes whatever the pieces, and what is lost is told to the byte."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolserver.system.disks import on_the_disk
from toolserver.system import output, spill
from toolserver.system.output import OutputLog, put_older_away

MEMORY = 64
RING = 100
HEAD = 16


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MEMORY_BYTES", MEMORY)
    monkeypatch.setattr(output, "SPILL_BYTES", 0)
    monkeypatch.setattr(output, "CHUNK_BYTES", 8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


@pytest.fixture
def log(directory: Path) -> Iterator[OutputLog]:
    log = OutputLog(directory, RING, HEAD)
    yield log
    log.release()


def numbered(count: int, start: int = 0) -> bytes:
    """Bytes that tell their own offset, so that none can stand in another's place."""
    return bytes((offset * 7 + offset // 251) % 251 for offset in range(start, start + count))


def everything(log: OutputLog, offset: int = 0, step: int = 13) -> tuple[bytes, int, int]:
    """(all bytes from the first one kept on, its offset, how many are missing before it), read in steps."""
    parts = []
    first = log.read(offset, step)
    piece = first
    while piece.data:
        assert len(piece.data) == min(step, log.end - piece.offset)
        parts.append(piece.data)
        piece = log.read(piece.offset + len(piece.data), step)
        assert not piece.missing
    return b"".join(parts), first.offset, first.missing


splits = st.lists(st.integers(0, 40), max_size=30)
# A module's fixture serves all examples: each log makes its own unlinked file in the directory.


@given(splits, st.integers(0, 300), st.integers(1, 200))
def test_any_split_of_appends_and_any_read_give_the_same_bytes(
    directory: Path, sizes: list[int], offset: int, step: int
) -> None:
    log = OutputLog(directory, RING, HEAD)
    for size in sizes:
        log.append(numbered(size, log.end))
        kept, first, missing = everything(log, min(offset, log.end), step)
        assert kept == numbered(log.end - first, first)
        assert missing == first - min(offset, log.end)
    total = sum(sizes)
    assert log.end == total
    assert log.start <= max(0, total - RING)
    assert log.start == 0 or total > RING
    log.release()


@given(splits, st.integers(0, 400))
def test_the_two_ends_and_what_lies_between_make_the_whole(
    directory: Path, sizes: list[int], max_bytes: int
) -> None:
    log = OutputLog(directory, RING, HEAD)
    for size in sizes:
        log.append(numbered(size, log.end))
    whole = numbered(log.end)
    head, tail, omitted = log.ends(max_bytes)
    assert len(head) + omitted + len(tail) == log.end
    assert len(head) + len(tail) <= max_bytes
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert omitted == 0 or log.end > max_bytes or log.start > 0
    log.release()


@given(st.lists(st.sampled_from(["append", "fail", "heal"]) | st.integers(1, 40), max_size=40))
def test_when_the_disk_is_full_the_loss_is_told_and_no_wrong_byte_is_read(
    directory: Path, steps: list[str | int]
) -> None:
    log = OutputLog(directory, RING, HEAD)
    with pytest.MonkeyPatch.context() as patch:
        for step in steps:
            if step == "fail":
                patch.setattr(os, "pwritev", _full)
            elif step == "heal":
                patch.undo()
                patch.setattr(output, "MEMORY_BYTES", MEMORY)
                patch.setattr(output, "SPILL_BYTES", 0)
            elif isinstance(step, int):
                log.append(numbered(step, log.end))
            # First while it may be on its way, then once the disk has had its say.
            now = log.read(0, log.end)
            assert (now.data, now.missing) == (numbered(log.end - now.offset, now.offset), now.offset)
            on_the_disk()
            kept, first, missing = everything(log)
            assert (kept, missing) == (numbered(log.end - first, first), first)
            assert first == log.start
    log.release()


def _full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_directory_that_takes_no_file_costs_old_bytes_and_nothing_else(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "missing", RING, HEAD)
    for _ in range(10):
        log.append(numbered(40, log.end))
        on_the_disk()
    kept, first, _ = everything(log)
    assert log.end == 400
    assert kept == numbered(400 - first, first)
    assert first == log.start > 0


def test_nothing_is_left_in_the_directory(log: OutputLog, directory: Path) -> None:
    for _ in range(10):
        log.append(numbered(40, log.end))
    on_the_disk()
    assert list(directory.iterdir()) == []


def test_many_small_appends_are_kept_in_few_pieces(log: OutputLog) -> None:
    for _ in range(MEMORY):
        log.append(b"x")
    assert len(log._memory) <= MEMORY / output.CHUNK_BYTES + 1
    assert log.read(0, 1000).data == b"x" * MEMORY


@given(splits, splits, st.integers(0, 300), st.integers(1, 200))
def test_output_that_is_put_away_is_the_same_and_costs_no_memory(
    directory: Path, sizes: list[int], late: list[int], offset: int, step: int
) -> None:
    log = OutputLog(directory, RING, HEAD)
    for size in sizes:
        log.append(numbered(size, log.end))
    log.settle()
    log.put_away()
    assert log.memory_bytes <= (HEAD if log.start else 0)
    head, tail, omitted = log.ends(step)
    assert len(head) + omitted + len(tail) == log.end
    assert numbered(log.end).startswith(head)
    assert numbered(log.end).endswith(tail)
    assert omitted == 0 or log.end > step or log.start > 0
    for size in late:
        log.append(numbered(size, log.end))
        log.put_away()
    kept, first, missing = everything(log, min(offset, log.end), step)
    assert kept == numbered(log.end - first, first)
    assert missing == first - min(offset, log.end)
    assert log.start <= max(0, log.end - RING)
    log.release()


def test_output_stays_in_memory_while_it_is_written_read_or_has_no_disk(
    log: OutputLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(numbered(40))
    log.put_away()
    assert log.memory_bytes == 40 + HEAD
    log.settle()
    with log.being_read():
        log.put_away()
        assert log.memory_bytes == 40 + HEAD
    monkeypatch.setattr(spill.Writer, "stuck", True)
    log.put_away()
    assert log.memory_bytes == 40 + HEAD


def test_the_newest_that_fit_stay_in_memory_and_small_ones_anyway(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_LEFT_BYTES", 4)
    logs = [OutputLog(directory, RING, HEAD) for _ in range(4)]
    for log, size in zip(logs, (30, 40, 2, 20), strict=True):
        log.append(numbered(size))
        log.settle()
    put_older_away(reversed(logs), room=20 + HEAD + 4)
    assert [log.memory_bytes for log in logs] == [0, 0, 4, 20 + HEAD]
    assert [everything(log)[0] for log in logs] == [numbered(size) for size in (30, 40, 2, 20)]
    for log in logs:
        log.release()


def test_a_released_log_tells_a_gap(log: OutputLog) -> None:
    log.append(numbered(200))
    log.release()
    assert log.read(5, 10) == output.Piece(200, b"", 195)
    log.append(b"later")
    assert log.read(0, 100) == output.Piece(200, b"later", 200)


def test_a_released_log_that_spills_again_gives_no_old_bytes(log: OutputLog) -> None:
    log.append(numbered(200))
    log.release()
    for _ in range(4):
        log.append(numbered(30, log.end))
    kept, first, missing = everything(log)
    assert (kept, first, missing) == (numbered(120, 200), 200, 200)


def test_nothing_newer_is_an_empty_piece(log: OutputLog) -> None:
    log.append(b"abc")
    assert log.read(3, 10) == output.Piece(3, b"", 0)
    assert log.read(99, 10) == output.Piece(3, b"", 0)


async def test_a_reader_waits_for_bytes(log: OutputLog) -> None:
    waiting = asyncio.create_task(log.wait_past(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    log.append(b"x")
    await waiting


async def test_a_reader_does_not_wait_past_the_end_of_the_program(log: OutputLog) -> None:
    waiting = [asyncio.create_task(log.wait_past(0)), asyncio.create_task(log.wait_settled())]
    open_still = asyncio.create_task(log.wait_closed(0))
    await asyncio.sleep(0)
    log.settle()
    await asyncio.gather(*waiting)
    assert not open_still.done()
    log.close()
    await open_still


def test_the_end_of_the_program_is_marked_once(log: OutputLog) -> None:
    log.append(b"abc")
    log.settle()
    log.append(b"of a child")
    log.close()
    assert (log.settled, log.closed, log.end) == (3, True, 13)


def test_an_abandoned_log_counts_and_keeps_nothing(log: OutputLog) -> None:
    """Children of a program whose record is gone may write for ever: nobody can read it."""
    log.append(numbered(200))
    log.abandon()
    for _ in range(50):
        log.append(numbered(40, log.end))
    assert (log.end, log.start, log.kept_bytes) == (2200, 2200, 0)
    assert log.read(0, 10) == output.Piece(2200, b"", 2200)


@given(splits)
def test_what_is_kept_is_counted(directory: Path, sizes: list[int]) -> None:
    log = OutputLog(directory, RING, HEAD)
    for size in sizes:
        log.append(numbered(size, log.end))
    assert log.kept_bytes == len(everything(log)[0]) + min(log.end, HEAD)
    log.release()


def test_somebody_reads_it_until_the_last_one_leaves(log: OutputLog) -> None:
    with log.being_read():
        with log.being_read():
            pass
        assert log.followed
    assert not log.followed


def test_it_is_full_while_a_reader_that_is_waited_for_is_behind(log: OutputLog) -> None:
    told: list[str] = []
    log.wait_for("reader", 0)
    log.append(numbered(MEMORY - 1))
    assert (log.full, told) == (False, [])
    log.append(numbered(1, log.end))
    log.when_room(lambda: told.append("room"))
    log.wait_for("other", 60)
    assert (log.full, told) == (True, [])
    log.wait_for("reader", 1)
    assert (log.full, told) == (False, ["room"])
    log.append(numbered(9, log.end))
    log.when_room(lambda: told.append("again"))
    assert (log.full, told) == (True, ["room"])
    log.let_go("reader")
    assert (log.full, told) == (False, ["room", "again"])


def test_nobody_waits_for_a_reader_once_the_program_has_ended(log: OutputLog) -> None:
    told: list[str] = []
    log.wait_for("reader", 0)
    log.append(numbered(200))
    log.when_room(lambda: told.append("room"))
    log.settle()
    assert (log.full, told) == (False, ["room"])
