"""Ten users at once go the whole way on this host, and nothing of one is another's; fifty go it in
``benchmarks.users``, with figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from benchmarks.users import WAY, Crowd, crowd, fresh_data


@pytest.fixture
async def ten() -> AsyncIterator[Crowd]:
    """Ten users on a fresh data directory; whatever a failure leaves is ended."""
    with fresh_data() as data:
        many = crowd(data, 10)
        yield many
        await asyncio.gather(*(many.backend.destroy(guest.id) for guest in await many.backend.guests()))


# Twenty starts of a Python, and as many of a dev server.
@pytest.mark.timeout(600)
async def test_ten_at_once_go_the_whole_way_apart_and_leave_nothing(ten: Crowd) -> None:
    async with ten.sessions:
        await ten.go()
    assert await ten.left_behind() == []
    assert [list(user.taken) for user in ten.users] == [list(WAY)] * 10
