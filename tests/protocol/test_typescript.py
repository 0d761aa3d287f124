"""The declaration holds every operation, and says of each field whether it may be left out."""

from __future__ import annotations

from protocol.export.typescript import declaration
from protocol.operations import OPERATIONS


def test_every_operation_is_declared_with_its_request_answer_and_events() -> None:
    text = declaration()
    for each in OPERATIONS.values():
        assert f"  {each.name}: {{ request: {each.request.__name__}; answer: {each.answer.__name__};" in text
    assert "event: Started | Stdout | Stderr | Gap }" in text


def test_a_request_field_with_a_default_may_be_left_out_and_an_answer_field_may_not() -> None:
    text = declaration()
    assert "  timeoutMs?: number | null;" in text
    assert "  timedOut: boolean;" in text
    assert "  survivors: number[];" in text


def test_nothing_is_left_untyped_but_the_details_of_an_error() -> None:
    assert [line.strip() for line in declaration().splitlines() if "unknown" in line] == [
        "details: Record<string, unknown>;"
    ]
