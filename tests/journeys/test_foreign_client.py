"""The whole way again by programs that share no code with ours: tar, curl, and ``ws`` from npm.

What is typed here is what a stranger types after reading docs/api.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.journeys.foreign import TOKEN, Daemon, daemon, run
from tests.journeys.hmr import open_page
from tests.journeys.support import REPOSITORY, ROUTES, Route, tree

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.template)
async def test_tar_curl_and_ws_go_the_whole_way(route: Route, tmp_path: Path) -> None:
    save = tmp_path / "save.tar.gz"
    async with daemon(tmp_path / "first") as server:
        archive = tmp_path / "template.tar.gz"
        template = REPOSITORY / "templates" / route.template
        await run("tar", "-czf", str(archive), "--exclude=node_modules", "-C", str(template), ".")
        injected = await server.curl("/v1/archive", "-T", str(archive))
        assert injected["files"] > 5
        await starts(server)
        await edit_reaches_the_page(server, route, route.old, route.new)
        await run(
            "curl",
            "-sS",
            "-f",
            "-H",
            f"X-Workspace-Token: {TOKEN}",
            "-o",
            str(save),
            f"{server.url}/v1/archive",
        )
        before = tree(server.root)
    async with daemon(tmp_path / "second") as server:
        await server.curl("/v1/archive", "-T", str(save))
        assert tree(server.root) == before
        await starts(server)
        await edit_reaches_the_page(server, route, route.new, route.old)


async def starts(server: Daemon) -> None:
    """Install and start over the WebSocket: the stages come in order, and the page answers."""
    replies = await server.socket("start", {})
    events = [reply["event"] for reply in replies if "event" in reply]
    stages = [(event["step"], event["state"]) for event in events if event["type"] == "progress"]
    assert stages == [
        ("extract", "skipped"),
        ("install", "started"),
        ("install", "done"),
        ("dev_server", "started"),
        ("dev_server", "done"),
    ], replies[-1]
    assert replies[-1]["result"]["dev"]["state"] == "ready"
    page = await run("curl", "-sS", "-f", f"{server.preview}/")
    assert b"<html" in page
    ready = await server.curl("/ready")
    assert ready["state"] == "ready"


async def edit_reaches_the_page(server: Daemon, route: Route, old: str, new: str) -> None:
    async with open_page(server.preview) as page:
        edit = {"path": route.path, "oldText": old, "newText": new}
        edited = await server.curl("/v1/edit", "-d", json.dumps(edit))
        assert edited["replacements"] == 1
        await page.frame()
    found = await server.curl("/v1/search", "-d", json.dumps({"pattern": new, "kind": "literal"}))
    assert route.path in {match["path"] for match in found["matches"]}
