"""What a terminal shows, drawn again elsewhere: a terminal fed with the drawing shows the same."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolserver.system.output import OutputLog
from toolserver.system.screen import Screen, whole_cells
from toolserver.system.viewing import View

COLS, ROWS = 20, 5
JUNK = b"junk\x1b[31mred\x1b[?1049hother\x1b[2;3r\x1b[5;5H"


def shown(screen: Screen) -> tuple[Any, ...]:
    """Everything that a person could see."""
    inner = screen._screen
    cells = [whole_cells(inner.buffer[y], inner.columns) for y in range(inner.lines)]
    cursor = inner.cursor
    return cells, (cursor.x, cursor.y, cursor.hidden), cursor.attrs._replace(data=" ")


def text(screen: Screen) -> list[str]:
    return [line.rstrip() for line in screen._screen.display]


def fed(*data: bytes, cols: int = COLS, rows: int = ROWS) -> Screen:
    screen = Screen(cols, rows)
    for each in data:
        screen.feed(each)
    return screen


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello\r\n\x1b[1;32mgreen\x1b[44m on blue   \x1b[0m\r\nx\x1b[?25l",
        "漢字 é\r\n\x1b[38;5;200mcolour\x1b[95mx\x1b[105my\x1b[38;2;1;2;3mz".encode(),
        b"x" * COLS,
        "漢字漢字漢字漢字漢字".encode(),
        b"1\r\n2\r\n3\r\n4\r\n5\r\n6",
        b"\x1b[2;4r\x1b[3;3Hin a region",
        b"main\x1b[?1049h\x1b[2J\x1b[Halternate",
        b"main\x1b[?1049hgone\x1b[?1049l back",
        b"\x1b[3m\x1b[4m\x1b[7m\x1b[9mall\x1b[27m of it",
        b"\x1b[>4;2m\x1b[?4m\x1b[?6n\x1b[6nplain",
        b"\x1b]2;a title\x07\x1b[?2004h\x1b[?1hmodes",
    ],
)
def test_a_drawing_shows_the_same_whatever_was_there(data: bytes) -> None:
    screen = fed(data)
    assert shown(fed(JUNK, screen.drawn())) == shown(screen)


PIECES = st.sampled_from(
    [
        *("a", "word ", "漢", "é", "\r\n", "\r", "\n", "\t", "\b", "\x1b[A", "\x1b[2B", "\x1b[3C", "\x1b[4D"),
        *("\x1b[H", "\x1b[2;3H", "\x1b[J", "\x1b[1J", "\x1b[2J", "\x1b[K", "\x1b[1K", "\x1b[L", "\x1b[M"),
        *("\x1b[P", "\x1b[2@", "\x1b[X", "\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[42m", "\x1b[7m", "\x1b[97m"),
        *("\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h", "\x1bM", "\x1bD", "\x1b7", "\x1b8"),
    ]
)


@given(st.lists(PIECES, max_size=60))
def test_any_drawing_shows_the_same(pieces: list[str]) -> None:
    screen = fed("".join(pieces).encode())
    assert shown(fed(JUNK, screen.drawn())) == shown(screen)


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    screen = fed(data, b"\x18\x1b[2J\x1b[Hstill here")
    screen.drawn()


def test_what_the_alternate_screen_covers_comes_back_also_for_who_saw_only_the_drawing() -> None:
    screen = fed(b"main\x1b[?1049h\x1b[2J\x1b[Halternate")
    late = fed(screen.drawn())
    for each in (screen, late):
        each.feed(b"\x1b[?1049l")
    assert text(late) == text(screen) == ["main", "", "", "", ""]


def test_a_smaller_terminal_loses_the_top() -> None:
    screen = fed(b"1\r\n2\r\n3\r\n4\r\n5")
    screen.resize(3, 2)
    assert text(screen) == ["4", "5"]
    assert shown(fed(screen.drawn(), cols=3, rows=2)) == shown(screen)


def view_of(directory: Path, *pieces: bytes) -> View:
    log = OutputLog(directory, 64 * 1024 * 1024)
    for each in pieces:
        log.append(each)
    return View(log, (COLS, ROWS))


async def test_a_look_after_much_output_shows_its_end(tmp_path: Path) -> None:
    lines = b"".join(b"\x1b[3%dmline %d\x1b[0m\r\n" % (number % 8, number) for number in range(60_000))
    view = view_of(tmp_path, b"\x1b[?2004h\x1b[?1049h", lines)
    drawing = await view.drawing()
    assert drawing.offset == len(lines) + 16
    late = fed(drawing.data)
    assert text(late) == ["line 59996", "line 59997", "line 59998", "line 59999", ""]
    # What was skipped has still set the modes.
    assert b"\x1b[?2004h" in drawing.data
    assert b"\x1b[?1049h" in drawing.data


async def test_looks_go_on_where_the_last_one_was(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, 1024 * 1024)
    view = View(log, (COLS, ROWS))
    log.append("é".encode()[:1])
    assert (await view.drawing()).offset == 0
    log.append("é".encode()[1:] + b"\r\nnext")
    drawing = await view.drawing()
    assert drawing.offset == 8
    assert text(fed(drawing.data)) == ["é", "next", "", "", ""]


async def test_a_size_counts_from_its_byte_on(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, 1024 * 1024)
    view = View(log, (COLS, ROWS))
    log.append(b"x" * 12 + b"\r\n")
    view.resize((10, 3))
    log.append(b"y" * 12)
    drawing = await view.drawing()
    assert (drawing.cols, drawing.rows) == (10, 3)
    assert text(fed(drawing.data, cols=10, rows=3)) == ["x" * 10, "y" * 10, "yy"]


async def test_looks_at_the_same_time_show_the_same(tmp_path: Path) -> None:
    view = view_of(tmp_path, b"hello\r\nworld")
    drawings = await asyncio.gather(*(view.drawing() for _ in range(5)))
    assert len(set(drawings)) == 1


async def test_a_look_that_nobody_waits_for_any_more_keeps_its_turn_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    feed = Screen.feed

    def slow(screen: Screen, data: bytes) -> None:
        begun.set()
        assert go_on.wait(60)
        feed(screen, data)

    view = view_of(tmp_path, b"hello\r\n")
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "feed", slow)
        first = asyncio.create_task(view.drawing())
        assert await asyncio.to_thread(begun.wait, 60)
        first.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not first.done()
        view._log.append(b"world")
        second = asyncio.create_task(view.drawing())
        go_on.set()
        async with asyncio.timeout(60):
            drawing = await second
            await asyncio.wait([first])
    assert first.cancelled()
    assert text(fed(drawing.data)) == ["hello", "world", "", "", ""]
