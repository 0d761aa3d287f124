"""In a container as on a machine: no attack of a command on its tool server gets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.image.support import HARDENED, daemon_pid, workspace
from tests.toolserver.system import attacks
from tests.toolserver.system.test_separation import LIFE, NAMES, needs_landlock

STATE = "/var/lib/workspace/.workspace"


@needs_landlock
@pytest.mark.parametrize(
    "options",
    [(), HARDENED, ("--user=0", "--cap-drop=ALL"), ("--user=0", "--cap-add=SYS_PTRACE")],
    ids=["as it is", "all flags together", "root without capabilities", "root that may trace"],
)
def test_no_attack_of_a_command_on_its_tool_server_gets_through(options: tuple[str, ...]) -> None:
    with workspace(*options) as guest:
        assert guest.call("separation")["tier"] == "full"
        guest.exec("sh", "-c", f"echo secret > {STATE}/secret")
        guest.call("write", {"path": "attacks.py", "content": Path(attacks.__file__).read_text()})
        sleeper = guest.call("command", {"argv": ["sleep", "1000"], "background": True})["processId"]
        shown = guest.call("processes")["processes"]
        neighbour = next(each["pid"] for each in shown if each["processId"] == sleeper)
        told = json.loads(
            guest.output(
                f"python3 -I attacks.py {daemon_pid(guest)} {STATE} /tools/daemon nobody {neighbour}"
            )
        )
    assert {what for what, how in told["found"].items() if how != "refused"} == NAMES | {
        f"own: {each}" for each in LIFE
    }
