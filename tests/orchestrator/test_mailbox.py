"""What came for one request and was not yet taken."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from orchestrator.client.mailbox import MAX_BYTES, MAX_EVENTS, Mailbox
from protocol.errors import Cancelled, NotFound

EVENT = msgspec.Raw(b"\x01")


async def test_events_are_handed_out_before_the_end() -> None:
    mailbox = Mailbox(wants_events=True)
    await mailbox.put(msgspec.Raw(b"a"))
    await mailbox.put(msgspec.Raw(b"b"))
    mailbox.finish(msgspec.Raw(b"r"))
    taken = [await mailbox.next_event() for _ in range(3)]
    assert [bytes(event) if event is not None else None for event in taken] == [b"a", b"b", None]
    assert bytes(await mailbox.outcome()) == b"r"


async def test_the_first_outcome_stays() -> None:
    mailbox = Mailbox(wants_events=True)
    mailbox.fail(NotFound("gone"))
    mailbox.finish(msgspec.Raw(b"late"))
    with pytest.raises(NotFound, match="gone"):
        await mailbox.outcome()


async def test_a_full_mailbox_lets_its_writer_wait_until_something_is_taken() -> None:
    mailbox = Mailbox(wants_events=True, patience_seconds=30)
    for _ in range(MAX_EVENTS):
        await mailbox.put(EVENT)
    writing = asyncio.create_task(mailbox.put(EVENT))
    await asyncio.sleep(0)
    assert not writing.done()
    await mailbox.next_event()
    assert await writing


async def test_few_large_events_fill_it_as_well() -> None:
    mailbox = Mailbox(wants_events=True, patience_seconds=0.01)
    await mailbox.put(msgspec.Raw(bytes(MAX_BYTES)))
    assert not await mailbox.put(EVENT)


async def test_an_owner_that_takes_nothing_is_given_up_and_told_so() -> None:
    mailbox = Mailbox(wants_events=True, patience_seconds=0.01)
    for _ in range(MAX_EVENTS):
        assert await mailbox.put(EVENT)
    assert not await mailbox.put(EVENT)
    with pytest.raises(Cancelled, match="was taken") as caught:
        await mailbox.outcome()
    assert caught.value.details == {"patienceSeconds": 0.01, "waitingEvents": MAX_EVENTS}


async def test_an_owner_that_wants_no_events_never_holds_anyone_up() -> None:
    mailbox = Mailbox(wants_events=False, patience_seconds=0.01)
    assert all([await mailbox.put(EVENT) for _ in range(MAX_EVENTS * 2)])
    mailbox.finish(EVENT)
    assert await mailbox.next_event() is None


async def test_letting_go_of_events_frees_a_waiting_writer() -> None:
    mailbox = Mailbox(wants_events=True, patience_seconds=30)
    for _ in range(MAX_EVENTS):
        await mailbox.put(EVENT)
    writing = asyncio.create_task(mailbox.put(EVENT))
    await asyncio.sleep(0)
    mailbox.drop_events()
    assert await writing
