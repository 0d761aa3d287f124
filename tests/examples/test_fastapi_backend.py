"""The example backend on a real socket: two users, their workspaces, and its end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from examples.fastapi_backend import app
from orchestrator.processes import members
from tests.builder import until
from tests.ports import free_port

ANN, BOB = {"X-User-Id": "ann"}, {"X-User-Id": "bob"}


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The application under its own server; leaving stops it as a signal would."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started or serving.done())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    async with served() as url, aiohttp.ClientSession(url) as session:
        yield session


async def created(backend: aiohttp.ClientSession, user: dict[str, str]) -> dict[str, Any]:
    async with backend.post("/workspaces", json={"template": "static-html"}, headers=user) as response:
        assert response.status == 201, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def asked(backend: aiohttp.ClientSession, method: str, path: str, **more: Any) -> tuple[int, Any]:
    async with backend.request(method, path, **more) as response:
        body = await response.read()
        return response.status, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("field", "why"), [("base_image", "base_image is gone: name a template"), ("tmplate", "not permitted")]
)
async def test_a_request_with_a_field_of_former_times_or_none_is_told_so(
    backend: aiohttp.ClientSession, field: str, why: str
) -> None:
    status, answer = await asked(backend, "POST", "/workspaces", json={field: "node:20"}, headers=ANN)
    assert (status, why in json.dumps(answer)) == (422, True), answer


async def test_a_workspace_is_made_worked_in_shown_and_stopped(backend: aiohttp.ClientSession) -> None:
    made = await created(backend, ANN)
    async with backend.get(made["previewUrl"]) as page:
        assert (page.status, "<html" in await page.text()) == (200, True)
    at = f"/workspaces/{made['id']}"
    status, answer = await asked(
        backend, "POST", f"{at}/exec", json={"command": "echo hi; exit 4"}, headers=ANN
    )
    assert (status, answer["exitCode"], answer["stdout"]) == (200, 4, "hi\n")
    data = os.urandom(300_000)
    assert (await asked(backend, "PUT", f"{at}/files/new/a b.bin", data=data, headers=ANN))[0] == 204
    async with backend.get(f"{at}/files/new/a b.bin", headers=ANN) as response:
        assert await response.read() == data
    _, listed = await asked(backend, "GET", f"{at}/files?path=new", headers=ANN)
    assert listed == [{"path": "new/a b.bin", "kind": "file", "size": 300_000}]
    assert (await asked(backend, "DELETE", at, headers=ANN))[0] == 204
    assert await asked(backend, "GET", "/workspaces", headers=ANN) == (200, [])


async def test_output_comes_as_it_is_written(backend: aiohttp.ClientSession) -> None:
    made = await created(backend, ANN)
    line = {"command": "echo one; until [ -e go ]; do sleep 0.05; done; echo two >&2; exit 3"}
    at = f"/workspaces/{made['id']}"
    headers = {**ANN, "Accept": "text/event-stream"}
    async with backend.post(f"{at}/exec", json=line, headers=headers) as response:
        assert response.content_type == "text/event-stream"
        assert await event(response) == ("stdout", {"data": "one\n"})
        await asked(backend, "PUT", f"{at}/files/go", data=b"", headers=ANN)
        assert await event(response) == ("stderr", {"data": "two\n"})
        assert await event(response) == ("end", {"exitCode": 3, "timeoutOccurred": False})


async def event(response: aiohttp.ClientResponse) -> tuple[str, Any]:
    """The next one of a stream."""
    async with asyncio.timeout(30):
        name = (await response.content.readline()).decode().removeprefix("event: ").strip()
        data = (await response.content.readline()).decode().removeprefix("data: ")
        await response.content.readline()
    return name, json.loads(data)


async def test_another_users_workspace_is_not_there(backend: aiohttp.ClientSession) -> None:
    made = await created(backend, ANN)
    assert await asked(backend, "GET", "/workspaces", headers=BOB) == (200, [])
    for method, path in (("GET", "/files"), ("DELETE", ""), ("PUT", "/files/x")):
        status, answer = await asked(backend, method, f"/workspaces/{made['id']}{path}", headers=BOB)
        assert (status, answer["error"]["code"]) == (404, "not_found")
    unknown = await asked(backend, "GET", "/workspaces/session_none/files", headers=BOB)
    assert unknown[0] == 404


async def test_refusals_are_those_of_the_protocol(backend: aiohttp.ClientSession) -> None:
    status, answer = await asked(backend, "POST", "/workspaces", json={"template": "nothing"}, headers=ANN)
    assert (status, answer["error"]["code"]) == (404, "not_found")
    assert (await asked(backend, "GET", "/workspaces"))[0] == 422
    assert (await asked(backend, "GET", "/workspaces", headers={"X-User-Id": "../x"}))[0] == 422
    made = await created(backend, ANN)
    status, answer = await asked(
        backend, "POST", f"/workspaces/{made['id']}/exec", json={"command": "pwd", "cwd": "/etc"}, headers=ANN
    )
    assert (status, answer["error"]["code"]) == (403, "outside_workspace")


async def test_its_end_stops_every_session_and_keeps_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    async with served() as url, aiohttp.ClientSession(url) as backend:
        made = await asyncio.gather(created(backend, ANN), created(backend, ANN), created(backend, BOB))
        running = [f"WORKSPACE_SESSION_ID={each['id']}" for each in made]
        assert all([await asyncio.to_thread(members, mark) for mark in running])
    for each, mark in zip(made, running, strict=True):
        assert not await asyncio.to_thread(members, mark)
        assert (tmp_path / "data" / "workspaces" / each["user"] / each["id"] / "index.html").is_file()
