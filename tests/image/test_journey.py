"""The main job, whole, in real containers: template, packages, dev server, edit, hot reload, save, back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.image.support import (
    HARDENED,
    TOKEN,
    Guest,
    archive_of_template,
    members,
    trust,
    workspace,
)
from tests.journeys.hmr import open_page

EDIT = {"path": "src/style.css", "oldText": "--hue: 285", "newText": "--hue: 20"}
BACK = {"path": "src/style.css", "oldText": "--hue: 20", "newText": "--hue: 285"}

pytestmark = pytest.mark.timeout(600)


async def test_a_template_lives_in_one_container_and_its_save_in_the_next() -> None:
    with workspace(*HARDENED, *trust()) as guest:
        guest.inject(archive_of_template("vite-vanilla"))
        await starts(guest)
        await edit_reaches_the_page(guest, EDIT)
        save = guest.save()
        # What tools leave behind is theirs; what a person wrote must come back in every bit.
        assert "node_modules" not in {name.split("/")[0] for name in members(save)}
    with workspace(*trust()) as guest:
        guest.inject(save)
        assert members(guest.save()) == members(save)
        assert guest.output("grep -c 'hue: 20' src/style.css") == "1"
        await starts(guest)
        await edit_reaches_the_page(guest, BACK)
        # Sent again over the running dev server: it ends with the content that it served.
        guest.inject(save)
        assert members(guest.save()) == members(save)


async def starts(guest: Guest) -> None:
    """Real npm, then the dev server, over the WebSocket; then the page answers on the published port."""
    replies = await over_socket(guest, "start", {})
    done = [each["event"]["step"] for each in replies if each.get("event", {}).get("state") == "done"]
    assert done == ["install", "dev_server"], replies[-1]
    assert replies[-1]["result"]["install"]["packageManager"] == "npm"
    assert replies[-1]["result"]["dev"]["state"] == "ready"
    assert json.loads(guest.get("/ready", token=False)[1])["state"] == "ready"


async def over_socket(guest: Guest, operation: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Every frame that one request gets, the last one last."""
    address = f"{guest.url().replace('http', 'ws', 1)}/v1/ws"
    frames: list[dict[str, Any]] = []
    headers = {"Authorization": f"Bearer {TOKEN}"}
    # Without its own clocks, which are short: npm leaves a small machine little time.
    async with connect(
        address,
        additional_headers=headers,
        proxy=None,
        max_size=None,
        open_timeout=None,
        ping_interval=None,
    ) as socket:
        await socket.send(json.dumps({"id": "1", "op": operation, "params": params}))
        while not frames or "event" in frames[-1]:
            frames.append(json.loads(await socket.recv()))
    return frames


async def edit_reaches_the_page(guest: Guest, edit: dict[str, str]) -> None:
    """An edit through the tool server becomes a frame of hot reload in an open page."""
    async with open_page(guest.url(4321)) as page:
        await over_socket(guest, "edit", edit)
        frame = await page.frame()
    assert frame["type"] == "update"
    assert edit["path"] in json.dumps(frame)
