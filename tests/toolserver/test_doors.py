"""Every operation of the table, through every door, its answer held against the published schema."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from protocol.operations import OPERATIONS
from tests.builder import Daemon, Http, Json, emptied, http_of, running, socket_of
from tests.ports import free_port

SERVE = f"{sys.executable} -m http.server --bind {{host}} {{port}}"
Ask = Callable[[str, Json], Awaitable[tuple[list[Json], Json]]]
"""Operation and params to (events, answer)."""

UNTIL_RESIZED = 'until [ "$(stty size)" = "30 100" ]; do sleep 0.02; done'
AN_HTML_PAGE = "<h1>hello</h1>"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("doors"), TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
        yield daemon


def archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("index.html")
        member.size = len(AN_HTML_PAGE)
        tar.addfile(member, io.BytesIO(AN_HTML_PAGE.encode()))
    return packed.getvalue()


def samples(door: str) -> list[tuple[str, Json]]:
    """One request of each operation that goes well, in an order in which they do."""
    content: Any = archive() if door == "msgpack" else base64.b64encode(archive()).decode()
    port = free_port()
    return [
        ("inject", {"archive": content}),
        ("list", {}),
        ("write", {"path": "src/a.txt", "content": "one\ntwo\n"}),
        ("read", {"path": "src/a.txt", "startLine": 2}),
        ("read_many", {"files": [{"path": "src/a.txt"}, {"path": "gone"}]}),
        ("stat", {"path": "src/a.txt"}),
        ("edit", {"path": "src/a.txt", "oldText": "two", "newText": "three"}),
        ("mkdir", {"path": "made"}),
        ("copy", {"path": "src", "to": "made/copy"}),
        ("move", {"path": "made/copy", "to": "made/moved"}),
        ("chmod", {"path": "made/moved/a.txt", "mode": 0o600}),
        ("remove", {"path": "made", "recursive": True}),
        ("undo", {}),
        ("redo", {}),
        ("checkpoint", {"name": door}),
        ("checkpoints", {}),
        ("checkpoint_diff", {"from": door}),
        ("rollback", {"to": door}),
        ("watch", {"timeoutMs": 0}),
        ("search", {"pattern": "three"}),
        ("replace", {"pattern": "three", "replacement": "3", "dryRun": True}),
        ("command", {"command": "cat; echo err >&2", "commandId": door, "stdinOpen": True, "yieldMs": 0}),
        ("send_input", {"processId": door, "data": "out", "eof": True}),
        ("attach", {"processId": door, "fromOffset": 1}),
        ("output", {"processId": door, "stream": "stderr"}),
        ("activity", {}),
        ("audit", {"limit": 3}),
        ("separation", {}),
        ("processes", {}),
        ("signal", {"processId": door, "signal": "TERM", "tree": True}),
        ("wait", {"processId": door}),
        ("ports", {"follow": False}),
        ("stop", {"processId": door}),
        ("shell", {"command": "echo out; echo err >&2", "name": door}),
        ("shell_output", {"number": 1, "name": door}),
        ("shells", {}),
        ("shell_restart", {"name": door}),
        ("shell_stop", {"name": door}),
        ("terminal_open", {"name": door, "command": UNTIL_RESIZED}),
        ("terminals", {}),
        ("resize", {"processId": door, "cols": 100, "rows": 30}),
        ("terminal_attach", {"terminal": door}),
        ("save", {}),
        ("install", {"command": "echo installed"}),
        ("dev_start", {"command": SERVE, "port": port}),
        ("dev_status", {}),
        ("dev_logs", {}),
        ("dev_feedback", {"paths": ["src/a.txt"], "timeoutMs": 1000}),
        ("dev_stop", {}),
        ("start", {"install": {"command": "true"}, "dev": {"port": port}}),
        ("bind_session", {"sessionId": "s1", "publicKeys": [base64.b64encode(bytes(32)).decode()]}),
        ("revoke", {"tokenId": f"of-{door}"}),
    ]


@pytest.fixture(params=["http", "ndjson", "sse", "mcp", "websocket", "msgpack"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ask_by(door: str, daemon: Daemon, stack: AsyncExitStack) -> Ask:
    if door in ("websocket", "msgpack"):
        form = "json" if door == "websocket" else "msgpack"
        socket = await stack.enter_async_context(socket_of(daemon, form))

        async def by_socket(operation: str, params: Json) -> tuple[list[Json], Json]:
            events, last = await socket.call(operation, **params)
            assert "result" in last, last
            return events, last["result"]

        return by_socket
    http = await stack.enter_async_context(http_of(daemon))
    if door == "mcp":
        return lambda operation, params: by_mcp(http, operation, params)
    accept = {"ndjson": "application/x-ndjson", "sse": "text/event-stream"}.get(door)

    async def by_http(operation: str, params: Json) -> tuple[list[Json], Json]:
        if accept is None or not OPERATIONS[operation].streams:
            return [], await http.ok(operation, **params)
        *events, last = await http.stream(operation, accept, **params)
        assert "result" in last, last
        return [frame["event"] for frame in events], last["result"]

    return by_http


async def by_mcp(http: Http, operation: str, params: Json) -> tuple[list[Json], Json]:
    call = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": operation, "arguments": params},
    }
    async with http.session.post("/mcp", json=call) as response:
        body = await response.json()
    assert body["id"] == 7
    assert not body["result"]["isError"], body
    return [], body["result"]["structuredContent"]


def test_the_samples_are_the_table() -> None:
    assert sorted(name for name, _ in samples("http")) == sorted(OPERATIONS)


async def test_every_operation_is_reached_and_answers_as_described(door: str, daemon: Daemon) -> None:
    emptied(daemon.root)
    schemas = await described(daemon)
    async with AsyncExitStack() as stack:
        ask = await ask_by(door, daemon, stack)
        for name, params in samples(door):
            events, answer = await ask(name, params)
            if door != "msgpack":
                validate(schemas, OPERATIONS[name].answer.__name__, answer)
            for event in events:
                assert door != "http"
                assert event["type"] in event_types(schemas, name), name
        await ask("dev_stop", {})


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in which a call that blocks the event loop raises; the log is looked at when it ends."""
    directory = tmp_path_factory.mktemp("watched")
    with running(directory, module="tests.watched", TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
        yield daemon


async def test_no_operation_blocks_the_event_loop(door: str, watched: Daemon) -> None:
    emptied(watched.root)
    async with AsyncExitStack() as stack:
        ask = await ask_by(door, watched, stack)
        for name, params in samples(door):
            await ask(name, params)
        await ask(
            "command", {"command": "seq 200000; cat", "stdin": "x" * 100_000, "pty": {}, "timeoutMs": 500}
        )
        await ask("command", {"command": "seq 1000000"})
        await ask("search", {"pattern": "html", "in": "names"})
        await ask("dev_stop", {})


async def test_the_detector_detects() -> None:
    code = "import asyncio, os; from tests.watched import watch; watch()\n"
    code += "async def main(): os.stat('/')\nasyncio.run(main())"
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, check=False
    )
    assert b"BlockingError: Blocking call to os.stat" in ended.stderr


async def described(daemon: Daemon) -> Json:
    async with http_of(daemon) as http, http.session.get("/openapi.json") as response:
        document: Json = await response.json()
    return document


async def test_the_published_document_is_valid(daemon: Daemon) -> None:
    OpenAPIV31SpecValidator(await described(daemon)).validate()


def validate(document: Json, name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def event_types(document: Json, operation: str) -> set[str]:
    """The types that the operation's stream is described with."""
    content = document["paths"][f"/v1/{operation}"]["post"]["responses"]["200"]["content"]
    schema = content["application/x-ndjson"]["schema"]["anyOf"][0]["properties"]["event"]
    references = schema.get("anyOf", [schema])
    names = [each["$ref"].rpartition("/")[2] for each in references]
    return {document["components"]["schemas"][name]["properties"]["type"]["enum"][0] for name in names}
