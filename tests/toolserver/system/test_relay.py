"""Pieces are worked on in order, a bounded number at a time, and none after one that failed."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from toolserver.system.tarballs import relay
from toolserver.system.tarballs.relay import Relay

LIMIT = 60.0


def test_what_comes_of_pieces_comes_in_their_order() -> None:
    with closing(Relay(bytes.upper)) as relay:
        made = [piece for number in range(9) for piece in relay.give(b"abcdefghi"[number : number + 1])]
        assert made == [b"A", b"B", b"C", b"D", b"E", b"F", b"G"]
        assert relay.wait() == [b"H", b"I"]
        assert relay.wait() == []


def test_after_a_piece_that_failed_none_is_worked_on_and_its_error_is_told() -> None:
    go, worked = threading.Event(), []

    def work(piece: bytes) -> None:
        go.wait(LIMIT)
        worked.append(piece)
        if piece == b"bad":
            raise ValueError("bad")

    with closing(Relay(work)) as relay:
        relay.give(b"bad")
        relay.give(b"behind it")
        go.set()
        with pytest.raises(ValueError, match="bad"):
            relay.wait()
        with pytest.raises(RuntimeError):
            relay.wait()
    assert worked == [b"bad"]


def test_of_large_pieces_one_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_LARGE_BYTES", 3)
    done: list[bytes] = []
    with closing(Relay(done.append)) as large:
        large.give(b"1 large")
        large.give(b"2 large")
        assert done[:1] == [b"1 large"]
        large.give(b"3 large")
        assert done[:2] == [b"1 large", b"2 large"]


def test_closing_drops_what_has_not_begun() -> None:
    begun, go, worked = threading.Event(), threading.Event(), []

    def work(piece: bytes) -> None:
        begun.set()
        go.wait(LIMIT)
        worked.append(piece)

    both = Relay(work)
    both.give(b"1")
    both.give(b"2")
    begun.wait(LIMIT)
    behind = both._under_way[1]
    behind.add_done_callback(lambda _: go.set())
    both.close()
    assert (worked, behind.cancelled()) == ([b"1"], True)
