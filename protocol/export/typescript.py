"""The table of operations in TypeScript: ``python -m protocol.export.typescript > workspace.d.ts``.

A backend in TypeScript then has every request, answer, event and error typed, and ``Operations`` to look them
up by name. Written from the same schema that OpenAPI carries. In a request a field with a default may be left
out; in what the tool server sends every field is there.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from protocol import __version__, routes
from protocol.errors import BY_CODE
from protocol.export.schema import components
from protocol.messages.base import Part, Request
from protocol.operations import OPERATIONS, Operation

_SCALARS = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def declaration() -> str:
    """The whole file."""
    _, schemas = components()
    given = {kind.__name__ for base in (Request, Part) for kind in _below(base)}
    types = [_declared(name, schema, name in given) for name, schema in schemas.items()]
    return "\n\n".join((_HEAD, *types, _operations(), _FRAMES)) + "\n"


def ts_type(schema: dict[str, Any]) -> str:
    """A schema as a type expression.

    >>> ts_type({"anyOf": [{"type": "integer"}, {"type": "null"}]})
    'number | null'
    >>> ts_type({"type": "array", "items": {"$ref": "#/components/schemas/Match"}})
    'Match[]'
    """
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(ts_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(each) for each in schema["enum"])
    if schema.get("type") == "array":
        item = ts_type(schema.get("items", {}))
        return f"({item})[]" if "|" in item else f"{item}[]"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"Record<string, {ts_type(values) if isinstance(values, dict) else 'unknown'}>"
    return _SCALARS.get(str(schema.get("type")), "unknown")


def _declared(name: str, schema: dict[str, Any], given: bool) -> str:
    doc = _doc(schema.get("description", ""))
    if "properties" not in schema and schema.get("type") != "object":
        return f"{doc}export type {name} = {ts_type(schema)};"
    optional = set(schema.get("properties", {})) - set(schema.get("required", ())) if given else set()
    fields = "".join(
        f"{_doc(each.get('description', ''), '  ')}  {field}{'?' * (field in optional)}: {ts_type(each)};\n"
        for field, each in schema.get("properties", {}).items()
    )
    return f"{doc}export interface {name} {{\n{fields}}}"


def _operations() -> str:
    lines = "".join(f"{_doc(each.doc, '  ')}  {each.name}: {_entry(each)};\n" for each in OPERATIONS.values())
    return f"/** Every operation by its name. */\nexport interface Operations {{\n{lines}}}"


def _entry(operation: Operation) -> str:
    events = " | ".join(_names(operation.events)) or "never"
    return (
        f"{{ request: {operation.request.__name__}; answer: {operation.answer.__name__}; event: {events} }}"
    )


def _names(events: Any) -> list[str]:
    if events is None:
        return []
    return [each.__name__ for each in getattr(events, "__args__", (events,))]


def _below(kind: type[Any]) -> list[type[Any]]:
    children: list[type[Any]] = kind.__subclasses__()
    return [each for child in children for each in (child, *_below(child))]


def _doc(text: str, indent: str = "") -> str:
    lines = text.replace("*/", "* /").splitlines()
    if not lines:
        return ""
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return "".join(
        (f"{indent}/**\n", *(f"{indent} * {line}".rstrip() + "\n" for line in lines), f"{indent} */\n")
    )


_HEAD = f"// workspace-core {__version__}: what crosses between a tool server and its clients."

_FRAMES = f"""/** What an error's `code` may be. */
export type ErrorCode = {" | ".join(json.dumps(code) for code in sorted(BY_CODE))};

export type OperationName = keyof Operations;

/** A frame to the tool server, on {routes.WEBSOCKET}. */
export type RequestFrame<Name extends OperationName = OperationName> =
  | {{ id: string; op: Name; params?: Operations[Name]["request"]; stream?: boolean }}
  | {{ id: string; op: "cancel" }};

/** A frame from it: any number of events, then exactly one result or error. */
export type ReplyFrame<Name extends OperationName = OperationName> =
  | {{ id: string; event: Operations[Name]["event"] }}
  | {{ id: string; result: Operations[Name]["answer"] }}
  | {{ id: string; error: ErrorBody }};"""


if __name__ == "__main__":
    sys.stdout.write(declaration())
