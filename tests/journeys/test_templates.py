"""The templates that a person starts from: cold to ready, an edit that arrives, and once more offline.

Two more, with a save on the way: ``test_own_client``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import pytest

from orchestrator.client import Client, open_client
from protocol.messages.devserver import DevState
from tests.journeys.again import starts_again_offline, starts_out_of_the_store
from tests.journeys.hmr import page_text, text
from tests.journeys.support import REPOSITORY, Route
from tests.journeys.test_own_client import edit_reaches_the_page, up

pytestmark = [pytest.mark.journey, pytest.mark.timeout(420)]

WITH_HOT_RELOAD = (
    Route("vite-react-ts", "src/App.tsx", "Pack once, leave calm.", "Pack light.", "Pack light."),
    Route("vite-svelte-ts", "src/App.svelte", "One thing at a time.", "Just one thing.", "Just one thing."),
    Route("astro-landing", "src/content.ts", "Warm bread,", "Fresh bread,", "Fresh bread, at"),
)
QUICKLY_BUILT = {"vite-react-ts", "vite-svelte-ts"}
"""In a second or three. Astro takes longer to check and build than all the rest of its journey."""
RESTART_SECONDS = 60.0


@pytest.mark.parametrize("route", WITH_HOT_RELOAD, ids=lambda route: route.template)
async def test_an_edit_reaches_the_open_page_also_after_an_install_without_a_network(
    route: Route,
) -> None:
    async with up(route.template) as session:
        await edit_reaches_the_page(session, route, route.old, route.new)
        async with open_client(session["toolServerUrl"], session["token"]) as client:
            await starts_again_offline(client, route.template)
            if route.template in QUICKLY_BUILT:
                await builds(client)
            await starts_out_of_the_store(client, route.template, session["user"])
        await edit_reaches_the_page(session, route, route.new, route.old)


async def test_a_page_that_installs_nothing_is_there_and_shows_an_edit() -> None:
    async with up("static-html") as session:
        before = await page_text(session["previewUrl"].rstrip("/"))
        async with open_client(session["toolServerUrl"], session["token"]) as client:
            assert (await client.install(offline=True)).command is None
            title = before.partition("<title>")[2].partition("</title>")[0]
            await client.edit(path="index.html", old_text=f"<title>{title}<", new_text="<title>Mine now<")
        assert title
        assert "<title>Mine now<" in await page_text(session["previewUrl"].rstrip("/"))


async def test_stages_without_a_page_are_there_to_be_worked_on() -> None:
    async with up("research-pipeline") as session:
        assert session["previewUrl"] is None
        async with open_client(session["toolServerUrl"], session["token"]) as client:
            assert (await client.dev_status()).state is DevState.DOWN
            there = {entry.path for entry in (await client.list(depth=1)).entries}
    sent = {path.name for path in (REPOSITORY / "templates" / "research-pipeline").iterdir()}
    assert there == sent


async def builds(client: Client) -> None:
    """Types included: each of them checks its own before it builds."""
    done = await client.command(command="npm run build")
    assert done.exit_code == 0, done.stdout + done.stderr


async def test_an_api_is_ready_by_its_health_and_starts_again_at_every_saved_change() -> None:
    async with up("node-api") as session:
        base = session["previewUrl"].rstrip("/")
        assert (await answer(base, "/health"))["status"] == "ok"
        async with open_client(session["toolServerUrl"], session["token"]) as client:
            tested = await client.command(command="npm test")
            assert tested.exit_code == 0, tested.stdout
            await client.edit(path="src/shelf.js", old_text="Frankenstein", new_text="The Last Man")
            await until_it_tells(base, "The Last Man")
            await starts_again_offline(client, "node-api")
        assert (await answer(base, "/health"))["status"] == "ok"
        assert (await answer(base, "/books?q=frankenstein")) == []


async def answer(base: str, path: str) -> Any:
    """What the API says there."""
    async with aiohttp.ClientSession() as web:
        return json.loads(await text(web, base + path))


async def until_it_tells(base: str, title: str) -> None:
    """Wait for the server that has the change; between two servers nothing answers."""
    async with asyncio.timeout(RESTART_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                if title in [book["title"] for book in await answer(base, "/books")]:
                    return
            await asyncio.sleep(0.05)
