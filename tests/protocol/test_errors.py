"""The tree of errors: one class a code, the same on both sides."""

from __future__ import annotations

import re

import pytest

from protocol import errors
from protocol.codec import decode, encode
from protocol.errors import BY_CODE, ErrorBody, Internal, NotFound, ToolError, from_body

BINDING = [
    "invalid_request",
    "unauthorized",
    "forbidden",
    "outside_workspace",
    "not_found",
    "not_a_file",
    "already_exists",
    "conflict",
    "no_match",
    "ambiguous_match",
    "too_large",
    "archive_invalid",
    "archive_unsafe",
    "install_failed",
    "dev_server_failed",
    "timeout",
    "cancelled",
    "busy",
    "rate_limited",
    "no_space",
    "internal",
]


def test_every_binding_code_has_its_class() -> None:
    assert set(BINDING) <= BY_CODE.keys()


def test_a_code_belongs_to_one_class_only() -> None:
    assert len(BY_CODE) == len(ToolError.__subclasses__())


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
def test_the_drawn_tree_tells_the_truth(kind: type[ToolError]) -> None:
    drawn = re.search(rf"── {kind.__name__} +(\S+) +(\d+)  (yes|no)", errors.__doc__ or "")
    assert drawn is not None, "missing in the module's docstring"
    assert drawn.groups() == (kind.code, str(kind.status), "yes" if kind.retryable else "no")
    assert kind.__doc__


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
def test_what_was_raised_is_raised_again(kind: type[ToolError]) -> None:
    sent = encode(kind("no such thing", path="a", lines=[1, 2]).body("r1"))
    again = from_body(decode(sent, ErrorBody))
    assert type(again) is kind
    assert (again.message, again.request_id) == ("no such thing", "r1")
    assert again.details == {"path": "a", "lines": [1, 2]}


def test_a_code_of_a_later_version_is_internal() -> None:
    error = from_body(ErrorBody(code="teapot", message="short and stout"))
    assert type(error) is Internal
    assert str(error) == "short and stout"


def test_a_body_has_the_published_shape() -> None:
    assert set(decode(encode(NotFound("x").body("r")), dict)) == {
        "code",
        "message",
        "details",
        "retryable",
        "requestId",
    }


def test_retryable_is_told() -> None:
    assert {code for code, kind in BY_CODE.items() if kind.retryable} == {
        "timeout",
        "cancelled",
        "busy",
        "rate_limited",
        "unavailable",
    }
