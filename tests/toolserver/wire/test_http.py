"""The HTTP door: tokens, ids, streams, and wrong requests told clearly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from protocol import __version__
from tests.builder import TOKEN, Daemon, Http, Json, Refusal, http_of, raw_of, tree_of, until

UNNAMED = re.compile(r"r[0-9a-f]{16}")


async def refusal(response: aiohttp.ClientResponse) -> Refusal:
    assert response.content_type == "application/json"
    return Refusal.of(response.status, await response.json())


@pytest.fixture
async def stranger(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a token."""
    async with aiohttp.ClientSession(daemon.url) as session:
        yield session


async def test_health_needs_no_token(stranger: aiohttp.ClientSession) -> None:
    async with stranger.get("/health") as response:
        body = await response.json()
    assert (response.status, body["status"], body["version"]) == (200, "healthy", __version__)
    assert body["uptimeSeconds"] > 0


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/v1/ws", "/v1/archive", "/nowhere", "/v1/list"])
async def test_everything_else_does(stranger: aiohttp.ClientSession, path: str) -> None:
    async with stranger.get(path) as response:
        refused = await refusal(response)
    assert (refused.status, refused.code) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"X-Workspace-Token": TOKEN},
        {"authorization": f"bearer {TOKEN}"},
    ],
)
async def test_a_token_may_come_in_two_headers(
    stranger: aiohttp.ClientSession, root: Path, headers: dict[str, str]
) -> None:
    async with stranger.post("/v1/list", headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize("token", ["wrong-token-of-the-tests", TOKEN[:-1], "\xff" * 18])
async def test_a_wrong_token_is_refused(stranger: aiohttp.ClientSession, token: str) -> None:
    async with stranger.post("/v1/list", headers={"X-Workspace-Token": token}) as response:
        refused = await refusal(response)
    assert (refused.status, refused.message) == (401, "the token is not the one of this tool server")


async def test_a_header_that_is_no_text_is_refused(daemon: Daemon) -> None:
    request = b"POST /v1/list HTTP/1.1\r\nHost: x\r\nX-Workspace-Token: \xff\xfe\r\nConnection: close\r\n\r\n"
    async with raw_of(daemon, request) as reader:
        head = await reader.readline()
    assert head.startswith(b"HTTP/1.1 401 ")


async def test_a_page_of_another_site_is_refused_even_with_the_token(http: Http) -> None:
    async with http.session.post("/v1/list", headers={"Origin": "https://evil.example"}) as response:
        refused = await refusal(response)
    assert (refused.status, refused.code) == (403, "forbidden")
    assert refused.message == "requests from pages of 'https://evil.example' are not taken"


async def test_our_own_page_is_taken(http: Http, daemon: Daemon, root: Path) -> None:
    async with http.session.post("/v1/list", headers={"Origin": daemon.url}) as response:
        assert response.status == 200


async def test_the_callers_request_id_is_given_back_and_logged(
    http: Http, daemon: Daemon, root: Path
) -> None:
    async with http.session.post("/v1/list", headers={"X-Request-Id": "mine-1"}) as response:
        assert response.headers["X-Request-Id"] == "mine-1"
    refused = await http.session.post("/v1/read", json={"path": "no"}, headers={"X-Request-Id": "mine-2"})
    assert (await refusal(refused)).request_id == refused.headers["X-Request-Id"] == "mine-2"
    # Lines are written after the answers that they tell of.
    await until(lambda: {"mine-1", "mine-2"} <= operations_told(daemon).keys(), "the lines")
    lines = operations_told(daemon)
    assert (lines["mine-1"]["operation"], lines["mine-1"]["outcome"]) == ("list", "ok")
    assert (lines["mine-2"]["operation"], lines["mine-2"]["outcome"]) == ("read", "not_found")
    assert lines["mine-2"]["durationMs"] >= 0


def operations_told(daemon: Daemon) -> dict[str, Json]:
    """The log's lines of operations, by the id of their request."""
    return {line["requestId"]: line for line in daemon.log() if line["message"] == "operation"}


@pytest.mark.parametrize("given", [None, "", "x" * 129, "tab\there", "ü"])
async def test_without_a_usable_id_one_is_made(http: Http, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    async with http.session.post("/v1/list", headers=headers) as response:
        assert UNNAMED.fullmatch(response.headers["X-Request-Id"])


async def test_two_requests_have_two_ids(http: Http) -> None:
    one, two = await http.refused("read", path="no"), await http.refused("read", path="no")
    assert one.request_id != two.request_id


async def test_an_unknown_operation_is_told_with_the_nearest(http: Http) -> None:
    refused = await http.refused("serch", pattern="x")
    assert (refused.status, refused.code) == (404, "not_found")
    assert refused.message == "there is no operation 'serch'; did you mean 'search'?"


async def test_an_unknown_route_is_told_where_the_routes_are(http: Http) -> None:
    async with http.session.get("/v2/read") as response:
        refused = await refusal(response)
    assert (refused.status, refused.code) == (404, "not_found")
    assert refused.message == "there is nothing at /v2/read; see /openapi.json"


async def test_an_unknown_method_is_told_with_the_known_ones(http: Http) -> None:
    async with http.session.get("/v1/read") as response:
        refused = await refusal(response)
    assert (refused.status, refused.code, response.headers["Allow"]) == (405, "invalid_request", "POST")
    assert refused.message == "/v1/read does not take GET; it takes POST"


async def test_an_unknown_field_is_named(http: Http) -> None:
    refused = await http.refused("read", path="a", strtLine=1)
    assert (refused.status, refused.code) == (400, "invalid_request")
    assert refused.message == "unknown field 'strtLine'; did you mean 'startLine'?"
    assert refused.details == {"field": "strtLine"}


async def test_a_wrong_type_is_named(http: Http) -> None:
    refused = await http.refused("read", path=["a"])
    assert refused.message == "expected 'str', got 'array' in 'path'"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the request is not valid JSON: input data was truncated"),
        (b"path=a", "the request is not valid JSON: invalid character (byte 0)"),
        (b'{"path": "\xff"}', "the request is not valid JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"\xff\xfe", "the request is not valid JSON: invalid character (byte 0)"),
        (b'["path"]', "expected 'object', got 'array'"),
        (b"[" * 100_000, "expected 'object', got 'array'"),
        (
            b'{"x":' * 100_000,
            "unknown field 'x'; known are encoding, endLine, ifHash, length, maxBytes, maxLineBytes, "
            "maxLines, offset, path, startLine",
        ),
    ],
)
async def test_a_body_that_is_no_request_is_refused(http: Http, body: bytes, message: str) -> None:
    refused = await http.refused_body("read", body)
    assert (refused.status, refused.code) == (400, "invalid_request")
    assert refused.message.startswith(message)


async def test_an_empty_body_is_a_request_without_fields(http: Http, root: Path) -> None:
    async with http.session.post("/v1/list") as response:
        assert (await response.json()) == {"path": ".", "entries": [], "truncated": False}


async def test_a_body_over_the_limit_is_refused_and_nothing_is_kept_of_it(
    http: Http, daemon: Daemon, root: Path
) -> None:
    await http.ok("list")
    before = daemon.memory()

    head = f"POST /v1/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
    megabyte = b"f4240\r\n" + b" " * 1_000_000 + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    answer = asyncio.create_task(reader.read())
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            writer.write(megabyte)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    # The answer comes although the body is not taken.
    first, _, body = (await answer).partition(b"\r\n\r\n")
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    assert first.startswith(b"HTTP/1.1 413 ")
    refused = Refusal.of(413, json.loads(body))
    assert refused.code == "too_large"
    assert refused.message == "a request's body has at most 16777216 bytes; archives go to PUT /v1/archive"
    assert refused.details == {"limit": "maxFrameBytes", "value": 16777216}
    assert daemon.memory() - before < 64 * 2**20
    assert tree_of(root) == {}


async def test_a_declared_length_over_the_limit_is_refused(daemon: Daemon) -> None:
    head = f"POST /v1/write HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    async with raw_of(daemon, f"{head}Content-Length: 99999999999\r\n\r\n".encode()) as reader:
        line = await reader.readline()
    assert line.startswith(b"HTTP/1.1 413 ")


async def test_events_come_as_ndjson(http: Http, root: Path) -> None:
    *events, last = await http.stream("command", command="echo a; echo b >&2")
    assert events[0]["event"]["type"] == "started"
    said = {frame["event"]["type"]: frame["event"]["data"] for frame in events[1:]}
    assert said == {"stdout": "a\n", "stderr": "b\n"}
    assert last["result"]["exitCode"] == 0


async def test_events_come_as_server_sent_events(http: Http, root: Path) -> None:
    *events, last = await http.stream("command", "text/event-stream", command="echo a")
    assert [frame["event"]["type"] for frame in events] == ["started", "stdout"]
    assert last["result"]["stdout"] == "a\n"


async def test_an_error_before_the_stream_is_an_error(http: Http) -> None:
    headers = {"Accept": "application/x-ndjson"}
    async with http.session.post("/v1/command", json={"comand": "x"}, headers=headers) as response:
        assert (await refusal(response)).code == "invalid_request"


async def test_an_error_in_the_stream_is_its_last_line(http: Http, root: Path) -> None:
    (frame,) = await http.stream("command", argv=["no-such-program"])
    assert frame["error"]["code"] == "not_found"
    assert UNNAMED.fullmatch(frame["error"]["requestId"])


async def test_an_operation_without_events_answers_in_one_piece(http: Http, root: Path) -> None:
    headers = {"Accept": "application/x-ndjson"}
    async with http.session.post("/v1/list", headers=headers) as response:
        assert response.content_type == "application/json"


async def test_events_come_while_the_command_runs(http: Http, root: Path) -> None:
    headers = {"Accept": "application/x-ndjson"}
    params = {"command": "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second"}
    async with http.session.post("/v1/command", json=params, headers=headers) as response:
        first = [json.loads(await response.content.readline()) for _ in range(2)]
        (root / "go").touch()
        rest = [json.loads(line) async for line in response.content]
    assert first[1]["event"] == {"type": "stdout", "offset": 0, "nextOffset": 6, "data": "first\n"}
    assert rest[0]["event"] == {"type": "stdout", "offset": 6, "nextOffset": 13, "data": "second\n"}


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_command_goes_on_when_its_client_is_gone(
    daemon: Daemon, http: Http, root: Path, accept: str
) -> None:
    params = {"command": "touch begun; while [ ! -e go ]; do sleep 0.02; done; touch done"}
    async with http_of(daemon) as gone:

        async def ask() -> None:
            async with gone.session.post("/v1/command", json=params, headers={"Accept": accept}) as response:
                await response.read()

        request = asyncio.create_task(ask())
        await until((root / "begun").exists)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    (root / "go").touch()
    await until((root / "done").exists)


async def test_many_requests_at_once(http: Http, root: Path) -> None:
    await http.ok("write", path="a", content="x")
    answers = await asyncio.gather(*(http.ok("read", path="a") for _ in range(200)))
    assert {answer["content"] for answer in answers} == {"x"}


async def test_the_page_for_a_person_names_every_operation(http: Http, daemon: Daemon) -> None:
    async with http.session.get("/") as response:
        text = await response.text()
    assert response.content_type == "text/plain"
    assert "  read " in text
    assert f"curl {daemon.url}/health" in text


@pytest.mark.parametrize("host", ["a b", "[", "x:y", "\"'<script>"])
async def test_a_strange_host_header_is_no_fault_of_ours(http: Http, host: str) -> None:
    async with http.session.get("/", headers={"Host": host}) as response:
        assert response.status in (200, 400, 403)


async def test_ready_says_what_it_waits_for(http: Http, stranger: aiohttp.ClientSession, root: Path) -> None:
    async with stranger.get("/ready") as response:
        assert (response.status, (await response.json())["state"]) == (503, "empty")
    await http.ok("write", path="index.html", content="hello")
    async with stranger.get("/ready") as response:
        assert (response.status, (await response.json())["state"]) == (503, "down")


async def test_content_without_a_dev_server_is_ready(
    http: Http, stranger: aiohttp.ClientSession, root: Path
) -> None:
    await http.ok("write", path="notes.txt", content="hello")
    async with stranger.get("/ready") as response:
        body = await response.json()
    assert (response.status, body["status"], body["state"]) == (200, "ready", "ready")


@pytest.mark.parametrize("path", ["/v1/%2e%2e/health", "/v1/../health", "//health", "/health/", "/%68ealth"])
async def test_no_spelling_of_a_path_goes_round_the_token(daemon: Daemon, path: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(URL(daemon.url + path, encoded=True)) as response:
            text = await response.text()
    assert response.status == 401 or '"healthy"' in text
