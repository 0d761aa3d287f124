"""How many sessions a minute an engine starts, each with a tool server that answers."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.backends.docker import DockerBackend
from orchestrator.backends.docker_container import Settings
from orchestrator.paths import PathManager
from tests.backend_suite import Sandbox, launch
from tests.image.figures import Figures
from tests.image.support import IMAGE, remove_network

SESSIONS = 12
"""Of each kind: some ten seconds of work in all."""
NETWORK = f"tests-of-workspace-core-{secrets.token_hex(4)}"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def driver(tmp_path: Path, image: str) -> AsyncIterator[DockerBackend]:
    driver = DockerBackend(PathManager(tmp_path), Settings(image=IMAGE, network=NETWORK))
    yield driver
    await asyncio.gather(*(driver.destroy(guest.id) for guest in await driver.guests()))
    remove_network(NETWORK)


@pytest.mark.parametrize("at_once", [1, 4, SESSIONS])
async def test_sessions_a_minute_are_told(at_once: int, driver: DockerBackend, figures: Figures) -> None:
    turns = asyncio.Semaphore(at_once)
    taken: list[float] = []

    async def start() -> Sandbox:
        wanted = launch()
        async with turns:
            begun = time.monotonic()
            guest = await driver.create(wanted)
            taken.append(time.monotonic() - begun)
        return Sandbox(driver, guest, wanted.token)

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:  # of which none goes on when one fails
        starting = [group.create_task(start()) for _ in range(SESSIONS)]
    boxes = [task.result() for task in starting]
    seconds = time.monotonic() - begun
    names = await asyncio.gather(*(box.shell("cat /etc/hostname") for box in boxes))
    assert len(set(names)) == SESSIONS
    rate = f"{SESSIONS / seconds * 60:.0f} a minute"
    beside = f"one takes {statistics.median(taken):.2f} s, the slowest {max(taken):.2f} s"
    figures.add(f"docker sessions with a tool server, {at_once} at once", rate, beside)
