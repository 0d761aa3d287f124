"""Output as events: whole characters, exact offsets, gaps told, never an end before the end."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages.base import Encoding, Event, Gap
from protocol.messages.commands import Stderr, Stdout
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process
from toolserver.tools import follow as module
from toolserver.tools.call import Call
from toolserver.tools.follow import follow, text_of, whole_characters

PIECE = 8


class Program:
    """Stands in for a process: two logs and an end."""

    def __init__(self, directory: Path, kept: int = 1 << 20) -> None:
        self.stdout, self.stderr = OutputLog(directory, kept), OutputLog(directory, kept)
        self._ended = asyncio.Event()

    async def wait(self) -> None:
        await self._ended.wait()

    def end(self) -> None:
        self.stdout.settle()
        self.stderr.settle()
        self._ended.set()


async def followed(
    program: Program, offsets: tuple[int, int] = (0, 0), encoding: Encoding = Encoding.UTF8
) -> list[Event]:
    events: list[Event] = []

    async def emit(event: Event) -> None:
        events.append(event)
        await asyncio.sleep(0)

    await follow(cast(Process, program), Call("r", emit), offsets, encoding)
    return events


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", PIECE)


@given(st.text(st.sampled_from("aé漢😀\n"), max_size=40), st.data())
def test_any_text_in_any_pieces_comes_out_whole(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=6).map(sorted))
    pieces = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    late = data.draw(st.booleans(), "the program has ended before anybody reads")

    async def run() -> list[Event]:
        program = Program(Path("/nowhere"))
        if late:
            for piece in pieces:
                program.stdout.append(piece)
            program.end()
            return await followed(program)
        following = asyncio.create_task(followed(program))
        for piece in pieces:
            await asyncio.sleep(0)
            program.stdout.append(piece)
        await asyncio.sleep(0)
        program.end()
        return await following

    events = [event for event in asyncio.run(run()) if isinstance(event, Stdout)]
    assert "".join(event.data for event in events) == text
    position = 0
    for event in events:
        assert event.offset == position
        assert 0 < len(event.data.encode()) <= PIECE
        position += len(event.data.encode())


@given(st.binary(max_size=40))
def test_a_cut_leaves_at_most_one_begun_character(data: bytes) -> None:
    count = whole_characters(data)
    assert 0 <= len(data) - count <= 3
    rest = data[count:]
    if rest:
        # What is held back can still become a character, and nothing before it is held back.
        with pytest.raises(UnicodeDecodeError, match=r"unexpected end of data|invalid"):
            rest.decode()


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
def test_every_beginning_of_a_character_is_held_back(character: str) -> None:
    encoded = character.encode()
    for cut in range(1, len(encoded)):
        assert whole_characters(b"ab" + encoded[:cut]) == 2
    assert whole_characters(b"ab" + encoded) == 2 + len(encoded)


async def test_bytes_that_are_no_text_become_the_replacement_character(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"a\xffb\xc3")
    program.end()
    assert await followed(program) == [Stdout(offset=0, next_offset=4, data="a\ufffdb\ufffd")]


async def test_base64_is_exact(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"\xff\xc3\x00")
    program.end()
    events = await followed(program, encoding=Encoding.BASE64)
    assert events == [Stdout(offset=0, next_offset=3, data=base64.b64encode(b"\xff\xc3\x00").decode())]
    assert text_of(b"\xff", Encoding.BASE64) == "/w=="


async def test_following_goes_on_from_an_offset_per_stream(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"0123")
    program.stderr.append(b"abcd")
    program.end()
    events = await followed(program, (3, 1))
    assert sorted(events, key=lambda event: type(event).__name__) == [
        Stderr(offset=1, next_offset=4, data="bcd"),
        Stdout(offset=3, next_offset=4, data="3"),
    ]


async def test_an_offset_past_the_end_gives_nothing(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"0123")
    program.end()
    assert await followed(program, (99, 0)) == []


async def test_what_is_no_longer_kept_is_told_as_a_gap(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"0123")
    program.stdout.release()
    program.stdout.append(b"45")
    program.end()
    assert await followed(program, (1, 0)) == [
        Gap(stream="stdout", offset=1, missing_bytes=3),
        Stdout(offset=4, next_offset=6, data="45"),
    ]


async def test_a_late_reader_gets_what_children_wrote_after_the_end_too(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"own")
    program.end()
    program.stdout.append(b" and a child's, long after it")
    events = await followed(program)
    text = "".join(event.data for event in events if isinstance(event, Stdout))
    assert text == "own and a child's, long after it"


async def test_a_child_that_never_stops_writing_holds_nobody_up(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.stdout.append(b"own")
    program.end()
    read: list[Event] = []

    async def emit(event: Event) -> None:
        read.append(event)
        program.stdout.append(b"more")

    await follow(cast(Process, program), Call("r", emit), (0, 0), Encoding.UTF8)
    assert read == [Stdout(offset=0, next_offset=3, data="own")]


async def test_a_held_back_byte_is_given_at_the_end(tmp_path: Path) -> None:
    program = Program(tmp_path)
    following = asyncio.create_task(followed(program))
    program.stdout.append(b"a\xe6")
    for _ in range(5):
        await asyncio.sleep(0)
    program.end()
    assert await following == [
        Stdout(offset=0, next_offset=1, data="a"),
        Stdout(offset=1, next_offset=2, data="\ufffd"),
    ]
