"""A connection that is kept open by fresh tokens, however many could not be had."""

from __future__ import annotations

import asyncio
import importlib
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from orchestrator.client import Client, renewing
from protocol.errors import Unavailable
from protocol.messages.access import RenewalAnswer
from tests.builder import PATIENCE_SECONDS


class Renewed:
    """What of a client is asked."""

    def __init__(self) -> None:
        self.tokens: asyncio.Queue[str] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def renew(self, token: str) -> RenewalAnswer:
        if self.gone.is_set():
            raise Unavailable("the tool server closed the connection")
        self.tokens.put_nowait(token)
        expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        return RenewalAnswer(token_id="t", scopes=[], expires=expires)

    async def wait_closed(self) -> None:
        await self.gone.wait()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("orchestrator.client.renewing")
    monkeypatch.setattr(module, "_LEAST_SECONDS", 0.001)
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.001)


async def test_whatever_keeps_a_token_from_being_fetched_it_is_fetched_again() -> None:
    client, fails = Renewed(), iter([ValueError("no JSON"), RuntimeError("no answer")])

    async def fetch() -> str:
        if (error := next(fails, None)) is not None:
            raise error
        return "the third"

    async with asyncio.timeout(PATIENCE_SECONDS), renewing(cast(Client, client), fetch):
        assert await client.tokens.get() == "the third"


async def test_for_a_connection_that_is_closed_no_token_is_fetched_any_more() -> None:
    client, fetched = Renewed(), 0

    async def fetch() -> str:
        nonlocal fetched
        fetched += 1
        client.gone.set()
        return "too late"

    async with renewing(cast(Client, client), fetch):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        done, _ = await asyncio.wait(others, timeout=PATIENCE_SECONDS)
        assert done == others
    assert fetched == 1
