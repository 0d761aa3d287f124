"""Commands give way to the daemon, unless it is told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.builder import http_of, running


@pytest.mark.parametrize(
    ("flags", "steps"), [((), 5), (("--command-nice", "0"), 0), (("--command-nice", "2"), 2)]
)
async def test_commands_run_below_the_daemon_by_as_much_as_it_is_told(
    tmp_path: Path, flags: tuple[str, ...], steps: int
) -> None:
    with running(tmp_path, *flags) as daemon:
        async with http_of(daemon) as http:
            id = (await http.ok("command", argv=["sleep", "1000"], background=True))["processId"]
            found = (await http.ok("processes"))["processes"]
            pid = next(each["pid"] for each in found if each["processId"] == id)
            own = os.getpriority(os.PRIO_PROCESS, daemon.pid)
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(own + steps, 19)
