"""Whatever the pieces and reconnects: every byte comes once, or is in a gap of the exact size."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages.base import Encoding, Event, Gap, GapReason
from protocol.messages.commands import Stderr, Stdout, WhenSlow
from tests.builder import some_turns
from toolserver.system import output
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process
from toolserver.tools import follow as module
from toolserver.tools.call import Call
from toolserver.tools.follow import Pace, follow

MEMORY, RING, LAG = 32, 100, 24

Step = int | Literal["read", "reconnect"]
"""Bytes that the program writes; one event that the reader takes; a lost socket and a new one."""

steps = st.lists(st.integers(1, 60) | st.sampled_from(["read", "read", "reconnect"]), max_size=40)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MEMORY_BYTES", MEMORY)
    monkeypatch.setattr(output, "SPILL_BYTES", 0)
    monkeypatch.setattr(output, "CHUNK_BYTES", 8)
    monkeypatch.setattr(module, "PIECE_BYTES", 10)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


class Program:
    """Stands in for a process: two logs and an end."""

    def __init__(self, directory: Path) -> None:
        self.stdout, self.stderr = OutputLog(directory, RING, 16), OutputLog(directory, RING, 16)
        self._ended = asyncio.Event()

    async def wait(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        self.stdout.close()
        self.stderr.close()
        self._ended.set()


class Reader:
    """Follows by one connection after the other; takes an event only when it is let."""

    def __init__(self, program: Program, pace: Pace, encoding: Encoding) -> None:
        self.position = 0
        self.data = bytearray()
        self.gaps: list[Gap] = []
        self._program, self._pace, self._encoding = program, pace, encoding
        self._leave = asyncio.Semaphore(0)
        self._task = self._connect()

    def _connect(self) -> asyncio.Task[None]:
        call = Call("r", self._take)
        offsets = self.position, 0
        following = follow(cast(Process, self._program), call, offsets, self._encoding, self._pace)
        return asyncio.create_task(following)

    async def _take(self, event: Event) -> None:
        await self._leave.acquire()
        assert isinstance(event, Stdout | Stderr | Gap)
        assert event.offset == self.position
        if isinstance(event, Gap):
            self.gaps.append(event)
            self.data += b"?" * event.missing_bytes
            self.position += event.missing_bytes
            return
        if self._encoding is Encoding.BASE64:
            assert len(base64.b64decode(event.data)) == event.next_offset - event.offset
            self.data += base64.b64decode(event.data)
        else:
            self.data += event.data.encode()
        self.position = event.next_offset

    async def read(self) -> None:
        self._leave.release()
        await some_turns()

    async def reconnect(self) -> None:
        await self.close()
        self._task = self._connect()
        await some_turns()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def finish(self) -> None:
        for _ in range(10_000):
            self._leave.release()
        await self._task


def numbered(offset: int, count: int) -> bytes:
    return bytes((n * 7 + n // 251) % 251 for n in range(offset, offset + count))


async def played(
    directory: Path, steps: list[Step], pace: Pace, program_waits: bool = False
) -> tuple[bytes, Reader]:
    """(what the program wrote, what came of it)."""
    program = Program(directory)
    reader = Reader(program, pace, Encoding.BASE64)
    await some_turns()
    for step in steps:
        if step == "read":
            await reader.read()
        elif step == "reconnect":
            await reader.reconnect()
        elif isinstance(step, int):
            for _ in range(step):
                while program_waits and program.stdout.full:
                    await reader.read()
                program.stdout.append(numbered(program.stdout.end, 1))
                if program_waits:
                    await some_turns()
            await some_turns()
    program.end()
    await reader.finish()
    written = numbered(0, program.stdout.end)
    program.stdout.release()
    return written, reader


def hold(written: bytes, reader: Reader) -> None:
    """Every byte in its place, but for those of the gaps that were told."""
    assert len(reader.data) == len(written)
    expected = bytearray(written)
    for gap in reader.gaps:
        expected[gap.offset : gap.offset + gap.missing_bytes] = b"?" * gap.missing_bytes
    assert reader.data == expected


@given(steps)
def test_any_split_and_any_reconnect_give_the_same_bytes_or_the_exact_gap(
    directory: Path, steps: list[Step]
) -> None:
    written, reader = asyncio.run(played(directory, steps, Pace()))
    hold(written, reader)
    assert all(gap.reason is GapReason.LOST for gap in reader.gaps)
    # What the ring holds is never missing.
    assert len(written) > RING or not reader.gaps
    assert all(gap.offset + gap.missing_bytes <= len(written) - RING + 10 for gap in reader.gaps)


@given(steps)
def test_a_reader_that_drops_is_never_far_behind_and_is_told_what_it_missed(
    directory: Path, steps: list[Step]
) -> None:
    pace = Pace(WhenSlow.DROP, max_lag_bytes=LAG)
    written, reader = asyncio.run(played(directory, steps, pace))
    hold(written, reader)
    assert all(gap.reason is GapReason.SKIPPED or len(written) > RING for gap in reader.gaps)
    assert len(written) > LAG or not reader.gaps


@given(st.lists(st.integers(1, 60) | st.just("read"), max_size=15))
def test_a_program_that_waits_for_its_reader_loses_nothing(directory: Path, steps: list[Step]) -> None:
    pace = Pace(WhenSlow.WAIT, patience_seconds=60)
    written, reader = asyncio.run(played(directory, steps, pace, program_waits=True))
    assert reader.gaps == []
    assert reader.data == written


async def test_a_reader_that_takes_nothing_is_waited_for_only_so_long(directory: Path) -> None:
    program = Program(directory)
    reader = Reader(program, Pace(WhenSlow.WAIT, patience_seconds=0.5), Encoding.BASE64)
    program.stdout.append(numbered(0, MEMORY))
    await some_turns()
    program.stdout.append(numbered(MEMORY, 1))
    room = asyncio.Event()
    assert program.stdout.full
    program.stdout.when_room(room.set)
    async with asyncio.timeout(30):
        await room.wait()
    program.end()
    await reader.finish()
    assert reader.data == numbered(0, MEMORY + 1)


async def test_a_reader_that_is_gone_is_not_waited_for(directory: Path) -> None:
    program = Program(directory)
    reader = Reader(program, Pace(WhenSlow.WAIT, patience_seconds=60), Encoding.BASE64)
    program.stdout.append(numbered(0, MEMORY))
    await some_turns()
    assert program.stdout.full
    await reader.close()
    assert not program.stdout.full


@given(st.text(st.sampled_from("aé漢😀\n"), max_size=60), st.lists(st.integers(0, 200), max_size=5))
def test_text_read_in_any_connections_is_the_text(directory: Path, text: str, cuts: list[int]) -> None:
    data = text.encode()[:RING].decode(errors="ignore").encode()

    async def run() -> Reader:
        program = Program(directory)
        reader = Reader(program, Pace(), Encoding.UTF8)
        at = 0
        for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
            program.stdout.append(data[at:cut])
            at = cut
            await reader.read()
            await reader.reconnect()
        program.end()
        await reader.finish()
        return reader

    assert asyncio.run(run()).data == data
