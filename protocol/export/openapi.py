"""OpenAPI 3.1 of the HTTP door, out of the table."""

from __future__ import annotations

import functools
from typing import Any

from protocol import __version__, routes
from protocol.codec import encode
from protocol.errors import BY_CODE
from protocol.export.schema import ErrorAnswer, components
from protocol.operations import OPERATIONS, Operation

_JSON = "application/json"
_STREAMS = ("application/x-ndjson", "text/event-stream")
_ARCHIVE_TYPES = ("application/gzip", "application/zstd", "application/x-tar")


@functools.cache
def document() -> bytes:
    """The document as JSON bytes, made once."""
    return encode(describe())


def describe() -> dict[str, Any]:
    """The document as plain data."""
    references, schemas = components()
    remaining = iter(references)
    paths = {
        routes.OPERATION.format(operation=each.name): {"post": _operation(each, remaining)}
        for each in OPERATIONS.values()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "workspace-core tool server",
            "version": __version__,
            "description": "One workspace: its files, its commands, its dev server. All of it is also "
            f"spoken over the WebSocket at {routes.WEBSOCKET}, many requests at once.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {"token": []}],
        "paths": {**paths, **_raw_paths()},
        "components": {
            "schemas": schemas,
            "responses": {"Error": {"description": _codes(), "content": _content(_ref(ErrorAnswer))}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": routes.TOKEN_HEADER},
            },
        },
    }


def _operation(operation: Operation, references: Any) -> dict[str, Any]:
    request, answer = next(references), next(references)
    event = next(references) if operation.streams else None
    content = _content(answer)
    if event is not None:
        frame = {"anyOf": [_wrapped("event", event), _wrapped("result", answer), _ref(ErrorAnswer)]}
        content |= {kind: {"schema": frame} for kind in _STREAMS}
    return {
        "operationId": operation.name,
        "summary": operation.doc,
        "tags": [operation.scope.value],
        "requestBody": {"content": _content(request)},
        "responses": {"200": {"description": "The answer.", "content": content}, **_errors()},
    }


def _content(schema: Any) -> dict[str, Any]:
    return {_JSON: {"schema": schema}}


def _wrapped(name: str, schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _errors() -> dict[str, Any]:
    return {"default": {"$ref": "#/components/responses/Error"}}


def _codes() -> str:
    return "Refused. Codes: " + ", ".join(sorted(BY_CODE)) + "."


def _raw_paths() -> dict[str, Any]:
    archive = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _ARCHIVE_TYPES}
    health = {"200": {"description": "Alive, or ready."}, "503": {"description": "Not ready."}}
    return {
        routes.HEALTH: {"get": {"summary": "Liveness; needs no token.", "security": [], "responses": health}},
        routes.READY: {
            "get": {"summary": "Readiness of content and dev server.", "security": [], "responses": health}
        },
        routes.METRICS: {
            "get": {
                "summary": "Figures for Prometheus; needs the scope `read`.",
                "responses": {
                    "200": {"description": "Prometheus's text format.", "content": {"text/plain": {}}},
                    **_errors(),
                },
            }
        },
        routes.FILE: _file_path(),
        routes.ARCHIVE: {
            "get": {
                "summary": "The workspace's content as an archive, streamed.",
                "parameters": [
                    _query("format", ["gzip", "zstd", "tar"]),
                    _query("times", ["kept", "fixed"]),
                    {"name": "since", "in": "query", "schema": {"type": "string"}},
                ],
                "responses": {"200": {"description": "The archive.", "content": archive}, **_errors()},
            },
            "put": {
                "summary": "Replace the workspace's content by an archive, streamed; whole or not at all.",
                "parameters": [
                    _query("mode", ["replace", "merge", "delta"]),
                    {"name": "digest", "in": "query", "schema": {"type": "string"}},
                ],
                "requestBody": {"content": archive},
                "responses": {
                    "200": {
                        "description": "In place.",
                        "content": _content({"$ref": "#/components/schemas/InjectAnswer"}),
                    },
                    **_errors(),
                },
            },
        },
        routes.MANIFEST: {
            "get": {
                "summary": "What a save held: one line for it, then one for each path.",
                "parameters": [{"name": "digest", "in": "query", "schema": {"type": "string"}}],
                "responses": {
                    "200": {
                        "description": "Lines of JSON.",
                        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
                    },
                    **_errors(),
                },
            }
        },
    }


def _file_path() -> dict[str, Any]:
    content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    sent = {"description": "The bytes, or those of one Range.", "content": content}
    written = {
        "description": "In place.",
        "content": _content({"$ref": "#/components/schemas/WriteAnswer"}),
    }
    mode = {"name": "mode", "in": "query", "schema": {"type": "string", "pattern": "^[0-7]{3,4}$"}}
    return {
        "parameters": [{"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}],
        "get": {
            "summary": "One file's bytes, streamed; takes Range and If-None-Match.",
            "responses": {"200": sent, "206": sent, "304": {"description": "Known already."}, **_errors()},
        },
        "put": {
            "summary": "Write one file, streamed, whole or not at all; takes If-Match and If-None-Match.",
            "parameters": [mode],
            "requestBody": {"content": content},
            "responses": {"200": written, "201": written, **_errors()},
        },
        "delete": {
            "summary": "Remove one file; takes If-Match.",
            "responses": {"204": {"description": "Gone."}, **_errors()},
        },
    }


def _query(name: str, values: list[str]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "string", "enum": values}}
