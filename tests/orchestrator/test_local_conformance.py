"""The local backend does what every backend must, and the tools are the same in it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.backends import Guest, Host
from orchestrator.backends.environment import marker
from orchestrator.backends.local import open_backend
from orchestrator.paths import PathManager
from orchestrator.toolchain import find_toolchain
from tests.backend_suite import Open
from tests.tool_suite import ToolSuite

ENVIRON = {**os.environ, "WORKSPACE_ALLOW_SEVERAL_USERS": "1"}
"""Two users also where nothing keeps them apart: less is promised there, and the rest is tested."""


class TestLocal(ToolSuite):
    @pytest.fixture
    def data(self) -> Iterator[Path]:
        """Not in pytest's own directory, which is closed to everybody but who runs the tests."""
        directory = Path(tempfile.mkdtemp(prefix="local-conformance-"))
        directory.chmod(0o711)
        yield directory / "data"
        shutil.rmtree(directory)

    @pytest.fixture
    def open(self, data: Path) -> Open:
        tools = find_toolchain(os.environ).make_bin(data.with_name("tools"))
        data.with_name("tools").chmod(0o755)
        return lambda data: open_backend(Host(PathManager(data), ENVIRON, tools))

    @pytest.fixture
    def crash(self) -> Callable[[Guest], Awaitable[None]]:
        async def kill(guest: Guest) -> None:
            os.kill(int(guest.labels["pid"]), signal.SIGKILL)

        return kill

    async def leftovers(self, data: Path) -> list[str]:
        directories = [*data.glob("workspaces/*/*")]
        pids = {pid for path in directories for pid in processes.members(marker(path.name.lstrip(".")))}
        return [*map(str, directories), *map(str, pids)]
