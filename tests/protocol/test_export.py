"""The published documents: what they describe is what there is."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from protocol import routes
from protocol.codec import encode
from protocol.errors import BY_CODE
from protocol.export.openapi import describe, document
from protocol.export.schema import components
from protocol.messages.base import Encoding
from protocol.messages.commands import Command, Pty
from protocol.messages.edits import Edit, FileEdit
from protocol.messages.files import Write
from protocol.messages.search import Search, Where
from protocol.operations import OPERATIONS, Operation

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda each: each.name)


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(document())
    return loaded


def test_the_document_is_valid_openapi(openapi: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(openapi).validate()


@every_operation
def test_an_operation_is_described(operation: Operation, openapi: dict[str, Any]) -> None:
    post = openapi["paths"][f"/v1/{operation.name}"]["post"]
    assert (post["operationId"], post["summary"]) == (operation.name, operation.doc)
    request = post["requestBody"]["content"]["application/json"]["schema"]
    assert request == {"$ref": f"#/components/schemas/{operation.request.__name__}"}
    answers = post["responses"]["200"]["content"]
    assert answers["application/json"]["schema"] == {
        "$ref": f"#/components/schemas/{operation.answer.__name__}"
    }
    assert ("application/x-ndjson" in answers) == ("text/event-stream" in answers) == operation.streams


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            reference = node.get("$ref", "")
            if reference.startswith("#/components/schemas/"):
                assert reference.rpartition("/")[2] in schemas
            for each in node.values():
                visit(each)
        elif isinstance(node, list):
            for each in node:
                visit(each)

    visit(openapi)


def test_the_raw_doors_are_described(openapi: dict[str, Any]) -> None:
    assert {routes.HEALTH, routes.READY, routes.ARCHIVE} <= openapi["paths"].keys()
    assert openapi["paths"][routes.HEALTH]["get"]["security"] == []


def test_the_ways_to_give_a_token_are_described(openapi: dict[str, Any]) -> None:
    assert openapi["components"]["securitySchemes"]["token"]["name"] == "X-Workspace-Token"
    assert openapi["security"] == [{"bearer": []}, {"token": []}]


def test_every_code_is_named(openapi: dict[str, Any]) -> None:
    text = openapi["components"]["responses"]["Error"]["description"]
    assert all(code in text for code in BY_CODE)


def test_a_fields_description_is_the_string_below_it() -> None:
    _, schemas = components()
    assert schemas["Inject"]["properties"]["archive"]["description"] == "Base64 in JSON."
    assert schemas["Search"]["properties"]["in"][
        "enum" if "enum" in schemas["Search"]["properties"]["in"] else "$ref"
    ]
    assert "camelCase" not in schemas["Read"]["description"]


SAMPLES = [
    Write(path="a", content="x", encoding=Encoding.BASE64, mode=0o600),
    Search(pattern="x", in_=Where.NAMES, glob=["*.ts"], max_matches=3),
    Command(argv=["a"], env={"A": "b"}, pty=Pty(), timeout_ms=5),
    Edit(edits=[FileEdit(path="a", old_text="b", new_text="c")]),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda each: type(each).__name__)
def test_what_the_codec_sends_the_schema_takes(message: Any) -> None:
    validator = _validator(type(message).__name__)
    validator.validate(json.loads(encode(message)))


@pytest.mark.parametrize(
    "wrong", [{"path": 1, "content": ""}, {"path": "a"}, {"path": "a", "content": "", "x": 1}]
)
def test_what_the_codec_refuses_the_schema_refuses(wrong: dict[str, Any]) -> None:
    assert not _validator("Write").is_valid(wrong)


def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": describe()["components"]}
    return jsonschema.Draft202012Validator(schema)
