"""What waits a little is done in order, soon, and never much of it at a time."""

from __future__ import annotations

import asyncio

from protocol.messages.audit import Audit
from protocol.messages.files import Read
from protocol.operations import OPERATIONS
from toolserver.tools.call import Call
from toolserver.tools.ledger import Ledger
from toolserver.tools.together import Together


async def test_all_are_done_in_order_a_few_in_each_turn_of_the_loop() -> None:
    done, all_done = list[int](), asyncio.Event()

    def work(number: int) -> None:
        done.append(number)
        if number == 49:
            all_done.set()

    together = Together(work)
    for number in range(50):
        together.put(number)
    assert done == []
    most, before = 0, 0
    async with asyncio.timeout(30):
        while not all_done.is_set():
            await asyncio.sleep(0)
            most, before = max(most, len(done) - before), len(done)
    assert done == list(range(50))
    assert 0 < most <= 32


async def test_no_more_of_them_wait_than_a_bound() -> None:
    done = list[int]()
    together = Together(done.append)
    for number in range(1000):
        together.put(number)
    assert len(done) > 900
    together.finish()
    assert done == list(range(1000))


async def test_who_looks_sees_all_that_has_ended_in_its_order() -> None:
    ledger = Ledger()
    for path in ("a", "b"):
        ledger.note_later("read", Call(path), 0.0, Read(path=path))
    assert ledger.figures.outcomes == {("read", "ok"): 2}
    ledger.note_later("read", Call("c"), 0.0, Read(path="c"))

    async def work() -> None:
        ledger.note_later("read", Call("d"), 0.0, Read(path="d"))

    await ledger.through(OPERATIONS["list"], Call("e"), work)
    await asyncio.sleep(0)
    lines = (await ledger.auditing.audit(Audit(), Call("f"))).lines
    assert [each.request_id for each in lines] == ["a", "b", "c", "d", "e"]
