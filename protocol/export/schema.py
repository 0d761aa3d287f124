"""JSON Schema of every message, out of the table.

A field's description is the string below it in the source, so that it is written once, where it is read.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from typing import Any

import msgspec

from protocol.errors import ErrorBody
from protocol.operations import OPERATIONS

REF = "#/components/schemas/{name}"


class ErrorAnswer(msgspec.Struct, frozen=True):
    """What comes instead of an answer."""

    error: ErrorBody


def components() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One reference per message, in the order of ``message_types``, and the schemas they point to."""
    references, schemas = msgspec.json.schema_components(message_types(), ref_template=REF)
    described(schemas)
    return list(references), schemas


def described(schemas: dict[str, Any]) -> None:
    """Put the fields' own words into the schemas of Structs, which are given by the Structs' names."""
    structs = _structs()
    for name, schema in schemas.items():
        if name in structs:
            _describe_fields(schema, structs[name])
        if "description" in schema:
            schema["description"] = schema["description"].replace("``", "`")


def message_types() -> tuple[Any, ...]:
    """Request, answer and events of every operation, then the error."""
    found: list[Any] = []
    for operation in OPERATIONS.values():
        found += [operation.request, operation.answer]
        found += [operation.events] if operation.streams else []
    return (*found, ErrorAnswer)


def _structs() -> dict[str, type[msgspec.Struct]]:
    """Every Struct of the protocol by name."""

    def below(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
        return [kind] + [each for child in kind.__subclasses__() for each in below(child)]

    return {kind.__name__: kind for kind in below(msgspec.Struct) if kind.__module__.startswith("protocol.")}


def _describe_fields(schema: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    properties = schema.get("properties", {})
    for field in msgspec.structs.fields(kind):
        text = next(
            (docs[field.name] for base in kind.__mro__ if field.name in (docs := field_docs(base))), None
        )
        if text and field.encode_name in properties:
            properties[field.encode_name] = {**properties[field.encode_name], "description": text}


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """The strings below a class's fields.

    >>> from protocol.messages.archives import Inject
    >>> field_docs(Inject)["archive"]
    'Base64 in JSON.'
    """
    if not kind.__module__.startswith("protocol."):
        return {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(str(text.value.value)).replace("``", "`")
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
