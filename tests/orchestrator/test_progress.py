"""How far a launch is, told to a person."""

from __future__ import annotations

import errno
import io
import sys
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from orchestrator.cli.progress import PlainObserver, Shown, TerminalObserver, plain_lines
from orchestrator.launch import Stage


@pytest.fixture(autouse=True)
def nothing_moves_on() -> Iterator[None]:
    """rich redraws on a thread of its own, which ends once it is told to."""
    yield
    for thread in threading.enumerate():
        if type(thread).__module__ == "rich.live":
            thread.join(60)
            assert not thread.is_alive()


def play(observer: Shown) -> None:
    """A launch."""
    observer.began(Stage.ARCHIVE)
    observer.ended(Stage.ARCHIVE, "3 files, 1.0 KiB", 0.004)
    observer.remark("port 4321 is taken: the dev server gets 8000")
    observer.began(Stage.INSTALL)
    observer.said(Stage.INSTALL, "\x1b[32madded\x1b[0m 12 ")
    observer.said(Stage.INSTALL, "packages\nfound [0] vulnerab")
    observer.said(Stage.INSTALL, "ilities")
    observer.ended(Stage.INSTALL, "", 12.34)
    observer.skipped(Stage.DEV_SERVER, "the workspace has no dev server")
    observer.close()


def test_without_a_terminal_there_are_plain_lines_whole_ones(capsys: pytest.CaptureFixture[str]) -> None:
    play(PlainObserver())
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.splitlines() == [
        "archive: done in 4 ms (3 files, 1.0 KiB)",
        "port 4321 is taken: the dev server gets 8000",
        "install: started",
        "  | added 12 packages",
        "  | found [0] vulnerabilities",
        "install: done in 12.3 s",
        "dev server: skipped, the workspace has no dev server",
    ]


def test_on_a_terminal_each_stage_ends_as_one_ticked_line() -> None:
    screen = io.StringIO()
    play(TerminalObserver(Console(file=screen, force_terminal=True, width=100)))
    last = [line for line in plain_lines(screen.getvalue()) if line.startswith("✓")][-3:]
    assert [" ".join(line.split()) for line in last] == [
        "✓ archive 4 ms, 3 files, 1.0 KiB",
        "✓ install 12.3 s",
        "✓ dev server skipped: the workspace has no dev server",
    ]


def test_a_tools_words_are_never_read_as_markup_or_control() -> None:
    screen = io.StringIO()
    observer = TerminalObserver(Console(file=screen, force_terminal=True, width=100))
    observer.began(Stage.INSTALL)
    observer.said(Stage.INSTALL, "[/red] [bold]x\x1b[2J\x1b]0;title\x07\n")
    observer.ended(Stage.INSTALL, "[/nonsense]", 1)
    observer.close()
    assert "[/nonsense]" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_what_a_tool_says_out_of_turn_breaks_nothing() -> None:
    observer = TerminalObserver(Console(file=io.StringIO(), force_terminal=True))
    observer.said(Stage.DEV_SERVER, "early\n")
    observer.close()


def test_what_is_half_done_at_the_end_leaves_no_line() -> None:
    screen = io.StringIO()
    observer = TerminalObserver(Console(file=screen, force_terminal=True, width=100))
    observer.began(Stage.ARCHIVE)
    observer.ended(Stage.ARCHIVE, "", 0.1)
    observer.began(Stage.INSTALL)
    observer.close()
    last = screen.getvalue().rpartition("\x1b[2K")[2]
    assert "archive" in last
    assert "install" not in last


def test_a_stage_that_begins_again_has_one_line() -> None:
    screen = io.StringIO()
    observer = TerminalObserver(Console(file=screen, force_terminal=True, width=100))
    observer.began(Stage.INSTALL)
    observer.began(Stage.INSTALL)
    observer.ended(Stage.INSTALL, "", 1)
    observer.close()
    assert "\x1b[1A" not in screen.getvalue()  # no line above the first was ever drawn over


class GoneTerminal(io.StringIO):
    """Its window was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [PlainObserver, TerminalObserver])
def test_a_terminal_that_is_gone_stops_nothing(
    kind: type[PlainObserver] | type[TerminalObserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", GoneTerminal())
    play(kind())


def test_it_is_known_which_lines_of_a_tool_stand_there() -> None:
    plain = PlainObserver()
    plain.said(Stage.INSTALL, "one\n\x1b[31mtwo\x1b[0m\n")
    assert plain.showed(["one", "two", ""])
    assert not plain.showed(["three"])
    on_terminal = TerminalObserver(Console(file=io.StringIO(), force_terminal=True))
    assert not on_terminal.showed(["one"])
    on_terminal.close()
