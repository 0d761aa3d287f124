"""Work on a thread is never left behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from toolserver.system.threads import taken, whole


async def test_its_result_comes_back() -> None:
    assert await whole(lambda a, b: a + b, 1, b=2) == 3


async def test_its_error_comes_back() -> None:
    with pytest.raises(ZeroDivisionError):
        await whole(lambda: 1 / 0)


async def test_a_cancellation_waits_for_the_work() -> None:
    begun, go, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go.wait()
        done.append(1)

    task = asyncio.create_task(whole(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


async def test_a_second_cancellation_waits_too() -> None:
    begun, go, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go.wait()
        done.append(1)

    task = asyncio.create_task(whole(work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    early = task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (early, done) == (False, [1])


@pytest.mark.parametrize("times", [1, 3])
async def test_what_nobody_takes_any_more_is_let_go_of(times: int) -> None:
    begun, let, gone = threading.Event(), threading.Event(), list[str]()

    def made() -> str:
        begun.set()
        assert let.wait(30)
        return "descriptor"

    task = asyncio.create_task(taken(gone.append, made))
    await asyncio.to_thread(begun.wait, 30)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    let.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone == ["descriptor"]
    assert await taken(gone.append, lambda: "kept") == "kept"
    assert gone == ["descriptor"]


async def test_where_nothing_was_made_nothing_is_let_go_of() -> None:
    begun, let, gone = threading.Event(), threading.Event(), list[str]()

    def fails() -> str:
        begun.set()
        assert let.wait(30)
        raise OSError("no")

    task = asyncio.create_task(taken(gone.append, fails))
    await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    let.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone == []
