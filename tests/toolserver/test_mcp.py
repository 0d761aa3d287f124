"""The Model Context Protocol, sans-I/O: what each message means, in both ages of the protocol."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from protocol.errors import NotFound
from protocol.export.mcp import tools
from protocol.messages.base import Encoding
from protocol.messages.files import Read, ReadAnswer, WriteAnswer
from protocol.operations import OPERATIONS
from protocol.tokens import Scope
from toolserver.mcp import CallTool, Reply, receive
from toolserver.tools.admission import EVERYTHING, Admission

Json = dict[str, Any]
READER = Admission("ann", frozenset({Scope.READ}))
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def message(method: str, params: Json | None = None, **more: Any) -> Json:
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        **({} if params is None else {"params": params}),
        **more,
    }


def told(body: Json | bytes, **more: Any) -> Reply | CallTool:
    """What is made of a message without a header, as older clients may send it."""
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    return receive(
        given, more.pop("headers", {}), more.pop("admission", EVERYTHING), more.pop("wanted", None)
    )


def stateless(method: str, params: Json | None = None, **headers: str) -> Reply | CallTool:
    """What is made of one of today's messages."""
    said = {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    if method == "tools/call":
        said["Mcp-Name"] = (params or {})["name"]
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = message(method, {**(params or {}), "_meta": META})
    return told(body, headers={name: [value] for name, value in said.items()})


def answered(decision: Reply | CallTool, status: int = 200) -> Json:
    assert isinstance(decision, Reply)
    assert decision.status == status, decision
    assert decision.body is not None
    body: Json = json.loads(decision.body)
    return body


def call(name: str, **arguments: Any) -> Json:
    return message("tools/call", {"name": name, "arguments": arguments})


def run(decision: Reply | CallTool) -> CallTool:
    assert isinstance(decision, CallTool), decision
    return decision


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2025-11-25"),
        (None, "2025-11-25"),
    ],
)
def test_a_client_that_introduces_itself_is_met_at_its_version_or_the_newest(
    asked: str | None, given: str
) -> None:
    result = answered(told(message("initialize", {"protocolVersion": asked, "capabilities": {}})))["result"]
    assert result["protocolVersion"] == given
    assert result["serverInfo"]["name"] == "workspace-core"
    assert result["capabilities"] == {"tools": {}}


def test_a_client_of_today_finds_out_what_is_here_without_a_handshake() -> None:
    result = answered(stateless("server/discover"))["result"]
    assert result["supportedVersions"][0] == "2026-07-28"
    assert result["resultType"] == "complete"
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "workspace-core"


def test_every_operation_is_a_tool_with_a_schema_that_holds_for_itself() -> None:
    listed = answered(stateless("tools/list"))["result"]["tools"]
    assert [tool["name"] for tool in listed] == list(OPERATIONS)
    for tool in listed:
        assert tool["inputSchema"]["type"] == "object"
        assert tool["description"]
        jsonschema.Draft202012Validator.check_schema(tool["inputSchema"])
        # Refers to nothing outside itself: this would raise.
        list(jsonschema.Draft202012Validator(tool["inputSchema"]).iter_errors({"path": 1, "edits": [1]}))


def test_the_words_of_fields_reach_the_model() -> None:
    schema = tools()["inject"]["inputSchema"]
    assert schema["properties"]["archive"]["description"] == "Base64 in JSON."


def test_tools_that_only_read_say_so() -> None:
    assert tools()["read"]["annotations"]["readOnlyHint"]
    assert tools()["write"]["annotations"] == {
        "readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": False,
    }  # fmt: skip


def test_a_token_is_offered_what_it_is_good_for() -> None:
    offered = answered(told(message("tools/list"), admission=READER))["result"]["tools"]
    assert {OPERATIONS[tool["name"]].scope for tool in offered} <= {Scope.READ, None}
    assert "read" in {tool["name"] for tool in offered}


def test_a_client_may_limit_itself_to_some_tools() -> None:
    wanted = frozenset({"read", "edit", "no_such"})
    offered = answered(told(message("tools/list"), wanted=wanted))["result"]["tools"]
    assert {tool["name"] for tool in offered} == {"read", "edit"}
    refused = answered(told(call("command", command="id"), wanted=wanted))["error"]
    assert refused == {
        "code": -32602,
        "message": "'command' is not among the tools that the address asks for",
    }


def test_a_call_is_to_be_run() -> None:
    decision = run(told(call("read", path="a")))
    assert (decision.operation.name, decision.request, decision.stateless) == ("read", Read(path="a"), False)
    assert run(stateless("tools/call", {"name": "read", "arguments": {"path": "a"}})).stateless


def test_the_names_that_agents_know_are_taken() -> None:
    decision = run(told(call("edit", path="a", old_string="x", new_string="y")))
    assert decision.request == run(told(call("edit", path="a", oldText="x", newText="y"))).request


def test_no_arguments_are_no_fields() -> None:
    for params in ({"name": "list"}, {"name": "list", "arguments": {}}, {"name": "list", "arguments": None}):
        assert run(told(message("tools/call", params))).operation.name == "list"


def test_wrong_arguments_are_an_answer_that_the_model_sees() -> None:
    result = answered(told(call("read", path=1)))["result"]
    assert result["isError"]
    assert result["content"] == [{"type": "text", "text": "expected 'str', got 'int' in 'path'"}]
    assert result["structuredContent"]["error"]["code"] == "invalid_request"


def test_an_answer_is_both_text_and_data() -> None:
    decision = run(told(call("write", path="a", content="")))
    answer = WriteAnswer(path="a", size=0, hash="sha256:0", created=True)
    result = json.loads(decision.result(answer))["result"]
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    assert not result["isError"]


def test_a_tool_that_fails_says_why() -> None:
    decision = run(told(call("read", path="a")))
    result = json.loads(decision.failure(NotFound("there is no 'a'", path="a"), "r1"))["result"]
    assert result["isError"]
    assert result["content"] == [{"type": "text", "text": "there is no 'a'"}]
    assert result["structuredContent"]["error"]["requestId"] == "r1"


def test_a_picture_is_shown_as_one() -> None:
    decision = run(told(call("read", path="a.png")))
    answer = ReadAnswer(
        path="a.png", content="iVBO", encoding=Encoding.BASE64, charset=None, media_type="image/png", size=3,
        total_lines=None, hash=None,
    )  # fmt: skip
    picture, text = json.loads(decision.result(answer))["result"]["content"]
    assert picture == {"type": "image", "data": "iVBO", "mimeType": "image/png"}
    assert json.loads(text["text"])["content"] == ""


@pytest.mark.parametrize(
    "body", [message("notifications/initialized"), {"jsonrpc": "2.0", "id": 1, "result": {}}]
)
def test_what_asks_for_nothing_is_taken_note_of(body: Json) -> None:
    body.pop("id", None)
    assert told(body) == Reply(202)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"{", -32700, "the body is not JSON"),
        (b"[]", -32600, "send one message at a time"),
        (b"7", -32600, "the body is no JSON-RPC message"),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600, "the body is no JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":[],"method":"ping"}', -32600, "the body is no JSON-RPC message"),
        (b"[" * 100_000, -32700, "the body is not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_with_its_reason(body: bytes, code: int, words: str) -> None:
    error = answered(told(body), 400)["error"]
    assert error["code"] == code
    assert error["message"].startswith(words)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (message("resources/list"), -32601, "there is no method 'resources/list' here; there are tools only"),
        (message("tools/call", {}), -32602, "'params.name' is missing: the tool to call"),
        (call("serch"), -32602, "there is no operation 'serch'; did you mean 'search'?"),
        (message("tools/call", {"name": 1}), -32602, "params: expected 'str | null', got 'int' in 'name'"),
    ],
)  # fmt: skip
def test_the_protocols_own_errors_come_with_200_to_older_clients(body: Json, code: int, words: str) -> None:
    assert answered(told(body))["error"] == {"code": code, "message": words}


def test_todays_clients_get_them_with_a_status() -> None:
    assert answered(stateless("ping"), 404)["error"]["code"] == -32601
    assert answered(stateless("initialize"), 404)["error"]["code"] == -32601
    assert answered(stateless("tools/call", {"name": "serch"}), 400)["error"]["code"] == -32602


@pytest.mark.parametrize("headers", [{"Mcp-Protocol-Version": ["1999-01-01"]}])
def test_a_version_that_is_not_spoken_is_refused_with_those_that_are(headers: dict[str, list[str]]) -> None:
    error = answered(told(message("tools/list"), headers=headers), 400)["error"]
    assert (error["code"], error["data"]["requested"]) == (-32022, "1999-01-01")
    assert "2026-07-28" in error["data"]["supported"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp_Method": "tools/list"},
        {"Mcp_Name": "write"},
        {"Mcp_Protocol_Version": "2025-11-25"},
        {"Mcp_Name": "=?base64?*?="},
    ],
)
def test_headers_that_say_something_else_than_the_body_are_refused(headers: dict[str, str]) -> None:
    refused = stateless("tools/call", {"name": "read", "arguments": {"path": "a"}}, **headers)
    assert answered(refused, 400)["error"]["code"] == -32020


def test_a_header_that_comes_twice_is_refused() -> None:
    headers = {"Mcp-Protocol-Version": ["2026-07-28"], "Mcp-Method": ["tools/list", "tools/list"]}
    refused = told(message("tools/list", {"_meta": META}), headers=headers)
    assert answered(refused, 400)["error"]["code"] == -32020


def test_a_tools_name_may_come_in_base64() -> None:
    decision = stateless(
        "tools/call", {"name": "read", "arguments": {"path": "a"}}, Mcp_Name="=?base64?cmVhZA==?="
    )
    assert run(decision).operation.name == "read"


def test_todays_messages_have_to_say_what_their_client_can() -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    headers = {"Mcp-Protocol-Version": ["2026-07-28"], "Mcp-Method": ["tools/list"]}
    error = answered(told(message("tools/list", {"_meta": meta}), headers=headers), 400)["error"]
    assert error == {
        "code": -32602, "message": "'params._meta' lacks 'io.modelcontextprotocol/clientCapabilities'",
    }  # fmt: skip
