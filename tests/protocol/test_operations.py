"""The table: every operation once, and complete."""

from __future__ import annotations

import msgspec
import pytest

from protocol.messages.base import Answer, Event, Request
from protocol.operations import NAME, OPERATIONS, Operation, Scope

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda each: each.name)

BINDING_NAMES = [
    "search",
    "read",
    "edit",
    "write",
    "list",
    "command",
    "inject",
    "save",
    "install",
    "dev_start",
    "dev_stop",
    "dev_status",
    "dev_logs",
    "start",
    "attach",
]


@pytest.mark.parametrize("name", BINDING_NAMES)
def test_a_binding_name_is_in_the_table(name: str) -> None:
    assert OPERATIONS[name].name == name


@every_operation
def test_a_name_serves_as_url_segment_and_method_name(operation: Operation) -> None:
    assert NAME.fullmatch(operation.name)


@every_operation
def test_an_operation_is_documented_in_one_line(operation: Operation) -> None:
    assert 10 < len(operation.doc) < 120
    assert operation.doc.endswith(".")


@every_operation
def test_an_operation_has_a_request_an_answer_and_a_scope(operation: Operation) -> None:
    assert issubclass(operation.request, Request)
    assert issubclass(operation.answer, Answer)
    assert operation.scope in Scope


@every_operation
def test_a_request_refuses_unknown_fields_and_an_answer_takes_them(operation: Operation) -> None:
    assert operation.request.__struct_config__.forbid_unknown_fields
    assert not operation.answer.__struct_config__.forbid_unknown_fields
    assert operation.request.__struct_config__.frozen


def events_of(operation: Operation) -> list[type[Event]]:
    if operation.events is None:
        return []
    members = getattr(operation.events, "__args__", None)
    return list(members) if members else [operation.events]


@every_operation
def test_an_event_is_told_apart_by_its_type(operation: Operation) -> None:
    tags = [event.__struct_config__.tag for event in events_of(operation)]
    assert len(set(tags)) == len(tags)
    assert all(event.__struct_config__.tag_field == "type" for event in events_of(operation))


@every_operation
def test_the_events_of_an_operation_decode(operation: Operation) -> None:
    if operation.streams:
        msgspec.json.Decoder(operation.events)
