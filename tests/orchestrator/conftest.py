"""What a host's tests share: a host with a workspace that runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.backends.local import LocalBackend, Settings
from orchestrator.isolation.isolation import Setting
from orchestrator.isolation.tiers import Wish as Tier
from orchestrator.paths import PathManager, UserId
from orchestrator.records import Records
from orchestrator.sessions import Sessions
from tests.orchestrator.live import Host


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """With `static-html` up, detached; everything of it is ended with the module."""
    host = Host(tmp_path_factory.mktemp("host"))
    host.json("up", "static-html", "--detach", "--port", "0")
    yield host
    host.end_everything()


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Sessions]:
    """On the local backend, nothing isolated; ended with the test."""
    paths = PathManager(tmp_path)
    settings = Settings(environ=dict(os.environ), isolation=Setting(Tier.NONE, allow_several_users=True))
    async with Sessions(
        paths, Records(paths.db_path("sessions")), {"local": LocalBackend(paths, settings)}
    ) as sessions:
        yield sessions
        for user in (UserId("ann"), UserId("bob")):
            for seen in await sessions.list(user, stopped=True):
                await sessions.destroy(user, seen.record.session_id)
