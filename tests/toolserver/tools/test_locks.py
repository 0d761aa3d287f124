"""One writer per path."""

from __future__ import annotations

import asyncio

import pytest

from toolserver.tools.locks import PathLocks


async def test_one_path_is_held_by_one() -> None:
    locks, order = PathLocks(), []

    async def use(name: str, *paths: str) -> None:
        async with locks.hold(*paths):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(use("1", "a"), use("2", "a"))
    assert order == ["1 in", "1 out", "2 in", "2 out"]


async def test_different_paths_do_not_wait_for_each_other() -> None:
    locks = PathLocks()
    async with locks.hold("a"), asyncio.timeout(5), locks.hold("b"):
        pass


async def test_orders_that_would_cross_do_not_block_each_other() -> None:
    locks = PathLocks()

    async def use(*paths: str) -> None:
        for _ in range(20):
            async with locks.hold(*paths):
                await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(use("a", "b"), use("b", "a"), use("b", "a", "a"))


async def test_nothing_is_kept_when_nobody_waits() -> None:
    locks = PathLocks()
    with pytest.raises(ValueError, match="x"):
        async with locks.hold("a", "b"):
            raise ValueError("x")
    waiting = asyncio.create_task(_take(locks, "a"))
    async with locks.hold("a"):
        pass
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (locks._locks, dict(locks._users)) == ({}, {})


async def _take(locks: PathLocks, path: str) -> None:
    async with locks.hold(path):
        await asyncio.sleep(0)
