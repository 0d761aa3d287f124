"""What the dev server says of a change comes with the answer, whether a page is open or not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.messages.devserver import DevState
from tests.builder import Http, until
from tests.ports import free_port
from toolserver.tools.diagnostics import Diagnostics, Page, error_in, error_of, judged
from toolserver.wire import hmr, static

_FAKE = '''
"""A dev server that speaks as Vite does: a token, a socket, modules that are compiled when asked for."""
import asyncio, json, pathlib, sys
from aiohttp import web
sockets, graph, root = set(), {}, pathlib.Path.cwd()
async def tell(frame):
    for each in list(sockets): await each.send_json(frame)
async def hear(request):
    assert request.query["token"] == "secret-token"
    socket = web.WebSocketResponse(protocols=["vite-hmr"]); await socket.prepare(request)
    await socket.send_json({"type": "connected"}); sockets.add(socket)
    async for _ in socket: pass
    sockets.discard(socket); return socket
async def page(request):
    if request.headers.get("Upgrade"): return await hear(request)
    name = request.path.lstrip("/")
    if name == "@vite/client": return web.Response(text='const wsToken = "secret-token";')
    file = root / name
    if not file.is_file(): return web.Response(text="<html></html>", content_type="text/html")
    # Who asks before it has looked around is told of changes all the same.
    await notice_changes()
    graph[name] = file.stat().st_mtime_ns
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if "SYNTAX" in line:
            err = {"message": "Unexpected token", "stack": "", "id": str(file), "plugin": "fake:oxc",
                   "frame": line, "loc": {"file": str(file), "line": number, "column": 3}}
            await tell({"type": "error", "err": err})
            return web.Response(status=500, text="<title>Error</title>")
    return web.Response(text="compiled")
async def notice_changes():
    for name, time in list(graph.items()):
        file = root / name
        if file.exists() and file.stat().st_mtime_ns != time:
            graph[name] = file.stat().st_mtime_ns
            await tell({"type": "update", "updates": [{"type": "js-update", "path": "/" + name}]})
async def notice(app):
    async def look():
        while True:
            await asyncio.sleep(0.02)
            await notice_changes()
    task = asyncio.create_task(look()); yield; task.cancel()
app = web.Application(); app.router.add_get("/{any:.*}", page); app.cleanup_ctx.append(notice)
web.run_app(app, host=sys.argv[1], port=int(sys.argv[2]), print=None)
'''


@pytest.fixture
async def fake(http: Http, root: Path, tmp_path: Path) -> AsyncIterator[Http]:
    """A workspace whose dev server is the fake."""
    program = tmp_path / "fake.py"
    program.write_text(_FAKE)
    (root / "src").mkdir()
    (root / "src/main.ts").write_text("export const a = 1;\n")
    command = f"{sys.executable} {program} {{host}} {{port}}"
    await http.ok("dev_start", command=command, port=free_port())
    yield http
    await http.ok("dev_stop")


async def test_an_edit_is_told_as_an_update(fake: Http) -> None:
    assert (await fake.ok("dev_feedback", paths=["src/main.ts"]))["outcome"] == "compiled"
    answer = await fake.ok("edit", path="src/main.ts", oldText="1", newText="2", waitForDev=True)
    assert answer["dev"]["outcome"] == "update"
    assert answer["dev"]["updated"] == ["/src/main.ts"]


async def test_a_compile_error_names_file_line_and_message_though_no_page_is_open(fake: Http) -> None:
    await fake.ok("dev_feedback", paths=["src/main.ts"])
    content = "export const a = 1;\nSYNTAX\n"
    answer = await fake.ok("write", path="src/main.ts", content=content, waitForDev=True)
    assert answer["dev"]["outcome"] == "error"
    assert answer["dev"]["errors"] == [
        {
            "message": "Unexpected token",
            "file": "src/main.ts",
            "line": 2,
            "column": 3,
            "plugin": "fake:oxc",
            "frame": "SYNTAX",
        }
    ]
    mended = await fake.ok("edit", path="src/main.ts", oldText="SYNTAX\n", newText="", waitForDev=True)
    assert mended["dev"]["outcome"] == "update"


async def test_a_new_file_that_no_page_uses_is_compiled_when_asked_for(fake: Http) -> None:
    answer = await fake.ok("write", path="src/new.ts", content="export {}\n", waitForDev=True)
    assert answer["dev"]["outcome"] == "compiled"
    broken = await fake.ok("write", path="src/other.ts", content="SYNTAX\n", waitForDev=True)
    assert [each["file"] for each in broken["dev"]["errors"]] == ["src/other.ts"]


async def test_a_restarted_dev_server_is_heard_again(fake: Http) -> None:
    await fake.ok("dev_feedback", paths=["src/main.ts"])
    await fake.ok("dev_stop")
    assert (await fake.ok("dev_feedback"))["outcome"] == "not_running"
    written = await fake.ok("write", path="src/main.ts", content="SYNTAX\n", waitForDev=True)
    assert written["dev"]["outcome"] == "not_running"
    await fake.ok("dev_start")
    answer = await fake.ok("dev_feedback", paths=["src/main.ts"])
    assert answer["outcome"] == "error"


async def test_without_being_asked_nothing_is_waited_for(fake: Http) -> None:
    answer = await fake.ok("write", path="src/main.ts", content="x")
    assert answer["dev"] is None


async def test_a_static_site_tells_of_a_reload(http: Http, root: Path) -> None:
    (root / "index.html").write_text("<h1>one</h1>")
    await http.ok("dev_start", port=free_port())
    try:
        answer = await http.ok("edit", path="index.html", oldText="one", newText="two", waitForDev=True)
        assert answer["dev"]["outcome"] == "full_reload"
        styled = await http.ok("write", path="style.css", content="h1 {}", waitForDev=True)
        assert styled["dev"]["outcome"] == "update"
    finally:
        await http.ok("dev_stop")


async def test_a_server_without_a_channel_is_told_as_such(http: Http, root: Path) -> None:
    serve = f"{sys.executable} -m http.server --bind {{host}} {{port}}"
    await http.ok("dev_start", command=serve, port=free_port())
    try:
        answer = await http.ok("write", path="a.js", content="x", waitForDev=True)
        assert answer["dev"]["outcome"] == "no_channel"
    finally:
        await http.ok("dev_stop")


async def test_the_first_edits_at_once_share_one_channel(fake: Http) -> None:
    answers = await asyncio.gather(
        *(fake.ok("write", path=f"src/{number}.ts", content="x", waitForDev=True) for number in range(5))
    )
    assert {each["dev"]["outcome"] for each in answers} == {"compiled"}


class Mute:
    """A dev server without a channel that is known; counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    @asynccontextmanager
    async def opened(self, port: int) -> AsyncIterator[None]:
        self.asked += 1
        await asyncio.sleep(0)
        yield None

    async def get(self, port: int, path: str, is_page: bool) -> Page:
        return Page(200, "")


async def test_edits_at_once_after_the_channel_was_let_go_share_one() -> None:
    channel, dev = Mute(), SimpleNamespace(state=DevState.READY, port=4321)
    diagnostics = Diagnostics(cast(Any, dev), cast(Any, None), channel)
    await diagnostics.listening()
    await until(lambda: diagnostics._task is not None and diagnostics._task.done())
    await asyncio.gather(*(diagnostics.listening() for _ in range(5)))
    assert channel.asked == 2
    await diagnostics.close()


def test_an_error_page_is_read_where_the_channel_was_silent() -> None:
    page = '<script>const error = {"message":"\\u001b[31mbad\\u001b[0m","id":"/app/a.ts"}\n</script>'
    told = error_in(page, "/app")
    assert (told.message, told.file) == ("bad", "a.ts")
    assert error_in("<title>Oh</title>", "/app").message == "Oh"


def test_frames_of_any_shape_are_borne() -> None:
    shapes: list[object] = [None, [], {}, {"message": 1, "loc": []}, {"loc": {"line": "x"}}]
    for strange in shapes:
        assert error_of(strange, "/app").message
        assert judged([{"type": "error", "err": strange}, {"updates": 3}], [], "/app", True).errors


def test_the_static_servers_channel_is_the_one_that_is_listened_to() -> None:
    assert hmr.EVENTS == static.EVENTS
