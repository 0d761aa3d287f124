from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from benchmarks import measure
from benchmarks.crowds import at_once
from benchmarks.measure import (
    UNTIL,
    Entry,
    Figure,
    Kind,
    Taken,
    compare,
    figure,
    missing,
    percentile,
)


class Clock:
    """A clock that goes when it is told to: a busy machine's would add its own pauses to what is measured."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    return clock


def noting(name: str, turns: list[str]) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        turns.append(name)

    return act


async def test_candidates_take_turns_after_one_turn_each_that_is_not_counted() -> None:
    turns: list[str] = []
    found = await compare("x", [("a", noting("a", turns)), ("b", noting("b", turns))], 3)
    assert "".join(turns) == "ab" * 4
    assert [(each.candidate, each.kind, each.runs) for each in found] == [
        ("a", Kind.FLOOR, 3),
        ("b", Kind.OURS, 3),
    ]


async def test_one_that_fails_is_told_with_its_reason_and_the_others_go_on() -> None:
    async def broken() -> None:
        raise OSError("no such peer")

    turns: list[str] = []
    good, bad = await compare("x", [("a", noting("a", turns)), Entry("b", broken, Kind.PEER)], 2)
    assert (good.runs, bad.runs) == (2, 0)
    assert bad.row() == "| x | b | not run: no such peer | | | |"


async def test_without_a_floor_there_is_no_ratio() -> None:
    async def broken() -> None:
        raise OSError("gone")

    _, ours = await compare("x", [("floor", broken), ("ours", noting("b", []))], 2)
    assert (ours.ratio, ours.runs) == (None, 2)


async def test_who_has_had_his_share_of_the_time_rests(clock: Clock) -> None:
    async def slow() -> None:
        clock.now += 0.05

    quick, other = await compare("x", [("quick", noting("a", [])), ("slow", slow)], 60, 0.1)
    assert quick.runs == 60
    assert other.runs < 10


async def test_an_act_that_looked_at_its_own_clock_is_believed() -> None:
    async def act() -> Taken:
        return Taken(42.0)

    (found,) = await compare("x", [("a", act)], 3)
    assert (found.median_ms, found.p99_ms, found.ratio) == (42.0, 42.0, 1.0)


async def test_many_at_once_are_as_many_as_were_asked_for() -> None:
    inside, most = 0, 0

    async def act() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    (found,) = await at_once("x", [Entry("a", act, Kind.FLOOR)], 16, 0.01)
    assert most == 16
    assert found.runs >= 16
    assert found.per_second


def test_a_figure_is_the_median_and_the_worst_of_a_hundred() -> None:
    found = figure("x", "ours", [float(each) for each in range(1, 201)], 50.0)
    assert (found.median_ms, found.p99_ms, found.ratio) == (100.5, 199.0, 2.01)
    assert percentile([3.0], 0.99) == 3.0


def test_a_reason_never_breaks_the_table() -> None:
    assert missing("x", "a", ValueError("a | b\nc")).row() == "| x | a | not run: a / b | | | |"
    assert Figure("x", "a", 1, 1, 1, None, unit="MiB").row() == "| x | a | 1.00 MiB | 1.00 |  | 1 |"


async def test_a_case_ends_with_what_it_has_when_the_time_of_its_group_is_over(clock: Clock) -> None:
    async def endless() -> None:
        clock.now += 0.2
        await asyncio.Event().wait()

    UNTIL.set(0.2)
    good, cut, late = await compare(
        "x", [("a", noting("a", [])), ("b", endless), ("c", noting("c", []))], 2, warm=False
    )
    assert good.runs
    assert cut.not_run == "no time was left for it"
    assert late.not_run == "no time was left for it"
