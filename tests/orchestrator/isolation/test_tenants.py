"""Two tenants on one host, one of whom attacks: what each tier holds, and what it leaves open, as it is.

The lists are exact in both directions. What gets through is what docs/security.md says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.isolation import landlock, probe, reach
from orchestrator.isolation.tiers import Wish

PROJECT = Path(__file__).parents[3]
WAIT_SECONDS = 100

SAME_USER = {
    "change a file's mode",
    "change its priority",
    "connect to its socket file",
    "open a terminal",
    "see its command line",
    "talk UDP to it",
}
"""What Landlock leaves open between programs of one user."""
USER_PER_SESSION = {"talk UDP to it"}
"""What is left open when each session also has a user and a view of its own."""
NO_VIEW = {"see its command line"}
"""What is left open besides when root may not mount."""
SEEN = Path("/tmp/data")
OWN = {
    "own: connect outside by HTTPS",
    "own: listen on any free port",
    "own: listen on the dev port and be reached",
    "own: read the system's files",
    "own: run a program of the system",
    "own: write to TMPDIR",
}
"""What has to work for everybody."""


def is_root_with_views() -> bool:
    facts = probe.look(reach.python_needs(), PROJECT)
    return facts.users and facts.views


needs_landlock = pytest.mark.skipif(
    landlock.abi() < landlock.SCOPE_ABI, reason="this kernel has no Landlock that keeps signals apart"
)
needs_root = pytest.mark.skipif(not is_root_with_views(), reason="only root can run workspaces as others")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: Unix sockets are bound in workspaces below it."""
    with tempfile.TemporaryDirectory(prefix="ws-") as name:
        yield Path(name)


def attack(data: Path, wish: Wish, *before: str) -> dict[str, Any]:
    """What came of it; ``before`` is a program that runs the rest."""
    program = [sys.executable, "-m", "tests.orchestrator.isolation.tenants", str(data), wish.value]
    done = subprocess.run(
        [*before, *program], cwd=PROJECT, capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["left"] == []
    return found


def with_less(who: str, place: Path) -> list[str]:
    """The program that runs another one with less than root has; it sees ``place`` as /tmp."""
    return [sys.executable, "-m", "tests.orchestrator.isolation.as_somebody", who, str(place)]


def promised(found: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Files, processes, network."""
    told = found["properties"]
    return told["isolates_files"], told["isolates_processes"], told["isolates_network"]


@needs_landlock
@needs_root
def test_root_gives_each_session_a_user_and_only_udp_is_left(place: Path) -> None:
    found = attack(place / "data", Wish.AUTO)
    assert set(found["through"]) == USER_PER_SESSION | OWN | {"own: write to /tmp"}
    assert promised(found) == (True, True, True)
    assert found["users"] == 2


@needs_landlock
@needs_root
def test_root_that_may_not_mount_leaves_command_lines_open_too(place: Path) -> None:
    found = attack(SEEN, Wish.AUTO, *with_less("root", place))
    assert set(found["through"]) == USER_PER_SESSION | NO_VIEW | OWN
    assert promised(found) == (True, True, True)
    assert found["users"] == 2


@needs_landlock
def test_without_root_landlock_keeps_files_signals_and_ports_apart(place: Path) -> None:
    if os.getuid() == 0 and not is_root_with_views():
        pytest.skip("root without the right to mount cannot show Python to another user")
    data = place / "data" if os.getuid() else SEEN
    found = attack(data, Wish.AUTO, *(with_less("somebody", place) if os.getuid() == 0 else []))
    assert set(found["through"]) == SAME_USER | OWN
    assert promised(found) == (True, True, True)
    assert found["users"] == 0


def test_where_nothing_is_isolated_every_attack_gets_through(place: Path) -> None:
    found = attack(place / "data", Wish.NONE)
    unlikely = {"connect by multipath TCP", "connect by TCP Fast Open"}  # not every kernel is set up for them
    assert set(found["tried"]) - set(found["through"]) <= unlikely
    assert promised(found) == (False, False, False)
