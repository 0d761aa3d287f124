"""The door for agents, by the protocol's own client in both ages, and by hand where it is too polite."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from protocol.operations import OPERATIONS
from tests.builder import PATIENCE_SECONDS, TOKEN, Daemon, Http, until


@asynccontextmanager
async def agent_of(daemon: Daemon, mode: str, query: str = "") -> AsyncIterator[Client]:
    """The protocol's own client."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS) as plain:
        transport = streamable_http_client(f"{daemon.url}/mcp{query}", http_client=plain)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.fixture(params=["legacy", "auto", "2026-07-28"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_an_agent_finds_the_tools_and_works_with_them(daemon: Daemon, root: Path, mode: str) -> None:
    async with agent_of(daemon, mode) as agent:
        listed = await agent.list_tools()
        assert [tool.name for tool in listed.tools] == list(OPERATIONS)
        written = await agent.call_tool("write", {"path": "src/a.txt", "content": "one\n"})
        assert not written.is_error
        edited = await agent.call_tool("edit", {"path": "src/a.txt", "oldText": "one", "newText": "two"})
        assert "+two" in edited.structured_content["files"][0]["diff"]
        ran = await agent.call_tool("command", {"command": "cat src/a.txt; echo lost >&2; exit 3"})
        assert ran.structured_content["stdout"] == "two\n"
        assert ran.structured_content["stderr"] == "lost\n"
        assert ran.structured_content["exitCode"] == 3
    assert (root / "src/a.txt").read_text() == "two\n"


async def test_a_tool_that_fails_tells_the_model_why(daemon: Daemon, root: Path, mode: str) -> None:
    async with agent_of(daemon, mode) as agent:
        missing = await agent.call_tool("read", {"path": "gone.txt"})
        assert missing.is_error
        [text] = missing.content
        assert isinstance(text, TextContent)
        assert "'gone.txt'" in text.text
        with pytest.raises(MCPError, match="did you mean 'search'"):
            await agent.call_tool("serch", {})


async def test_an_address_may_ask_for_few_tools(daemon: Daemon, mode: str) -> None:
    async with agent_of(daemon, mode, "?tools=read,command") as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == ["read", "command"]


async def test_the_door_needs_the_token(daemon: Daemon) -> None:
    async with httpx2.AsyncClient() as plain:
        answer = await plain.post(f"{daemon.url}/mcp", content=b"{}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


async def test_no_stream_is_offered_that_nobody_would_write_to(http: Http) -> None:
    async with http.session.get("/mcp") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def call_of(params: dict[str, Any], *, stateless: bool) -> dict[str, Any]:
    """What ``session.post`` is given for a call of the tool ``command``."""
    headers = {"Accept": "application/json, text/event-stream"}
    if stateless:
        version = "io.modelcontextprotocol/protocolVersion"
        params["_meta"] = {version: "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        headers |= {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "command"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "command", **params}}
    return {"data": json.dumps(body), "headers": headers}


@pytest.mark.parametrize("stateless", [True, False])
async def test_hanging_up_ends_a_call_of_those_clients_alone_that_mean_it_so(
    http: Http, root: Path, stateless: bool
) -> None:
    params = {
        "arguments": {
            "command": "echo $$ > pid; sleep 0.3; echo done > done; sleep 60",
            "commandId": f"c{stateless}",
        }
    }
    async with http.session.post("/mcp", **call_of(params, stateless=stateless)) as answer:
        assert answer.content_type == "text/event-stream"
        await until((root / "pid").exists)
    if stateless:
        ended = await http.ok("wait", processId="cTrue", timeoutMs=int(PATIENCE_SECONDS * 1000))
        assert ended["exitCode"] is not None or ended["signal"] is not None
    else:
        await until((root / "done").exists)
        await http.ok("stop", processId="cFalse")


async def test_calls_at_the_same_time_do_not_wait_for_each_other(http: Http, root: Path) -> None:
    async def post(command: str) -> str:
        request = call_of({"arguments": {"command": command}}, stateless=True)
        async with http.session.post("/mcp", **request) as answer:
            return await answer.text()

    waiting = asyncio.create_task(post("until [ -e go ]; do sleep 0.05; done; echo went"))
    assert "touched" in await post("touch go; echo touched")
    assert "went" in await waiting
