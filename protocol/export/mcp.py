"""The table as tools of the Model Context Protocol: each operation's name, line and schema."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from protocol.export.schema import described
from protocol.messages.base import Request
from protocol.operations import OPERATIONS, Operation
from protocol.tokens import Scope

_REF = "#/$defs/{name}"


@functools.cache
def tools() -> dict[str, dict[str, Any]]:
    """Every operation as a tool, by name, in the order of the table."""
    return {operation.name: _tool(operation) for operation in OPERATIONS.values()}


def input_schema(request: type[Request]) -> dict[str, Any]:
    """JSON Schema of a request: an object at the top, as the protocol wants it, and all it refers to below.

    >>> from protocol.messages.devserver import DevLogs
    >>> schema = input_schema(DevLogs)
    >>> schema["type"], schema["additionalProperties"]
    ('object', False)
    """
    _, schemas = msgspec.json.schema_components([request], ref_template=_REF)
    described(schemas)
    top = schemas.pop(request.__name__)
    below = {"$defs": schemas} if schemas else {}
    # The tool says it already; every word of a schema is read by a model.
    return {name: value for name, value in top.items() if name not in ("title", "description")} | below


def _tool(operation: Operation) -> dict[str, Any]:
    reads = operation.scope is Scope.READ
    return {
        "name": operation.name,
        "description": operation.doc,
        "inputSchema": input_schema(operation.request),
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": not reads,
            "idempotentHint": reads,
            "openWorldHint": operation.scope in (Scope.COMMAND, Scope.DEV),
        },
    }
