"""Starts that take turns."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.backends.turns import Turns


async def test_no_more_than_so_many_are_under_way_and_all_get_their_turn_in_order() -> None:
    turns, under_way, most, done = Turns(at_once=2), 0, 0, []

    async def start(number: int) -> None:
        nonlocal under_way, most
        async with turns:
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            done.append(number)

    await asyncio.gather(*map(start, range(10)))
    assert (most, done) == (2, list(range(10)))


async def test_one_that_fails_or_gives_up_waiting_holds_up_nobody() -> None:
    turns = Turns(at_once=1)
    with pytest.raises(LookupError):
        async with turns:
            raise LookupError
    async with turns:
        waiting = asyncio.create_task(turns.__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(60), turns:
        pass
