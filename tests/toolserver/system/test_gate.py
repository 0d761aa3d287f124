"""Shared turns beside each other, an exclusive one alone."""

from __future__ import annotations

import asyncio

import pytest

from protocol.errors import Busy
from toolserver.system import gate as module
from toolserver.system.gate import Gate


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Turn:
    """A turn that lasts until it is told to end."""

    def __init__(self, gate: Gate, exclusive: bool = False) -> None:
        self._gate, self._exclusive = gate, exclusive
        self._inside = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._gate.exclusive() if self._exclusive else self._gate.shared():
            self._inside = True
            await self._end.wait()
        self._inside = False

    def is_inside(self) -> bool:
        return self._inside

    async def end(self) -> None:
        self._end.set()
        await self.task


async def test_shared_turns_are_beside_each_other() -> None:
    gate = Gate()
    one, two = Turn(gate), Turn(gate)
    await settled()
    assert one.is_inside()
    assert two.is_inside()
    await one.end()
    await two.end()


async def test_an_exclusive_turn_waits_for_those_under_way() -> None:
    gate = Gate()
    shared = Turn(gate)
    await settled()
    alone = Turn(gate, exclusive=True)
    await settled()
    assert not alone.is_inside()
    await shared.end()
    await settled()
    assert alone.is_inside()
    await alone.end()


async def test_a_later_shared_turn_waits_for_the_exclusive_one() -> None:
    gate = Gate()
    first = Turn(gate)
    await settled()
    alone, later = Turn(gate, exclusive=True), Turn(gate)
    await settled()
    assert not later.is_inside()
    await first.end()
    await settled()
    assert alone.is_inside()
    assert not later.is_inside()
    await alone.end()
    await settled()
    assert later.is_inside()
    await later.end()


async def test_exclusive_turns_come_one_by_one() -> None:
    gate = Gate()
    one, two = Turn(gate, exclusive=True), Turn(gate, exclusive=True)
    await settled()
    assert (one.is_inside(), two.is_inside()) == (True, False)
    await one.end()
    await settled()
    assert two.is_inside()
    await two.end()


async def test_whoever_gives_up_waiting_leaves_no_trace() -> None:
    gate = Gate()
    first = Turn(gate)
    await settled()
    waiting, behind = Turn(gate, exclusive=True), Turn(gate)
    await settled()
    waiting.task.cancel()
    await settled()
    assert behind.is_inside()
    await first.end()
    await behind.end()
    async with gate.exclusive():
        pass


async def test_an_exclusive_turn_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.01)
    gate = Gate()
    first = Turn(gate)
    await settled()
    with pytest.raises(Busy, match=r"^file operations went on for 0\.01 s; try again$"):
        async with gate.exclusive():
            pass
    later = Turn(gate)
    await settled()
    assert later.is_inside()
    await first.end()
    await later.end()
