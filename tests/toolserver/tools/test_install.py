"""install and start: packages by whatever command, and the way from nothing to ready as stages."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builder import (
    Daemon,
    Http,
    Json,
    Refusal,
    Socket,
    http_of,
    out_of_time,
    tree_of,
    until,
)
from tests.ports import free_port
from toolserver.tools.install import error_line

FAKE_NPM = """#!/bin/sh
echo "npm $*" >> ran
case "$1" in
  ci) echo "npm error code EUSAGE"
      echo "npm error The lock file is out of step with package.json." >&2
      exit 1 ;;
  *) echo "added 1 package"; [ ! -e broken ] ;;
esac
"""


@pytest.fixture
def npm(root: Path) -> Json:
    """Variables with which ``npm`` is a script that writes down what it was asked."""
    tools = root.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "npm").write_text(FAKE_NPM)
    (tools / "npm").chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}"}


@pytest.fixture
async def clean(daemon: Daemon) -> AsyncIterator[None]:
    yield
    async with http_of(daemon) as http:
        await http.ok("dev_stop")


async def test_nothing_to_install_is_no_error(http: Http, root: Path) -> None:
    answer = await http.ok("install")
    assert (answer["packageManager"], answer["command"], answer["fallbackReason"]) == (None, None, None)
    (root / "package.json").write_text("{}")
    assert (await http.ok("install", command=""))["command"] is None


async def test_a_command_may_be_given(http: Http, root: Path) -> None:
    answer = await http.ok("install", command="echo $A > installed", env={"A": "b"})
    assert answer["command"] == "echo $A > installed"
    assert (root / "installed").read_text() == "b\n"


async def test_the_plain_install_follows_when_the_strict_one_fails(http: Http, root: Path, npm: Json) -> None:
    (root / "package.json").write_text("{}")
    (root / "package-lock.json").write_text("{}")
    answer = await http.ok("install", env=npm)
    assert (answer["packageManager"], answer["command"]) == ("npm", "npm install --no-audit --no-fund")
    assert answer["fallbackReason"] == (
        "'npm ci --no-audit --no-fund --prefer-offline' failed with exit code 1: "
        "npm error The lock file is out of step with package.json."
    )
    assert (root / "ran").read_text().splitlines() == [
        "npm ci --no-audit --no-fund --prefer-offline",
        "npm install --no-audit --no-fund",
    ]


async def test_offline_takes_the_cache_only(http: Http, root: Path, npm: Json) -> None:
    (root / "package.json").write_text("{}")
    assert (await http.ok("install", env=npm, offline=True))["command"] == (
        "npm install --no-audit --no-fund --offline"
    )


@pytest.mark.parametrize(
    ("pin", "package", "here"),
    [
        ("10.2.0", '{"name": "npm", "version": "11.17.0"}', "11.17.0"),
        ("11.1", '{"name": "npm", "version": "11.17.0"}', "11.17.0"),
        ("10.2.0", None, "of an unknown version"),
        ("11.17.0", '{"name": "npm", "version": "11.17.0"}', None),
        ("11", '{"name": "npm", "version": "11.17.0"}', None),
        ("10.2.0", '{"name": "corepack", "version": "0.34.0"}', None),
    ],
)
async def test_a_pinned_npm_that_is_not_the_one_here_is_told(
    http: Http, root: Path, npm: Json, daemon: Daemon, pin: str, package: str | None, here: str | None
) -> None:
    beside = root.parent / "tools/package.json"
    if package is not None:
        beside.write_text(package)
    (root / "package.json").write_text(f'{{"packageManager": "npm@{pin}+sha512.abc"}}')
    *frames, last = await http.stream("install", env=npm)
    beside.unlink(missing_ok=True)
    notice = last["result"]["notice"]
    told = [frame["event"]["text"] for frame in frames]
    if here is None:
        assert (notice, told) == (None, ["added 1 package\n"])
        return
    assert notice == (
        f"packageManager pins npm@{pin}, and the npm that is here, {here}, installs instead; for the pinned "
        f"one, install by `npm exec --yes --package=npm@{pin} -- npm install` (installCommand in "
        "template.json, or 'command')"
    )
    assert told == [f"{notice}\n", "added 1 package\n"]
    await until(lambda: any(line.get("notice") == notice for line in daemon.log()))


async def test_a_failed_install_is_told_with_its_last_words(http: Http, root: Path, npm: Json) -> None:
    (root / "package.json").write_text("{}")
    (root / "broken").touch()
    refused = await http.refused("install", env=npm)
    assert (refused.status, refused.code) == (422, "install_failed")
    assert refused.message == "'npm install --no-audit --no-fund' failed with exit code 1: added 1 package"
    assert refused.details == {
        "command": "npm install --no-audit --no-fund",
        "exitCode": 1,
        "output": ["added 1 package"],
    }


async def test_what_corepack_did_not_get_is_told_with_what_helps(http: Http, root: Path, npm: Json) -> None:
    (root / "package.json").write_text("{}")
    told = "Error: Error when performing the request to there; see corepack#troubleshooting"
    (root.parent / "tools" / "npm").write_text(f"#!/bin/sh\necho '{told}'; exit 1\n")
    refused = await http.refused("install", env=npm)
    assert refused.message.endswith(
        f"{told}; set npm_config_registry on the host, and Corepack fetches it from that registry"
    )


async def test_a_command_that_does_not_exist_is_told(http: Http, root: Path) -> None:
    refused = await http.refused("install", command="no-such-manager install")
    assert refused.code == "install_failed"
    assert refused.details["exitCode"] == 127
    assert "no-such-manager: command not found" in refused.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Input data was truncated"),
        ("[1]", "it is no object"),
        ('{"a": \xff}', "invalid"),
        ("", "Input data was truncated"),
    ],
)
async def test_an_invalid_package_json_is_told_and_nothing_runs(
    http: Http, root: Path, npm: Json, content: str, reason: str
) -> None:
    (root / "package.json").write_bytes(content.encode("latin-1"))
    for operation in ("install", "dev_start", "start"):
        params = {"install": {"env": npm}} if operation == "start" else {"env": npm}
        refused = await http.refused(operation, **params)
        assert (refused.status, refused.code) == (400, "invalid_request")
        assert refused.message.startswith("package.json is not valid: ")
        assert reason.lower() in refused.message.lower()
    assert not (root / "ran").exists()


async def test_a_package_json_with_a_windows_mark_is_read_as_npm_reads_it(
    http: Http, root: Path, npm: Json
) -> None:
    (root / "package.json").write_bytes(b'\xef\xbb\xbf{"scripts": {}}')
    assert (await http.ok("install", env=npm))["command"] == "npm install --no-audit --no-fund"


async def test_a_package_json_that_is_too_long_is_told_as_that(http: Http, root: Path) -> None:
    (root / "package.json").write_text(f'{{"x": "{"y" * 5_000_000}"}}')
    refused = await http.refused("install")
    assert (refused.status, refused.code) == (413, "too_large")
    assert refused.message == "package.json has more than 4194304 bytes; that is no list of packages"


async def test_an_install_has_its_time(http: Http, daemon: Daemon, root: Path) -> None:
    line = "(setsid sleep 1000 &); echo begun; sleep 1000"

    async def ask(clock: int) -> Refusal:
        refused = await http.refused("install", command=line, timeoutMs=clock)
        assert (refused.status, refused.code) == (504, "timeout")
        assert refused.message.endswith(f" did not end within {clock} ms (timeoutMs); it was stopped")
        assert daemon.children() == set()
        return refused

    refused = await out_of_time(ask, lambda refused: refused.details["output"])
    assert (refused.details["clock"], refused.details["output"]) == ("timeoutMs", ["begun"])


async def test_two_at_once_are_refused(http: Http, root: Path) -> None:
    first = asyncio.create_task(
        http.ok("install", command="touch on; while [ ! -e go ]; do sleep 0.02; done")
    )
    await until((root / "on").exists)
    refused = await http.refused("install", command="true")
    assert (refused.code, refused.message) == (
        "busy",
        "an install is under way in this workspace; wait for it",
    )
    async with http.session.get("/ready") as response:
        assert (await response.json())["state"] == "installing"
    (root / "go").touch()
    await first
    await http.ok("install", command="true")


async def test_a_cancelled_install_ends_with_all_it_started(
    socket: Socket, daemon: Daemon, root: Path
) -> None:
    await socket.send("1", "install", {"command": "(setsid sleep 1000 &); echo on; sleep 1000"})
    assert (await socket.next_of("1"))["event"] == {
        "type": "log",
        "source": "install",
        "text": "on\n",
        "nextOffset": 3,
        "number": None,
    }
    await socket.send("1", "cancel")
    assert (await socket.end_of("1"))[1]["error"]["code"] == "cancelled"
    assert daemon.children() == set()
    await socket.ok("install", command="true")


async def test_what_npm_ci_misses_is_told_and_not_its_options(http: Http, root: Path) -> None:
    (root / "package.json").write_text('{"name": "x", "version": "1.0.0"}')
    (root / "package-lock.json").write_text("none")
    answer = await http.ok("install", offline=True)
    assert "The `npm ci` command can only install with an existing" in answer["fallbackReason"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "it printed nothing"),
        (["one", "two"], "two"),
        (
            ["> dev", "> vite", "Error: port is in use by another program now"],
            "Error: port is in use by another program now",
        ),
        (
            [
                "if (!found) throw new Error(`No signature was found in it`);",
                "^",
                "Error: No signature was found in it",
            ],
            "Error: No signature was found in it",
        ),
        (
            ["➤ YN0028: │ The lockfile is explicitly forbidden to change", "➤ YN0000: · Failed with errors"],
            "➤ YN0028: │ The lockfile is explicitly forbidden to change",
        ),
        (
            [
                "npm error code ENOTCACHED",
                "npm error request to https://example.org/a failed: cache mode is 'only-if-cached' but no",
            ],
            "npm error request to https://example.org/a failed: cache mode is 'only-if-cached' but no",
        ),
    ],
)
def test_the_line_that_tells_most_is_found(lines: list[str], expected: str) -> None:
    assert error_line(lines) == expected


def packed(**files: str) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return base64.b64encode(buffer.getvalue()).decode()


PAGE = {"index.html": "<body>hello</body>"}


@pytest.mark.usefixtures("clean")
class TestStart:
    async def test_the_stages_are_told_in_order(self, http: Http, root: Path) -> None:
        *frames, last = await http.stream("start", archive=packed(**PAGE), dev={"port": free_port()})
        steps = [
            (event["step"], event["state"])
            for event in (f["event"] for f in frames)
            if event["type"] == "progress"
        ]
        assert steps == [
            ("extract", "started"), ("extract", "done"),
            ("install", "started"), ("install", "done"),
            ("dev_server", "started"), ("dev_server", "done"),
        ]  # fmt: skip
        assert (last["result"]["files"], last["result"]["dev"]["state"]) == (1, "ready")
        assert last["result"]["durationsMs"].keys() == {"extract", "install", "dev_server"}
        assert tree_of(root) == {"index.html": b"<body>hello</body>"}

    async def test_content_that_is_there_is_taken_as_it_is(self, http: Http, root: Path) -> None:
        (root / "index.html").write_text("mine")
        *frames, last = await http.stream("start", dev={"port": free_port()})
        assert frames[0]["event"]["state"] == "skipped"
        assert (last["result"]["files"], last["result"]["dev"]["state"]) == (None, "ready")

    async def test_a_directory_without_dev_server_is_started_without(self, http: Http, root: Path) -> None:
        (root / "notes.txt").write_text("x")
        answer = await http.ok("start", dev={"command": ""})
        assert answer["dev"]["state"] == "down"

    async def test_a_failed_install_starts_nothing(self, http: Http, root: Path) -> None:
        refused = await http.refused("start", install={"command": "exit 9"}, dev={"command": "touch started"})
        assert (refused.code, refused.details["exitCode"]) == ("install_failed", 9)
        assert not (root / "started").exists()
        assert (await http.ok("dev_status"))["state"] == "down"

    async def test_an_archive_that_is_none_changes_nothing(self, http: Http, root: Path) -> None:
        (root / "mine").write_text("x")
        refused = await http.refused("start", archive=base64.b64encode(b"no archive").decode())
        assert refused.code == "archive_invalid"
        assert tree_of(root) == {"mine": b"x"}

    async def test_a_bad_archive_leaves_the_dev_server_running(self, http: Http, root: Path) -> None:
        first = await http.ok("start", archive=packed(**PAGE), dev={"port": free_port()})
        await http.refused("start", archive=base64.b64encode(b"no archive").decode())
        status = await http.ok("dev_status")
        assert (status["state"], status["pid"]) == ("ready", first["dev"]["pid"])

    async def test_a_second_start_leaves_a_running_dev_server_alone(self, http: Http, root: Path) -> None:
        first = await http.ok("start", archive=packed(**PAGE), dev={"port": free_port()})
        second = await http.ok("start")
        assert second["dev"]["pid"] == first["dev"]["pid"]

    async def test_new_content_brings_a_new_dev_server(self, http: Http, root: Path) -> None:
        port = free_port()
        first = await http.ok("start", archive=packed(**PAGE), dev={"port": port})
        second = await http.ok("start", archive=packed(**{"index.html": "new"}), dev={"port": port})
        assert second["dev"]["pid"] != first["dev"]["pid"]
        assert tree_of(root) == {"index.html": b"new"}

    async def test_readiness_that_cannot_be_is_refused_before_anything(self, http: Http, root: Path) -> None:
        (root / "mine").write_text("x")
        refused = await http.refused(
            "start", archive=packed(**PAGE), dev={"readiness": {"log": {"pattern": "("}}}
        )
        assert refused.code == "invalid_request"
        assert tree_of(root) == {"mine": b"x"}
