"""A backend for many users, each with workspaces of their own that nobody else sees.

    uvicorn --app-dir examples fastapi_backend:app

    curl -X POST localhost:8000/workspaces -H 'X-User-Id: ann' -H 'Content-Type: application/json' \\
         -d '{"template": "static-html"}'

``X-User-Id`` stands for whatever says who asks: in earnest it is set by the part that signed the person in,
and never taken from outside. Sessions that were begun here end with the process; their files are kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.background import BackgroundTask

from orchestrator.workspace import HostedWorkspace, WorkspaceHost
from protocol.errors import NotFound, ToolError
from protocol.messages.commands import CommandEvent, Stderr, Stdout


class Wanted(BaseModel):
    """What a workspace is to be made from."""

    model_config = ConfigDict(extra="forbid")

    template: str = "static-html"
    backend: str = "local"

    @model_validator(mode="before")
    @classmethod
    def _without_an_image(cls, sent: Any) -> Any:
        """One image serves all templates now: a request of former times is told so."""
        if isinstance(sent, dict) and "base_image" in sent:
            raise ValueError("base_image is gone: name a template or a directory, by template")
        return sent


class Line(BaseModel):
    """A line of bash."""

    command: str
    cwd: str = "."
    timeout: float = 30.0


class Workspaces:
    """The workspaces that this process has open, by user and session."""

    def __init__(self, host: WorkspaceHost) -> None:
        self.host = host
        self._open: dict[tuple[str, str], HostedWorkspace] = {}

    async def create(self, user: str, wanted: Wanted) -> HostedWorkspace:
        """A new one, ready."""
        workspace = await self.host.create(wanted.template, user=user, backend=wanted.backend)
        self._open[user, workspace.session_id] = workspace
        return workspace

    def get(self, user: str, session: str) -> HostedWorkspace:
        """The user's own; another user's is as if it were not there."""
        try:
            return self._open[user, session]
        except KeyError:
            raise NotFound(f"no workspace {session!r}") from None

    def of(self, user: str) -> list[HostedWorkspace]:
        """The user's."""
        return [workspace for (owner, _), workspace in self._open.items() if owner == user]

    async def stop(self, user: str, session: str) -> None:
        """End it; its files are kept."""
        await self.get(user, session).close()
        del self._open[user, session]

    async def stop_all(self) -> None:
        """At the end of the process. One that fails keeps none of the others."""
        await asyncio.gather(*(each.close() for each in self._open.values()), return_exceptions=True)
        self._open.clear()


def shown(workspace: HostedWorkspace) -> dict[str, Any]:
    """A workspace for whom it belongs to. Its token stays here."""
    return {"id": workspace.session_id, "user": workspace.user, "previewUrl": workspace.preview_url}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Sessions are stopped when the server is."""
    async with WorkspaceHost() as host:
        app.state.workspaces = Workspaces(host)
        try:
            yield
        finally:
            await app.state.workspaces.stop_all()


app = FastAPI(title="Workspaces", lifespan=lifespan)


@app.exception_handler(ToolError)
async def refused(_: Request, error: ToolError) -> JSONResponse:
    """The protocol's own errors, as its own doors answer them."""
    body = {"code": error.code, "message": error.message, "details": error.details}
    return JSONResponse({"error": body}, status_code=error.status)


def the_workspaces(request: Request) -> Workspaces:
    """Those of this application."""
    found: Workspaces = request.app.state.workspaces
    return found


User = Annotated[str, Header(alias="X-User-Id", pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
All = Annotated[Workspaces, Depends(the_workspaces)]


def the_workspace(session: str, user: User, workspaces: All) -> HostedWorkspace:
    """The one in the address, if it is the user's."""
    return workspaces.get(user, session)


One = Annotated[HostedWorkspace, Depends(the_workspace)]


@app.post("/workspaces", status_code=201)
async def create(wanted: Wanted, user: User, workspaces: All) -> dict[str, Any]:
    """A workspace, once its page answers."""
    return shown(await workspaces.create(user, wanted))


@app.get("/workspaces")
async def list_(user: User, workspaces: All) -> list[dict[str, Any]]:
    """The user's workspaces."""
    return [shown(workspace) for workspace in workspaces.of(user)]


@app.delete("/workspaces/{session}", status_code=204)
async def stop(session: str, user: User, workspaces: All) -> None:
    """End one."""
    await workspaces.stop(user, session)


@app.post("/workspaces/{session}/exec")
async def execute(line: Line, workspace: One, request: Request) -> Response:
    """Run a command: one JSON answer, or its output as it comes, as server-sent events, when asked for."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return StreamingResponse(_events(workspace, line), media_type="text/event-stream")
    result = await workspace.execute_command(line.command, cwd=line.cwd, timeout=line.timeout)
    return JSONResponse(
        {
            "exitCode": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "timeoutOccurred": result.timeout_occurred,
        }
    )


async def _events(workspace: HostedWorkspace, line: Line) -> AsyncIterator[str]:
    """A browser that goes away ends the stream, and with it the command."""
    try:
        client = await workspace.connect()
        timeout_ms = max(1, round(line.timeout * 1000))
        async with client.command.stream(
            command=line.command, cwd=line.cwd, timeout_ms=timeout_ms, max_output_bytes=0
        ) as events:
            async for event in events:
                if (output := _output(event)) is not None:
                    yield output
            answer = await events.result()
        yield _event("end", {"exitCode": answer.exit_code, "timeoutOccurred": answer.timed_out})
    except ToolError as error:  # the status has been sent: it is told in the stream
        yield _event("error", {"code": error.code, "message": error.message})


def _output(event: CommandEvent) -> str | None:
    if isinstance(event, Stdout | Stderr):
        return _event("stdout" if isinstance(event, Stdout) else "stderr", {"data": event.data})
    return None


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


@app.get("/workspaces/{session}/files")
async def files(workspace: One, path: str = ".") -> list[dict[str, Any]]:
    """A directory's entries."""
    listed = await workspace.list(path)
    return [{"path": each.path, "kind": each.kind.value, "size": each.size} for each in listed.entries]


@app.put("/workspaces/{session}/files/{path:path}", status_code=204)
async def upload(path: str, workspace: One, request: Request) -> None:
    """The body becomes the file, whole or not at all."""
    with TemporaryDirectory() as directory:
        received = Path(directory) / "received"
        with received.open("wb") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
        await workspace.file_upload(received, path)


@app.get("/workspaces/{session}/files/{path:path}")
async def download(path: str, workspace: One) -> FileResponse:
    """The file's bytes. Never as a page of this origin: it is somebody's upload."""
    directory = TemporaryDirectory()
    try:
        await workspace.file_download(path, Path(directory.name) / "sent")
    except BaseException:
        directory.cleanup()
        raise
    return FileResponse(
        Path(directory.name) / "sent",
        media_type="application/octet-stream",
        headers={"X-Content-Type-Options": "nosniff"},
        background=BackgroundTask(directory.cleanup),
    )
