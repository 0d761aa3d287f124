"""A template that was installed, from nothing installed to a dev server that answers, without a network."""

from __future__ import annotations

import asyncio

import msgspec

from orchestrator.client import Client
from orchestrator.templates import read_template
from protocol.messages.devserver import DevState, StartAnswer, StoreOutcome
from tests.journeys.support import DATA, REPOSITORY

KEPT_SECONDS = 120.0
"""From an install to its pack: some seconds, more when others want the disk."""


async def starts_again_offline(client: Client, template: str) -> None:
    """Everything that was installed goes, and comes back out of npm's cache alone."""
    again = await started_again(client, template, store=False)
    assert "--offline" in str(again.install.command)


async def starts_out_of_the_store(client: Client, template: str, user: str) -> None:
    """The same without npm: what was installed a moment ago was kept meanwhile."""
    asked = read_template(REPOSITORY / "templates" / template)
    use = (await client.install(env=asked.env, offline=True)).store
    assert use is not None
    async with asyncio.timeout(KEPT_SECONDS):
        while not (DATA / "cache" / user / "store" / f"{use.key}.pack").exists():
            await asyncio.sleep(0.1)
    again = await started_again(client, template, store=True)
    assert again.install.store is not None
    assert (again.install.store.outcome, again.install.store.key) == (StoreOutcome.HIT, use.key)


async def started_again(client: Client, template: str, *, store: bool) -> StartAnswer:
    """From nothing installed to a dev server that answers, without a network."""
    asked = read_template(REPOSITORY / "templates" / template)
    port = (await client.dev_status()).port
    await client.dev_stop()
    await client.remove(path="node_modules", recursive=True, missing_ok=True)
    install = msgspec.structs.replace(asked.install_request(), offline=True, store=store)
    dev = msgspec.structs.replace(asked.dev_request(), port=port)
    again = await client.start(install=install, dev=dev)
    assert again.dev.state is DevState.READY
    return again
