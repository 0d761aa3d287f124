"""A template's variables: what may be set, what of it is taken, and where it is put.

Plain replacing and nothing else: ``{{name}}`` becomes the value's text, in the files that the template lists.
No conditions, no loops, no escaping; a value cannot bring another placeholder in, and an unknown one stays.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from protocol.errors import InvalidRequest

Value = str | bool | int | float
VariableType = Literal["string", "boolean", "number", "choice"]
MAX_VALUE_CHARACTERS = 1_000
"""One value: a title, a name, a sentence. Of the host alone, so no limit of the tool server."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PLACEHOLDER = re.compile(rb"\{\{([A-Za-z][A-Za-z0-9_-]{0,63})\}\}")


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that whoever starts a workspace may choose."""

    type: VariableType = "string"
    default: Value | None = None
    """None: it must be given where a listed file has it."""
    pattern: str | None = None
    """Of a string, all of it."""
    choices: list[str] = []
    description: str = ""


Variables = Mapping[str, Variable]


def refuse_bad_declarations(variables: Variables) -> None:
    """Raises InvalidRequest for a declaration that no value could satisfy, or whose default does not.

    >>> refuse_bad_declarations({"tone": Variable(type="choice")})
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: variable 'tone' is a choice: name what there is to choose, in 'choices'
    """
    for name, variable in variables.items():
        if wrong := next(_wrong(name, variable), ""):
            raise InvalidRequest(wrong, field=f"variables.{name}")
        if variable.default is not None:
            try:
                as_text(name, variable, variable.default)
            except InvalidRequest as error:
                raise InvalidRequest(f"{error.message} (its default)", field=f"variables.{name}") from None


def _wrong(name: str, variable: Variable) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield f"variable {name!r} is no name: use up to 64 of A-Z a-z 0-9 _ -, a letter first"
    if (variable.type == "choice") != bool(variable.choices):
        yield (
            f"variable {name!r} is a choice: name what there is to choose, in 'choices'"
            if variable.type == "choice"
            else f"variable {name!r} has choices: its type must be 'choice', not {variable.type!r}"
        )
    if variable.pattern is not None and variable.type != "string":
        yield f"variable {name!r} has a pattern: only a 'string' can have one"
    try:
        re.compile(variable.pattern or "")
    except re.error as error:
        yield f"variable {name!r} has a pattern that is no regular expression: {error}"


def resolved(variables: Variables, given: Mapping[str, Value]) -> dict[str, str]:
    """Every variable that has a value, as the text that stands for it.

    Raises InvalidRequest for a value that is not of its type, and for one of no variable.

    >>> resolved({"n": Variable(type="number", default=3), "s": Variable()}, {"s": "x"})
    {'n': '3', 's': 'x'}
    >>> resolved({"title": Variable()}, {"titel": "x"})
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: there is no variable 'titel'; did you mean 'title'?
    """
    for name in given:
        if name not in variables:
            raise InvalidRequest(f"there is no variable {name!r}; {_hint(name, variables)}", variable=name)
    values = {name: given.get(name, variable.default) for name, variable in variables.items()}
    return {
        name: as_text(name, variables[name], value) for name, value in values.items() if value is not None
    }


def _hint(name: str, variables: Variables) -> str:
    if close := difflib.get_close_matches(name, variables, n=1):
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(variables)}" if variables else "this template has none"


def as_text(name: str, variable: Variable, value: Value) -> str:
    """What is put in for ``value``: given as its text or as itself; raises InvalidRequest with what is right.

    >>> as_text("dark", Variable(type="boolean"), True), as_text("dark", Variable(type="boolean"), "false")
    ('true', 'false')
    >>> as_text("columns", Variable(type="number"), "many")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: variable 'columns' is a number such as 3 or 0.5, not 'many'
    >>> as_text("tone", Variable(type="choice", choices=["warm", "cool"]), "hot")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: variable 'tone' is one of warm, cool, not 'hot'
    """
    text = _text(value)
    if why := _refused(variable, value, text):
        raise InvalidRequest(f"variable {name!r} {why}", variable=name)
    return text


def _text(value: Value) -> str:
    """
    >>> _text(True), _text(2.0), _text(7), _text("x")
    ('true', '2.0', '7', 'x')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(variable: Variable, value: Value, text: str) -> str:
    """Why a value is not taken, empty when it is."""
    if variable.type == "boolean":
        return "" if text in {"true", "false"} else f"is true or false, not {text!r}"
    if variable.type == "number":
        return "" if _is_number(value) else f"is a number such as 3 or 0.5, not {text!r}"
    if not isinstance(value, str):
        return f"is a text, not {text}"
    return next(_wrong_text(variable, text), "")


def _wrong_text(variable: Variable, text: str) -> Iterator[str]:
    if variable.type == "choice" and text not in variable.choices:
        yield f"is one of {', '.join(variable.choices)}, not {text!r}"
    if len(text) > MAX_VALUE_CHARACTERS:
        yield f"has {len(text)} characters; {MAX_VALUE_CHARACTERS} are the most"
    if not text.isprintable():
        yield "is one line, without control characters"
    if variable.pattern is not None and not re.fullmatch(variable.pattern, text):
        yield f"has to match {variable.pattern}, and {text!r} does not"


def _is_number(value: Value) -> bool:
    """As JSON writes them: what another language would read differently is none.

    >>> [_is_number(each) for each in (3, "0.5", "-1e3", True, "nan", float("inf"), "0x10", "1_000", "07")]
    [True, True, True, False, False, False, False, False, False]
    """
    if isinstance(value, str):
        return bool(re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", value, re.ASCII))
    return not isinstance(value, bool) and math.isfinite(value)


def placeholders(content: bytes) -> set[str]:
    """The names that stand in double braces.

    >>> sorted(placeholders(b"{{a}} {{ b }} {{c-d}} {e}"))
    ['a', 'c-d']
    """
    return {name.decode() for name in _PLACEHOLDER.findall(content)}


def substituted(content: bytes, values: Mapping[str, str]) -> bytes:
    """``content`` with values put in, in one pass; what stands for nothing stays as it is.

    >>> substituted(b"{{a}} {{b}} {{c}}", {"a": "{{b}}", "b": "2"})
    b'{{b}} 2 {{c}}'
    """

    def put_in(found: re.Match[bytes]) -> bytes:
        value = values.get(found[1].decode())
        return found[0] if value is None else value.encode()

    return _PLACEHOLDER.sub(put_in, content)
