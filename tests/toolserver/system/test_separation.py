"""Commands are kept from their tool server: every attack is tried by one of them, and the list is exact."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builder import Daemon, Json, http_of, run_to_end, running
from tests.toolserver.system import attacks
from toolserver.system import kernel

NAMES = {"list names of the daemon's files", "change a mode of the daemon's files"}
"""Open in every tier: rights on a directory above are rights on all below, and Landlock judges no modes."""
FILES = {
    "read a file of the daemon",
    "change a file of the daemon",
    "remove a file of the daemon",
    "make a file beside it",
    "move its directory",
    "write a program of the daemon",
}
SOCKETS = {"connect to an abstract socket outside"}
GROUPS = {"change a control group"}
"""Open to root, where they are not mounted to be read only, and to who was given his own."""
SIGNALS = {"kill", "tkill", "tgkill", "queue a signal"}
LIFE = {
    "write",
    "write in HOME",
    "write in TMPDIR",
    "move from HOME",
    "read /proc",
    "a terminal",
    "/dev/null",
    "run a program",
    "signal another command",
    "read another command's variables",
    "an abstract socket",
}

needs_landlock = pytest.mark.skipif(
    kernel.landlock_abi() < 6, reason="this kernel has no Landlock that keeps signals in"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start programs as another user")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not in pytest's own, which is closed to all other users."""
    made = Path(tempfile.mkdtemp(prefix="separation-"))
    made.chmod(0o755)
    (made / "tmp").mkdir()
    (made / "tmp").chmod(0o1777)
    yield made
    shutil.rmtree(made)


async def attacked(daemon: Daemon, python: str = sys.executable) -> Json:
    """What a command of it gets through with, while another one runs."""
    shutil.copy(attacks.__file__, daemon.root / "attacks.py")
    secret = daemon.state / "secret"
    secret.write_text("secret")
    shutil.chown(secret, daemon.state.stat().st_uid, daemon.state.stat().st_gid)
    programs = Path(kernel.__file__).parent
    name = f"outside-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind("\0" + name)
        outside.listen()
        async with http_of(daemon) as http:
            sleeper = await http.ok("command", argv=["sleep", "1000"], background=True)
            shown = (await http.ok("processes"))["processes"]
            neighbour = next(each["pid"] for each in shown if each["processId"] == sleeper["processId"])
            answer = await http.ok(
                "command",
                argv=[
                    python,
                    "-I",
                    "attacks.py",
                    *map(str, (daemon.pid, daemon.state, programs, name, neighbour)),
                ],
            )
            await http.ok("stop", processId=sleeper["processId"])
    assert answer["exitCode"] == 0, answer["stderr"]
    found: Json = json.loads(answer["stdout"])
    return found


def gets_through(told: Json) -> set[str]:
    """What is not refused; what fails for another reason is no refusal, and is shown."""
    assert not {what: how for what, how in told["found"].items() if how not in ("open", "refused")}
    return {what for what, how in told["found"].items() if how == "open"}


def own(*missing: str) -> set[str]:
    return {f"own: {each}" for each in LIFE - {*missing}}


async def separation(daemon: Daemon) -> tuple[str, dict[str, bool]]:
    async with http_of(daemon) as http:
        told = await http.ok("separation")
    return told["tier"], {each["name"]: each["holds"] for each in told["properties"]}


@needs_landlock
async def test_no_attack_of_a_command_on_its_tool_server_gets_through(directory: Path) -> None:
    with running(directory, TMPDIR=str(directory / "tmp"), TOOL_SERVER_SEPARATION="full") as daemon:
        told = await attacked(daemon)
        assert gets_through(told) == NAMES | own()
        assert (told["noNewPrivileges"], told["uid"]) == ("1", os.getuid())
        tier, holds = await separation(daemon)
    assert tier == "full"
    assert {name for name, held in holds.items() if not held} == {"own_user"}


async def test_a_package_cache_that_is_not_there_yet_can_be_filled_beside_what_is_hidden(
    directory: Path,
) -> None:
    cache = directory / "caches" / "npm"
    with running(directory, TMPDIR=str(directory / "tmp"), npm_config_cache=str(cache)) as daemon:
        async with http_of(daemon) as http:
            done = await http.ok("command", command='mkdir -p "$npm_config_cache/_cacache"')
    assert (done["exitCode"], done["stderr"]) == (0, "")
    assert (cache / "_cacache").is_dir()


async def test_without_landlock_the_rest_still_holds_and_is_told(directory: Path) -> None:
    module = "tests.toolserver.system.without_landlock"
    with running(directory, module=module, TMPDIR=str(directory / "tmp")) as daemon:
        told = await attacked(daemon)
        found = gets_through(told)
        tier, holds = await separation(daemon)
    # The thread that starts commands and the first one are guarded; a worker's number is found in /proc.
    assert found - SIGNALS - GROUPS == (NAMES | FILES | SOCKETS | own()) - SIGNALS
    assert tier == "basic"
    assert {name for name, held in holds.items() if held} == {"no_new_privileges", "memory"}


async def test_nothing_is_kept_from_commands_where_that_was_asked_for(directory: Path) -> None:
    with running(directory, TOOL_SERVER_SEPARATION="none") as daemon:
        told = await attacked(daemon)
        tier, holds = await separation(daemon)
    assert SIGNALS | FILES | SOCKETS | own() <= gets_through(told)
    assert (tier, any(holds.values()), told["noNewPrivileges"]) == ("none", False, "0")


@needs_root
@needs_landlock
async def test_commands_of_another_user_get_nowhere_and_change_what_the_tool_server_wrote(
    directory: Path,
) -> None:
    found = readable_python()
    if found is None:
        pytest.skip("no Python here is for everybody to read")
    python, path = found
    for each in ("home", "tmp"):
        (directory / each).mkdir(exist_ok=True)
        os.chown(directory / each, 12345, 12345)
    variables = {"TMPDIR": str(directory / "tmp"), "PYTHONPATH": path, "TOOL_SERVER_COMMAND_USER": "12345"}
    with running(directory, python=python, TOOL_SERVER_SEPARATION="full", **variables) as daemon:
        async with http_of(daemon) as http:
            await http.ok("write", path="made/by/it.txt", content="one")
            changed = await http.ok("command", command="echo two >> made/by/it.txt && rm -r made && id -u")
        assert (changed["exitCode"], changed["stdout"]) == (0, "12345\n")
        told = await attacked(daemon, python)
        tier, holds = await separation(daemon)
    assert gets_through(told) == NAMES | own()
    assert (told["uid"], tier, all(holds.values())) == (12345, "full", True)


@needs_landlock
async def test_a_search_is_not_led_by_links_to_what_is_hidden(directory: Path) -> None:
    """ripgrep reads more than the files that it tells of, and is not looked after in that."""
    with running(directory, TMPDIR=str(directory / "tmp"), TOOL_SERVER_SEPARATION="full") as daemon:
        (daemon.state / "mine").write_text("confidential {\nlisted.txt\n")
        top = daemon.root / "top"
        top.mkdir()
        for name in (".ignore", ".rgignore", ".gitignore"):
            (top / name).symlink_to(daemon.state / "mine")
        (top / "listed.txt").write_text("needle")
        async with http_of(daemon) as http:
            found = await http.ok("search", pattern="needle", path="top")
            too_deep(top)
            refused = await http.refused("search", pattern="x", path="top", types=["c"], **{"in": "names"})
    assert [each["path"] for each in found["matches"]] == ["top/listed.txt"]
    assert refused.message.startswith("ripgrep refuses the search: rg: ")
    assert "confidential" not in refused.message


def too_deep(top: Path) -> None:
    """A way below ``top`` that no path can name: a walk complains of it, and of all that it met before."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_a_tier_that_cannot_be_had_ends_the_start_with_a_sentence(directory: Path) -> None:
    state = directory / "tmp" / "state"
    done = run_to_end(
        directory,
        TMPDIR=str(directory / "tmp"),
        TOOL_SERVER_STATE_DIR=str(state),
        TOOL_SERVER_SEPARATION="full",
        TOOL_SERVER_TOKEN="a-token-of-these-tests",
    )
    assert done.returncode == 1
    if kernel.landlock_abi() >= 6:
        assert done.stderr.splitlines()[-1] == (
            "toolserver: TOOL_SERVER_SEPARATION=full cannot be had here: daemon_files: the directory "
            f"{state} lies in {directory / 'tmp'}, where commands work: have one of them elsewhere; or set "
            "TOOL_SERVER_SEPARATION=auto, and take what there is"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may start programs as another user")
def test_another_user_for_commands_is_refused_to_who_is_not_root(directory: Path) -> None:
    done = run_to_end(directory, TOOL_SERVER_COMMAND_USER="12345")
    assert done.returncode == 1
    assert "only root may start programs as another user" in done.stderr.splitlines()[-1]


def readable_python() -> tuple[str, str] | None:
    """A Python of our version that any user may run, and the path on which it finds what ours does."""
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    packages = [each for each in sys.path if each.endswith("site-packages")]
    here = str(Path(__file__).parents[3])
    ways = [each for place in (here, *packages) for each in (Path(place), *Path(place).parents)]
    if not Path(python).exists() or not all(each.stat().st_mode & 0o005 == 0o005 for each in ways):
        return None
    return python, os.pathsep.join([here, *packages])
