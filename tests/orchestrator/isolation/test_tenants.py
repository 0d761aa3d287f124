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

from orchestrator.backends.local import PREFORK_VARIABLE
from orchestrator.isolation import landlock, probe, reach
from orchestrator.isolation.tiers import Wish

PROJECT = Path(__file__).parents[3]
WAIT_SECONDS = 250
# Three starts of a Python, and some forty attempts by as many commands.
pytestmark = pytest.mark.timeout(300)

SAME_USER = {
    "change a file's mode",
    "change its priority",
    "connect to its socket file",
    "open a terminal",
    "see its command line",
}
"""What Landlock leaves open between programs of one user."""
SHARED_NETWORK = {"talk UDP to it"}
"""What rules on ports leave open."""
NO_VIEW = {"see its command line"}
"""What is left open besides a user per session when root may not mount."""
SEEN = Path("/tmp/data")
OWN = {
    "own: connect outside by HTTPS",
    "own: listen on any free port",
    "own: listen on the dev port and be reached",
    "own: read the system's files",
    "own: run a program of the system",
    "own: use a port that the host lends",
    "own: write to TMPDIR",
}
"""What has to work for everybody."""
ANY_PORT = {"own: be reached on any free port", "listen on any named port"}
"""What works besides where the network is the session's own: no port in there is anybody else's."""
NO_RIGHTS = ["0" * 16] * 4
OWN_TMP = {"own: write to /tmp"}


FACTS = probe.look(reach.python_needs(), PROJECT)
ROOT = os.getuid() == 0

needs_landlock = pytest.mark.skipif(
    landlock.abi() < landlock.SCOPE_ABI, reason="this kernel has no Landlock that keeps signals apart"
)
needs_root = pytest.mark.skipif(
    not (FACTS.users and FACTS.views), reason="only root can run workspaces as others"
)
needs_network = pytest.mark.skipif(bool(FACTS.no_network), reason=FACTS.no_network)
needs_bwrap = pytest.mark.skipif(bool(FACTS.no_bwrap), reason=FACTS.no_bwrap)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: Unix sockets are bound in workspaces below it."""
    with tempfile.TemporaryDirectory(prefix="ws-") as name:
        yield Path(name)


def attack(
    data: Path, wish: Wish, *before: str, network: str = "auto", prefork: bool = False
) -> dict[str, Any]:
    """What came of it; ``before`` is a program that runs the rest."""
    environ = {**os.environ, "WORKSPACE_NETWORK": network, PREFORK_VARIABLE: str(int(prefork))}
    program = [sys.executable, "-m", "tests.orchestrator.isolation.tenants", str(data), wish.value]
    done = subprocess.run(
        [*before, *program], cwd=PROJECT, env=environ, capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["left"] == []
    return found


def with_less(who: str, place: Path) -> list[str]:
    """The program that runs another one with less than root has; it sees ``place`` as /tmp."""
    return [sys.executable, "-m", "tests.orchestrator.isolation.as_somebody", who, str(place)]


def as_somebody(who: str, place: Path, wish: Wish) -> tuple[Any, ...]:
    """The arguments for an attack without root."""
    if not ROOT:
        return place / "data", wish
    if not FACTS.views:
        pytest.skip("root without the right to mount cannot show Python to another user")
    return SEEN, wish, *with_less(who, place)


def promised(found: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Files, processes, network."""
    told = found["properties"]
    return told["isolates_files"], told["isolates_processes"], told["isolates_network"]


@needs_landlock
@needs_root
@needs_network
def test_root_gives_each_session_a_user_a_view_and_a_network_and_nothing_is_left(place: Path) -> None:
    found = attack(place / "data", Wish.AUTO, network="own")
    assert set(found["through"]) == OWN | OWN_TMP | ANY_PORT
    assert promised(found) == (True, True, True)
    assert found["users"] == 2


@needs_landlock
@needs_root
@needs_network
def test_forked_tool_servers_of_root_are_kept_apart_as_well(place: Path) -> None:
    found = attack(place / "data", Wish.AUTO, network="own", prefork=True)
    assert set(found["through"]) == OWN | OWN_TMP | ANY_PORT
    assert (found["forked"], found["users"], found["rights"]) == (True, 2, NO_RIGHTS)


@needs_landlock
@needs_network
def test_forked_tool_servers_without_root_are_kept_apart_and_have_no_rights_in_their_namespace(
    place: Path,
) -> None:
    found = attack(*as_somebody("somebody-routed", place, Wish.AUTO), network="own", prefork=True)
    assert set(found["through"]) == SAME_USER | OWN | ANY_PORT
    assert (found["forked"], found["rights"]) == (True, NO_RIGHTS)


@needs_landlock
@needs_root
def test_rules_on_ports_leave_udp_open_and_close_the_own_random_ports(place: Path) -> None:
    found = attack(place / "data", Wish.AUTO, network="shared")
    assert set(found["through"]) == SHARED_NETWORK | OWN | OWN_TMP
    assert promised(found) == (True, True, True)
    assert found["users"] == 2


@needs_landlock
@needs_root
def test_root_that_may_not_mount_leaves_command_lines_open_too(place: Path) -> None:
    found = attack(SEEN, Wish.AUTO, *with_less("root", place))
    assert set(found["through"]) == SHARED_NETWORK | NO_VIEW | OWN
    assert promised(found) == (True, True, True)
    assert found["users"] == 2


@needs_landlock
def test_without_root_landlock_keeps_files_signals_and_ports_apart(place: Path) -> None:
    found = attack(*as_somebody("somebody", place, Wish.AUTO), network="shared")
    assert set(found["through"]) == SAME_USER | SHARED_NETWORK | OWN
    assert promised(found) == (True, True, True)
    assert found["users"] == 0


@needs_landlock
@needs_network
def test_without_root_there_is_a_network_of_its_own_too(place: Path) -> None:
    found = attack(*as_somebody("somebody-routed", place, Wish.AUTO), network="own")
    assert set(found["through"]) == SAME_USER | OWN | ANY_PORT
    assert promised(found) == (True, True, True)


@needs_landlock
@needs_root
@needs_network
@needs_bwrap
def test_bubblewrap_with_a_user_and_a_network_leaves_nothing(place: Path) -> None:
    found = attack(place / "data", Wish.BWRAP, network="own")
    assert set(found["through"]) == OWN | OWN_TMP | ANY_PORT
    assert promised(found) == (True, True, True)
    assert found["users"] == 2


@needs_landlock
@needs_root
@needs_bwrap
def test_bubblewrap_on_the_hosts_network_leaves_udp(place: Path) -> None:
    found = attack(place / "data", Wish.BWRAP, network="shared")
    assert set(found["through"]) == SHARED_NETWORK | OWN | OWN_TMP
    assert promised(found) == (True, True, True)


@needs_landlock
@needs_network
@needs_bwrap
def test_bubblewrap_without_root_closes_what_programs_of_one_user_have_open(place: Path) -> None:
    found = attack(*as_somebody("somebody-routed", place, Wish.BWRAP), network="own")
    assert set(found["through"]) == OWN | OWN_TMP | ANY_PORT
    assert promised(found) == (True, True, True)
    assert found["users"] == 0


def test_where_nothing_is_isolated_every_attack_gets_through(place: Path) -> None:
    found = attack(place / "data", Wish.NONE)
    unlikely = {
        "connect by multipath TCP",  # not every kernel is set up for these two
        "connect by TCP Fast Open",
        "connect to its port by the host's address",  # nor has every host one
    }
    assert set(found["tried"]) - set(found["through"]) <= unlikely
    assert promised(found) == (False, False, False)
