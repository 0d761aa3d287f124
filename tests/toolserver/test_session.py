"""One conversation, sans-I/O: what each frame means, and exactly one last reply per id."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.codec import Format, decode, encode
from protocol.errors import Cancelled, NotFound
from protocol.messages.commands import Stdout
from protocol.messages.files import Read, WriteAnswer
from toolserver.session import CancelRun, Conversation, Run, Send


def conversation(max_in_flight: int = 8, form: Format = "json") -> Conversation:
    return Conversation(form, max_in_flight)


def frame(id: str = "1", op: str = "read", **more: Any) -> bytes:
    return encode({"id": id, "op": op, "params": {"path": "a"}, **more})


def sent(decision: object) -> dict[str, Any]:
    assert isinstance(decision, Send)
    return decode(decision.data, dict)


def error_of(decision: object) -> dict[str, Any]:
    error: dict[str, Any] = sent(decision)["error"]
    return error


def test_a_good_frame_is_to_be_run() -> None:
    decision = conversation().receive(frame())
    assert isinstance(decision, Run)
    assert (decision.id, decision.operation.name, decision.request) == ("1", "read", Read(path="a"))
    assert decision.stream


def test_a_caller_may_want_no_events() -> None:
    decision = conversation().receive(frame(stream=False))
    assert isinstance(decision, Run)
    assert not decision.stream


def test_messagepack_means_the_same() -> None:
    decision = conversation(form="msgpack").receive(
        encode({"id": "1", "op": "read", "params": {"path": "a"}}, "msgpack")
    )
    assert isinstance(decision, Run)
    assert decision.request == Read(path="a")


REFUSED = [
    (b"{", "", "invalid_request", "the request is not valid JSON: input data was truncated"),
    (b"[]", "", "invalid_request", "expected 'object', got 'array'"),
    (b'"text"', "", "invalid_request", "expected 'object', got 'str'"),
    (b'{"op": "read"}', "", "invalid_request", "required field 'id' is missing"),
    (b'{"id": 7, "op": "read"}', "", "invalid_request", "expected 'str', got 'int' in 'id'"),
    (b'{"id": "7"}', "7", "invalid_request", "required field 'op' is missing"),
    (b'{"id": "", "op": "read"}', "", "invalid_request", "'id' has 1 to 128 characters"),
    (encode({"id": "x" * 129, "op": "read"}), "", "invalid_request", "'id' has 1 to 128 characters"),
    (
        b'{"id": "7", "op": "serch"}',
        "7",
        "not_found",
        "there is no operation 'serch'; did you mean 'search'?",
    ),
    (
        b'{"id": "7", "op": "read", "parms": {}}',
        "7",
        "invalid_request",
        "unknown field 'parms'; did you mean 'params'?",
    ),
    (frame("7", params={"pth": "a"}), "7", "invalid_request", "unknown field 'pth'; did you mean 'path'?"),
    (frame("7", params=None), "7", "invalid_request", "expected 'object', got 'null'"),
]


@pytest.mark.parametrize(("data", "id", "code", "message"), REFUSED)
def test_a_wrong_frame_is_refused_under_its_id(data: bytes, id: str, code: str, message: str) -> None:
    reply = sent(conversation().receive(data))
    assert reply.get("id", "") == id
    assert (reply["error"]["code"], reply["error"]["message"]) == (code, message)
    assert reply["error"]["requestId"] == id


def test_invalid_utf8_is_refused() -> None:
    error = error_of(conversation().receive(b'{"id": "1", "op": "re\xffad"}'))
    assert error["message"].startswith("the request is not valid JSON: ")


def test_an_id_in_flight_is_not_taken_twice_and_stays_in_flight() -> None:
    talk = conversation()
    talk.receive(frame("1"))
    assert error_of(talk.receive(frame("1")))["message"] == "id '1' is in flight already; use another"
    assert talk.receive(frame("1", op="cancel")) == CancelRun("1")


def test_an_id_is_free_again_after_its_last_reply() -> None:
    talk = conversation()
    talk.receive(frame("1"))
    talk.result("1", WriteAnswer(path="a", size=1, hash="h", created=True))
    assert isinstance(talk.receive(frame("1")), Run)
    talk.error("1", NotFound("nothing"))
    assert isinstance(talk.receive(frame("1")), Run)


def test_the_number_in_flight_is_bounded() -> None:
    talk = conversation(max_in_flight=2)
    talk.receive(frame("1"))
    talk.receive(frame("2"))
    error = error_of(talk.receive(frame("3")))
    assert (error["code"], error["retryable"]) == ("busy", True)
    assert error["message"] == "2 requests are in flight on this socket, which is the limit"
    assert error["details"] == {"limit": "maxInFlight", "value": 2}


def test_a_refused_request_is_not_in_flight() -> None:
    talk = conversation(max_in_flight=1)
    talk.receive(frame("1", params={"pth": "a"}))
    assert isinstance(talk.receive(frame("2")), Run)


def test_a_cancel_names_a_request_in_flight() -> None:
    talk = conversation()
    talk.receive(frame("1"))
    assert talk.receive(b'{"id": "1", "op": "cancel"}') == CancelRun("1")


def test_a_cancel_that_comes_too_late_means_nothing() -> None:
    talk = conversation()
    assert talk.receive(b'{"id": "1", "op": "cancel"}') is None
    talk.receive(frame("1"))
    talk.error("1", Cancelled("read was cancelled"))
    assert talk.receive(b'{"id": "1", "op": "cancel"}') is None


def test_replies_have_the_published_form() -> None:
    talk = conversation()
    assert json.loads(talk.event("1", Stdout(offset=0, next_offset=1, data="x"))) == {
        "id": "1",
        "event": {"type": "stdout", "offset": 0, "nextOffset": 1, "data": "x"},
    }
    answer = WriteAnswer(path="a", size=1, hash="h", created=True)
    assert json.loads(talk.result("1", answer)) == {
        "id": "1",
        "result": {"path": "a", "size": 1, "hash": "h", "created": True, "dev": None},
    }


class Talking(RuleBasedStateMachine):
    """Any order of frames and ends: an id is in flight from its Run to its last reply, and never twice."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = conversation(max_in_flight=3)
        self.in_flight: set[str] = set()

    ids = st.sampled_from(["a", "b", "c", "d", "e"])

    @rule(id=ids)
    def ask(self, id: str) -> None:
        decision = self.talk.receive(frame(id))
        if id in self.in_flight or len(self.in_flight) == 3:
            assert error_of(decision)["code"] in ("invalid_request", "busy")
        else:
            assert isinstance(decision, Run)
            self.in_flight.add(id)

    @rule(id=ids)
    def end(self, id: str) -> None:
        if id in self.in_flight:
            self.talk.error(id, NotFound("nothing"))
            self.in_flight.discard(id)

    @rule(id=ids, data=st.sampled_from([b"{", b'{"id": "a"}', b'{"id": "a", "op": "x"}']))
    def err(self, id: str, data: bytes) -> None:
        assert isinstance(self.talk.receive(data), Send)

    @invariant()
    def cancel_finds_exactly_those_in_flight(self) -> None:
        for id in "abcde":
            expected = CancelRun(id) if id in self.in_flight else None
            assert self.talk.receive(encode({"id": id, "op": "cancel"})) == expected


TestTalking = Talking.TestCase
TestTalking.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_a_refusal_without_an_id_still_has_the_field() -> None:
    assert sent(conversation().receive(b'{"op": "read"}'))["id"] == ""


def test_nothing_but_its_own_last_reply_is_sent_under_an_id_in_flight() -> None:
    talk = conversation()
    talk.receive(frame("1"))
    for data in (frame("1"), frame("1", op="serch"), b'{"id": "1"}'):
        assert sent(talk.receive(data))["id"] == ""
