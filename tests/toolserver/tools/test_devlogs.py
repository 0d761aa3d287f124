"""The dev server's log: runs one after the other, numbered through, and told when a part is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from protocol.messages.base import Event, Log
from toolserver.system.output import OutputLog
from toolserver.tools.call import Call
from toolserver.tools.devlogs import DevLog


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def run(directory: Path, data: bytes) -> OutputLog:
    output = OutputLog(directory, 1024 * 1024)
    output.append(data)
    return output


async def test_a_read_begins_in_the_run_that_has_the_offset(directory: Path) -> None:
    log = DevLog()
    log.begin(run(directory, b"one\n"))
    log.go_on(run(directory, b""))
    log.go_on(run(directory, b"three\n"))
    pieces = [log.read(offset, 100) for offset in (0, 3, 4, 6, 10, 99)]
    assert [(each.offset, each.data) for each in pieces] == [
        (0, b"one\n"), (3, b"\n"), (4, b"three\n"), (6, b"ree\n"), (10, b""), (10, b""),
    ]  # fmt: skip
    assert log.read(0, 2).data == b"on"
    assert (log.end, log.begin_of_run) == (10, 4)


async def test_one_read_goes_on_over_all_runs(directory: Path) -> None:
    log, second = DevLog(), run(directory, b"two\n")
    log.begin(run(directory, b"one\n"))
    log.go_on(second)
    log.go_on(run(directory, "drei €\n".encode()))
    whole = "one\ntwo\ndrei €\n".encode()
    assert [log.read_on(offset, 100).data for offset in (0, 6, 99)] == [whole, whole[6:], b""]
    assert log.read_on(2, 4).data == whole[2:6]
    assert log.read_on(0, len(whole) - 2).data == b"one\ntwo\ndrei "
    assert log.read_on(13, 2).data == "€".encode()[:2]
    second.abandon()
    pieces = [log.read_on(offset, 100) for offset in (0, 4)]
    assert [(each.offset, each.data, each.missing) for each in pieces] == [
        (0, b"one\n", 0), (8, "drei €\n".encode(), 4),
    ]  # fmt: skip


async def test_what_a_run_leaves_behind_comes_too_late_for_the_next_ones_place(directory: Path) -> None:
    log, first = DevLog(), run(directory, b"one\n")
    log.begin(first)
    log.go_on(run(directory, b"two\n"))
    first.append(b"late\n")
    assert log.read(4, 100).data == b"two\n"
    assert log.read(0, 100).data == b"one\n"


async def test_runs_that_are_no_longer_kept_are_a_gap(directory: Path) -> None:
    log = DevLog()
    log.begin(run(directory, b"0\n"))
    for count in range(1, 30):
        log.go_on(run(directory, b"%d\n" % (count % 10)))
    piece = log.read(0, 100)
    assert (piece.offset, piece.data, piece.missing) == (20, b"0\n", 20)


async def test_a_record_that_was_dropped_is_a_gap(directory: Path) -> None:
    log, first = DevLog(), run(directory, b"one\n")
    log.begin(first)
    log.go_on(run(directory, b"two\n"))
    first.abandon()
    piece = log.read(1, 100)
    assert (piece.offset, piece.data, piece.missing) == (4, b"two\n", 3)


async def test_a_follower_gets_whole_characters_and_every_run(directory: Path) -> None:
    log, first, told = DevLog(), run(directory, "a€".encode()[:2]), list[Log]()
    second = run(directory, b"two\n")
    runs = [second]

    async def emit(event: Event) -> None:
        assert isinstance(event, Log)
        told.append(event)

    async def next_run() -> bool:
        if not runs:
            return False
        log.go_on(runs.pop())
        second.close()
        return True

    log.begin(first)
    following = asyncio.create_task(log.follow(Call("r", emit), 0, next_run))
    async with asyncio.timeout(30):
        while not told:
            await asyncio.sleep(0)
        first.append("€".encode()[1:])
        first.append("€".encode()[:1])
        first.close()
        assert await following == 9
    assert [(each.text, each.next_offset) for each in told] == [("a", 1), ("€\ufffd", 5), ("two\n", 9)]
