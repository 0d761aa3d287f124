"""One piece ahead, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from toolserver.system.ahead import ahead

LIMIT = 30.0


async def test_pieces_come_in_order_and_then_the_error() -> None:
    async def source() -> AsyncGenerator[int]:
        yield 1
        yield 2
        raise ValueError("after two")

    pieces = ahead(source())
    assert [await anext(pieces), await anext(pieces)] == [1, 2]
    with pytest.raises(ValueError, match="after two"):
        await anext(pieces)


async def test_nothing_comes_of_nothing() -> None:
    async def source() -> AsyncGenerator[int]:
        return
        yield

    assert [piece async for piece in ahead(source())] == []


async def test_the_next_piece_is_made_while_the_last_one_is_used_and_no_more() -> None:
    made = []
    second = asyncio.Event()

    async def source() -> AsyncGenerator[int]:
        for number in range(5):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    async with asyncio.timeout(LIMIT), aclosing(ahead(source())) as pieces:
        assert await anext(pieces) == 0
        await second.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert made == [0, 1]


async def test_who_stops_early_closes_the_source_where_it_stands() -> None:
    waiting, closed = asyncio.Event(), []

    async def source() -> AsyncGenerator[int]:
        try:
            yield 1
            waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async with asyncio.timeout(LIMIT):
        async with aclosing(ahead(source())) as pieces:
            assert await anext(pieces) == 1
            await waiting.wait()
        assert closed == [True]


async def test_a_source_that_holds_a_piece_is_closed_too() -> None:
    made, closed = asyncio.Event(), []

    async def source() -> AsyncGenerator[int]:
        try:
            yield 1
            made.set()
            yield 2
        finally:
            closed.append(True)

    async with asyncio.timeout(LIMIT):
        async with aclosing(ahead(source())) as pieces:
            await anext(pieces)
            await made.wait()
        assert closed == [True]


async def test_a_cancelled_taker_is_cancelled_once_the_source_has_let_go() -> None:
    begun, let_go, ended = asyncio.Event(), asyncio.Event(), []

    async def source() -> AsyncGenerator[int]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            await let_go.wait()
            ended.append(True)

    async def take() -> None:
        async with aclosing(ahead(source())) as pieces:
            await anext(pieces)

    async with asyncio.timeout(LIMIT):
        taking = asyncio.create_task(take())
        await begun.wait()
        taking.cancel()
        await asyncio.sleep(0)
        assert not taking.done()
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await taking
    assert ended == [True]
