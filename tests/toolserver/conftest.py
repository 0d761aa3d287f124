"""A daemon per module, and what speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.builder import Daemon, Http, Socket, emptied, http_of, running, socket_of
from tests.ports import free_port


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A real daemon; at the module's end it has to stop cleanly and to have logged no fault."""
    quick = {"DEV_SERVER_PORT": str(free_port()), "TOOL_SERVER_STOP_GRACE_MS": "1000"}
    with running(tmp_path_factory.mktemp("daemon"), **quick) as daemon:
        yield daemon


@pytest.fixture
def root(daemon: Daemon) -> Path:
    """Its workspace root, emptied."""
    return emptied(daemon.root)


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[Http]:
    async with http_of(daemon) as http:
        yield http


@pytest.fixture
async def socket(daemon: Daemon) -> AsyncIterator[Socket]:
    async with socket_of(daemon) as socket:
        yield socket


@pytest.fixture(params=["json", "msgpack"])
async def either_socket(daemon: Daemon, request: pytest.FixtureRequest) -> AsyncIterator[Socket]:
    """A socket that speaks JSON, then one that speaks MessagePack."""
    async with socket_of(daemon, request.param) as socket:
        yield socket
