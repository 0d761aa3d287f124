"""The way to a handler: exactly one per operation, found at start."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.errors import Busy, Internal, InvalidRequest, NotFound
from protocol.messages.files import Read
from protocol.operations import OPERATIONS
from protocol.tokens import Scope
from tests.builder import exactly
from toolserver.tools.admission import Admission
from toolserver.tools.call import Call, Dispatcher, find_operation, read_request


def family(*names: str, handler: Any = None) -> object:
    return SimpleNamespace(**dict.fromkeys(names, handler))


def dispatcher(handler: Any) -> Dispatcher:
    return Dispatcher(family(*OPERATIONS, handler=handler))


def test_an_operation_without_a_handler_is_found_at_start() -> None:
    with pytest.raises(LookupError, match=exactly("0 handlers for 'read', and there is to be one")):
        Dispatcher(family(*(name for name in OPERATIONS if name != "read")))


def test_an_operation_with_two_handlers_is_found_at_start() -> None:
    with pytest.raises(LookupError, match=exactly("2 handlers for 'stop', and there is to be one")):
        Dispatcher(family(*OPERATIONS), family("stop"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("serch", "did you mean 'search'?"),
        ("devstart", "did you mean 'dev_start'?"),
        ("READ", "known are activity,"),
    ],
)
def test_an_unknown_operation_is_told_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(NotFound, match=f"^there is no operation '{name}'; ") as caught:
        find_operation(name)
    assert hint in caught.value.message
    assert caught.value.details == {"operation": name}


def test_a_request_is_read_for_its_operation() -> None:
    assert read_request(OPERATIONS["read"], b'{"path": "a"}', "json") == Read(path="a")
    with pytest.raises(InvalidRequest):
        read_request(OPERATIONS["read"], b"{}", "json")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.message, record.__dict__["data"]) for record in caplog.records]


async def test_every_request_leaves_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def busy(_: object, __: Call) -> None:
        raise Busy("later")

    caplog.set_level(logging.INFO)
    with pytest.raises(Busy):
        await dispatcher(busy).run(OPERATIONS["read"], Read(path="a"), Call("r1"))
    await asyncio.sleep(0)  # the line comes after the answer
    ((message, data),) = lines(caplog)
    assert message == "operation"
    assert data.pop("durationMs") >= 0
    assert data == {
        "requestId": "r1",
        "operation": "read",
        "outcome": "busy",
        "who": "anyone",
        "paths": ["a"],
        "bytesIn": 0,
        "bytesOut": 0,
    }


async def test_what_is_answered_at_once_leaves_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    families = family(*OPERATIONS), SimpleNamespace(read_at_once=lambda request: request.path)
    dispatcher = Dispatcher(*families)
    found: object = dispatcher.at_once(OPERATIONS["read"], Read(path="a"), Call("r1"))
    dispatcher.ledger.settle()
    ((_, data),) = lines(caplog)
    assert (found, data["requestId"], data["outcome"]) == ("a", "r1", "ok")


@pytest.mark.parametrize("name", ["read", "write"])
def test_what_goes_wrong_at_once_is_left_to_the_handler(name: str) -> None:
    def wrong(_: object) -> None:
        raise KeyError("told by the handler")

    families = family(*OPERATIONS), SimpleNamespace(read_at_once=wrong)
    assert Dispatcher(*families).at_once(OPERATIONS[name], Read(path="a"), Call("r1")) is None


def test_nothing_is_answered_at_once_that_the_token_is_not_good_for() -> None:
    families = family(*OPERATIONS), SimpleNamespace(read_at_once=lambda request: request.path)
    call = Call("r1", None, Admission("ann", frozenset({Scope.WRITE})))
    assert Dispatcher(*families).at_once(OPERATIONS["read"], Read(path="a"), call) is None


async def test_a_fault_of_ours_is_internal_and_its_reason_is_in_the_log_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def wrong(_: object, __: Call) -> None:
        raise KeyError("the secret reason")

    caplog.set_level(logging.INFO)
    message = "read failed for a reason of our own; see request r1 in the log"
    with pytest.raises(Internal, match=exactly(message)):
        await dispatcher(wrong).run(OPERATIONS["read"], Read(path="a"), Call("r1"))
    await asyncio.sleep(0)
    assert [message for message, _ in lines(caplog)] == ["failed", "operation"]
    assert "the secret reason" in caplog.text


async def test_a_cancellation_goes_through(caplog: pytest.LogCaptureFixture) -> None:
    async def slow(_: object, __: Call) -> None:
        await asyncio.Event().wait()

    caplog.set_level(logging.INFO)
    task = asyncio.create_task(dispatcher(slow).run(OPERATIONS["read"], Read(path="a"), Call("r1")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lines(caplog)[0][1]["outcome"] == "cancelled"


async def test_a_call_without_a_listener_drops_its_events() -> None:
    heard = []

    async def emit(event: object) -> None:
        heard.append(event)

    call = Call("r", emit)
    assert call.streaming
    assert not call.without_events().streaming
    await call.without_events().emit(SimpleNamespace())  # type: ignore[arg-type]
    assert heard == []
