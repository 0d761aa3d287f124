"""A template's variables: declared, typed, and put in by plain replacing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidRequest
from protocol.template_variables import (
    MAX_VALUE_CHARACTERS,
    Value,
    Variable,
    placeholders,
    resolved,
    substituted,
)
from protocol.templates import parse_template
from tests.builder import exactly

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,10}", fullmatch=True)


def declared(**variables: Any) -> bytes:
    return json.dumps({"variables": variables, "substitute": ["a.txt"]}).encode()


def test_what_is_declared_is_read_with_its_default() -> None:
    template = parse_template(declared(title={"default": "Shop"}, dark={"type": "boolean", "default": False}))
    assert resolved(template.variables, {}) == {"title": "Shop", "dark": "false"}
    assert template.substitute == ["a.txt"]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ({"type": "choice"}, "variable 'x' is a choice: name what there is to choose, in 'choices'"),
        ({"choices": ["a"]}, "variable 'x' has choices: its type must be 'choice', not 'string'"),
        ({"type": "number", "pattern": "a"}, "variable 'x' has a pattern: only a 'string' can have one"),
        (
            {"type": "number", "default": "many"},
            "variable 'x' is a number such as 3 or 0.5, not 'many' (its default)",
        ),
        ({"default": True}, "variable 'x' is a text, not true (its default)"),
        (
            {"pattern": "[a-z]+", "default": "A"},
            "variable 'x' has to match [a-z]+, and 'A' does not (its default)",
        ),
        (
            {"type": "choice", "choices": ["a", "b"], "default": "c"},
            "variable 'x' is one of a, b, not 'c' (its default)",
        ),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(variable: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=exactly(f"template.json: {message}")):
        parse_template(declared(x=variable))


def test_a_pattern_that_does_not_compile_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="variable 'x' has a pattern that is no regular expression"):
        parse_template(declared(x={"pattern": "("}))


def test_a_name_that_could_not_stand_in_braces_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="variable 'a b' is no name"):
        parse_template(declared(**{"a b": {}}))


def test_template_json_itself_takes_no_variables() -> None:
    with pytest.raises(InvalidRequest, match=r"substitute lists template\.json itself"):
        parse_template(b'{"substitute": ["template.json"]}')


def test_an_unknown_key_of_a_variable_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="unknown field"):
        parse_template(declared(x={"defualt": "y"}))


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (Variable(), "", ""),
        (Variable(), 'A "quoted" <title> {{x}}', 'A "quoted" <title> {{x}}'),
        (Variable(type="boolean"), "true", "true"),
        (Variable(type="boolean"), False, "false"),
        (Variable(type="number"), "-0.5", "-0.5"),
        (Variable(type="number"), 7, "7"),
        (Variable(type="choice", choices=["a", "b"]), "b", "b"),
        (Variable(pattern="#[0-9a-f]{6}"), "#c0ffee", "#c0ffee"),
    ],
)
def test_a_value_of_its_type_is_taken(variable: Variable, value: Value, text: str) -> None:
    assert resolved({"x": variable}, {"x": value}) == {"x": text}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (Variable(type="boolean"), "yes", "variable 'x' is true or false, not 'yes'"),
        (Variable(type="number"), "1,5", "variable 'x' is a number such as 3 or 0.5, not '1,5'"),
        (Variable(type="number"), True, "variable 'x' is a number such as 3 or 0.5, not 'true'"),
        (Variable(type="choice", choices=["a", "b"]), "A", "variable 'x' is one of a, b, not 'A'"),
        (Variable(pattern="[a-z]+"), "ab1", "variable 'x' has to match [a-z]+, and 'ab1' does not"),
        (Variable(), "one\ntwo", "variable 'x' is one line, without control characters"),
        (Variable(), "x" * (MAX_VALUE_CHARACTERS + 1), "variable 'x' has 1001 characters; 1000 are the most"),
        (Variable(), 3, "variable 'x' is a text, not 3"),
    ],
)
def test_a_value_of_another_type_is_refused(variable: Variable, value: Value, message: str) -> None:
    with pytest.raises(InvalidRequest, match=exactly(message)):
        resolved({"x": variable}, {"x": value})


def test_a_value_for_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(InvalidRequest, match=exactly("there is no variable 'x'; this template has none")):
        resolved({}, {"x": "1"})
    with pytest.raises(InvalidRequest, match=exactly("there is no variable 'x'; there are title, tone")):
        resolved({"title": Variable(), "tone": Variable()}, {"x": "1"})


def test_what_is_no_placeholder_stays_as_it_is() -> None:
    text = b"${{ github.ref }} {x} {{x }} {{ x}} {{{x}}} {{y}} \xff"
    assert substituted(text, {"x": "1"}) == b"${{ github.ref }} {x} {{x }} {{ x}} {1} {{y}} \xff"


@given(st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"))), st.binary(), st.binary())
def test_every_placeholder_becomes_its_value_and_nothing_else_changes(
    values: dict[str, str], before: bytes, after: bytes
) -> None:
    plain = before.replace(b"{", b"").replace(b"}", b""), after.replace(b"{", b"").replace(b"}", b"")
    braced = b"".join(b"{{%s}}" % name.encode() for name in values)
    put_in = "".join(values.values()).encode()
    assert placeholders(braced) == values.keys()
    assert substituted(plain[0] + braced + plain[1], values) == plain[0] + put_in + plain[1]
