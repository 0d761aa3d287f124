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
from orchestrator.backends.local import PREFORK_VARIABLE, open_backend
from orchestrator.paths import PathManager
from orchestrator.toolchain import find_toolchain
from tests.backend_suite import BackendSuite, Open
from tests.tool_suite import ToolSuite

ENVIRON = {**os.environ, "WORKSPACE_ALLOW_SEVERAL_USERS": "1"}
"""Two users also where nothing keeps them apart: less is promised there, and the rest is tested."""


@pytest.fixture(scope="module")
def tools() -> Iterator[Path]:
    """Node, npm and ripgrep, where everybody reaches them."""
    with tempfile.TemporaryDirectory(prefix="local-conformance-") as name:
        Path(name).chmod(0o711)
        tools = find_toolchain(os.environ).make_bin(Path(name) / "tools")
        tools.chmod(0o755)
        yield tools


class _Local:
    """What is the same however the daemons are started."""

    @pytest.fixture
    def data(self) -> Iterator[Path]:
        """Not in pytest's own directory, which is closed to everybody but who runs the tests."""
        directory = Path(tempfile.mkdtemp(prefix="local-conformance-"))
        directory.chmod(0o711)
        yield directory / "data"
        shutil.rmtree(directory)

    @pytest.fixture
    def crash(self) -> Callable[[Guest], Awaitable[None]]:
        async def kill(guest: Guest) -> None:
            os.kill(int(guest.labels["pid"]), signal.SIGKILL)

        return kill

    async def leftovers(self, data: Path) -> list[str]:
        directories = [*data.glob("workspaces/*/*")]
        pids = {pid for path in directories for pid in processes.members(marker(path.name.lstrip(".")))}
        return [*map(str, directories), *map(str, pids)]


class TestLocal(_Local, ToolSuite):
    @pytest.fixture
    def open(self, tools: Path) -> Open:
        return lambda data: open_backend(Host(PathManager(data), ENVIRON, tools))


class TestForked(_Local, BackendSuite):
    """Tool servers forked from one that has loaded its modules: what could be different then."""

    @pytest.fixture
    def open(self, data: Path) -> Open:
        environ = {**ENVIRON, PREFORK_VARIABLE: "1"}
        return lambda data: open_backend(Host(PathManager(data), environ))


_DIFFERENT = {
    "test_what_the_launch_sets_reaches_commands_and_the_daemons_own_does_not",
    "test_several_start_and_end_at_once",
    "test_a_new_orchestrator_finds_it_speaks_to_it_and_ends_it",
    "test_a_cancelled_start_leaves_nothing",
    "test_one_that_crashed_is_shown_dead_and_ended_like_any",
    "test_one_begun_on_kept_files_has_them_and_may_change_them",
    "test_processes_of_another_are_neither_read_nor_ended",
}
for _name in filter(lambda name: name.startswith("test_") and name not in _DIFFERENT, dir(BackendSuite)):
    setattr(TestForked, _name, None)
