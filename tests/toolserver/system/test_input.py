"""What a program is fed: in order, bounded, and never twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Busy, Conflict
from protocol.limits import Limits
from tests.builder import exactly
from toolserver.system.input import Input

LIMITS = Limits(max_queued_input_bytes=1000, max_waiting_input_bytes=5000)


@dataclass
class Fed:
    """An input, and the program's end of its pipe."""

    input: Input
    end: int
    closed: list[Input] = field(default_factory=list)

    def read(self, count: int = 1 << 20) -> bytes:
        return os.read(self.end, count)

    def fill(self) -> bytes:
        """Until the pipe itself takes no more: what was written."""
        filler = b""
        while not self.input.queued:
            self.input.put(b"f" * 4096)
            filler += b"f" * 4096
        return filler


@pytest.fixture
async def fed() -> AsyncIterator[Fed]:
    read, write = os.pipe()
    closed: list[Input] = []
    fed = Fed(Input(write, LIMITS, terminal=False, on_closed=closed.append), read, closed)
    yield fed
    fed.input.close()
    os.close(read)


async def test_what_is_fed_is_read(fed: Fed) -> None:
    assert await fed.input.feed(b"abc") == 3
    assert await fed.input.feed(b"def", eof=True) == 3
    assert (fed.read(), fed.read()) == (b"abcdef", b"")
    assert (fed.input.taken, fed.input.queued, fed.input.open) == (6, 0, False)
    assert fed.closed == [fed.input]


async def test_more_than_the_program_reads_is_taken_up_to_the_bound(fed: Fed) -> None:
    fed.fill()
    before = fed.input.queued
    taken = await fed.input.feed(b"x" * 10_000)
    assert taken == max(0, LIMITS.max_queued_input_bytes - before)
    assert fed.input.queued <= max(before, LIMITS.max_queued_input_bytes)


async def test_who_feeds_waits_for_room_and_keeps_the_order(fed: Fed) -> None:
    filler = fed.fill()
    first = asyncio.create_task(fed.input.feed(b"1" * 2500, seconds=60))
    second = asyncio.create_task(fed.input.feed(b"2" * 2500, eof=True, seconds=60))
    read = b""
    while chunk := await asyncio.to_thread(fed.read, 4096):
        read += chunk
    assert (await first, await second) == (2500, 2500)
    assert read == filler + b"1" * 2500 + b"2" * 2500


async def test_too_much_that_waits_is_refused(fed: Fed) -> None:
    fed.fill()
    waiting = asyncio.create_task(fed.input.feed(b"1" * 4000, seconds=60))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="4000 bytes wait for this command already, the limit is 5000"):
        await fed.input.feed(b"2" * 1001)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await fed.input.feed(b"") == 0


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 50)), max_size=12))
def test_a_piece_sent_again_by_its_offset_is_taken_once(pieces: list[tuple[int, int]]) -> None:
    """Each piece is sent twice, the second time from some bytes earlier on."""
    whole = bytes(n % 251 for n in range(sum(size for size, _ in pieces)))

    async def run() -> bytes:
        read, write = os.pipe()
        input = Input(write, Limits(), terminal=False, on_closed=lambda _: None)
        at = 0
        for size, back in pieces:
            assert await input.feed(whole[at : at + size], offset=at) == size
            again = max(0, at - back)
            assert await input.feed(whole[again : at + size], offset=again) == at + size - again
            at += size
            assert input.taken == at
        input.end()
        with os.fdopen(read, "rb") as file:
            return file.read()

    assert asyncio.run(run()) == whole


async def test_an_offset_that_leaves_a_gap_is_told(fed: Fed) -> None:
    await fed.input.feed(b"abc")
    with pytest.raises(
        Conflict, match="offset 5 leaves a gap: 3 bytes were taken so far; go on from there"
    ) as told:
        await fed.input.feed(b"x", offset=5)
    assert told.value.details == {"nextOffset": 3}


async def test_after_its_end_nothing_is_taken_but_a_repeated_end(fed: Fed) -> None:
    await fed.input.feed(b"abc", offset=0, eof=True)
    assert await fed.input.feed(b"abc", offset=0, eof=True) == 3
    sentence = "standard input takes no more: its end was sent (3 bytes were taken)"
    with pytest.raises(Conflict, match=exactly(sentence)):
        await fed.input.feed(b"d")


async def test_a_program_that_closes_its_input_is_told_of() -> None:
    read, write = os.pipe()
    input = Input(write, LIMITS, terminal=False, on_closed=lambda _: None)
    os.close(read)
    await input.feed(b"x")
    assert not input.open
    sentence = "standard input takes no more: the program closed it (1 bytes were taken)"
    with pytest.raises(Conflict, match=exactly(sentence)):
        await input.feed(b"x")


async def test_who_waits_learns_that_the_program_ended(fed: Fed) -> None:
    fed.fill()
    waiting = asyncio.create_task(fed.input.feed(b"1" * 4000, seconds=60))
    await asyncio.sleep(0)
    fed.input.program_ended()
    assert await waiting < 4000
    with pytest.raises(Conflict, match="the program has ended"):
        await fed.input.feed(b"x")


async def test_what_is_queued_when_the_program_ends_is_still_for_its_children(fed: Fed) -> None:
    filler = fed.fill()
    fed.input.program_ended()
    read = b""
    while chunk := await asyncio.to_thread(fed.read, 4096):
        read += chunk
    assert read == filler


async def test_the_end_is_typed_on_a_terminal() -> None:
    ours, theirs = os.openpty()
    input = Input(os.dup(ours), LIMITS, terminal=True, on_closed=lambda _: None)
    await input.feed(b"line\n", eof=True)
    assert (os.read(theirs, 100), os.read(theirs, 100)) == (b"line\n", b"")
    await input.feed(b"more\n")
    assert os.read(theirs, 100) == b"more\n"
    input.program_ended()
    with pytest.raises(Conflict, match="the program has ended"):
        await input.feed(b"x")
    os.close(ours)
    os.close(theirs)
