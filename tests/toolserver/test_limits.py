"""The table of limits: told whole, and each one that refuses is met by name."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from protocol.errors import BY_CODE
from protocol.export.limits import document, wire_name
from protocol.limits import REFUSALS, Limits
from tests.builder import Daemon, Http, Refusal, emptied, running

PROJECT = Path(__file__).parents[2]
SMALL = {
    "max_frame_bytes": 100_000,
    "max_read_bytes": 5_000,
    "max_reads": 2,
    "max_write_bytes": 1_000,
    "max_edit_files": 2,
    "max_edit_bytes": 3_000,
    "max_upload_bytes": 2_000,
    "max_path_bytes": 200,
    "max_shell_command_bytes": 500,
    "max_shells": 1,
    "max_processes": 2,
    "max_archive_bytes": 20_000,
    "max_unpacked_bytes": 300_000,
    "max_archive_ratio": 20,
    "archive_ratio_free_bytes": 30_000,
    "max_archive_entries": 5,
    "max_archive_depth": 3,
    "max_indexed_entries": 3,
    "max_checkpoint_file_bytes": 500,
}
ELSEWHERE = {
    "wire/test_connections.py": (
        *("max_header_bytes", "max_headers", "header_timeout_ms", "body_stall_ms"),
        *("min_body_bytes_per_second", "max_sockets_in_all", "max_open_files"),
    ),
    "tools/test_auditing.py": ("max_requests_per_second", "max_operations", "max_operations_in_all"),
    "test_shares.py": ("max_sockets", "max_processes_in_all", "max_shells_in_all"),
    "test_no_space.py": ("reserved_disk_bytes", "max_workspace_bytes"),
    "system/test_room.py": ("reserved_disk_entries",),
}
"""Limits of another kind, by the file that meets them."""
Meet = Callable[[Http, Path], Awaitable[Refusal]]
MEETINGS: dict[str, Meet] = {}


def meets(meet: Meet) -> Meet:
    """By the function's name."""
    return MEETINGS.setdefault(meet.__name__, meet)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    limits = {f"TOOL_SERVER_{name.upper()}": str(value) for name, value in SMALL.items()}
    with running(tmp_path_factory.mktemp("small"), **limits, TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
        yield daemon


def archive(**files: int) -> str:
    """Of files by size, all zeros."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, size in files.items():
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return base64.b64encode(packed.getvalue()).decode()


@meets
async def max_frame_bytes(http: Http, _: Path) -> Refusal:
    return await http.refused("write", path="a", content="x" * 100_001)


@meets
async def max_reads(http: Http, _: Path) -> Refusal:
    return await http.refused("read_many", files=[{"path": "a"}] * 3)


@meets
async def max_read_bytes(http: Http, root: Path) -> Refusal:
    (root / "large").write_text("x" * 5_001)
    return await http.refused("edit", path="large", oldText="y", newText="z")


@meets
async def max_write_bytes(http: Http, _: Path) -> Refusal:
    return await http.refused("write", path="a", content="x" * 1_001)


@meets
async def max_edit_files(http: Http, _: Path) -> Refusal:
    edits = [{"op": "create", "path": name, "content": "x"} for name in "abc"]
    return await http.refused("edit", edits=edits)


@meets
async def max_edit_bytes(http: Http, root: Path) -> Refusal:
    for name in "ab":
        (root / name).write_text("<" + "x" * 1_800)
    edits = [{"path": name, "oldText": "<", "newText": ">"} for name in "ab"]
    return await http.refused("edit", edits=edits)


@meets
async def max_upload_bytes(http: Http, _: Path) -> Refusal:
    async with http.session.put("/v1/files/a", data=b"x" * 2_001) as response:
        return Refusal.of(response.status, await response.json())


@meets
async def max_path_bytes(http: Http, _: Path) -> Refusal:
    return await http.refused("inject", archive=archive(**{"/".join(["x" * 100] * 3): 1}))


@meets
async def max_shell_command_bytes(http: Http, _: Path) -> Refusal:
    return await http.refused("shell", command="true " + "x" * 500)


@meets
async def max_shells(http: Http, _: Path) -> Refusal:
    await http.ok("shell", command="true")
    refused = await http.refused("shell", command="true", name="other")
    await http.ok("shell_stop")
    return refused


@meets
async def max_processes(http: Http, _: Path) -> Refusal:
    started = [(await http.ok("command", command="sleep 60", background=True))["processId"] for _ in range(2)]
    refused = await http.refused("command", command="true")
    for each in started:
        await http.ok("stop", processId=each)
    return refused


@meets
async def max_archive_bytes(http: Http, _: Path) -> Refusal:
    async with http.session.put("/v1/archive", data=b"x" * 20_001) as response:
        return Refusal.of(response.status, await response.json())


@meets
async def max_unpacked_bytes(http: Http, _: Path) -> Refusal:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("big")
        member.size = 300_001
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    # It says so in its header: the content need not come.
    async with http.session.put("/v1/archive", data=packed.getvalue()[:2048]) as response:
        return Refusal.of(response.status, await response.json())


@meets
async def max_archive_ratio(http: Http, _: Path) -> Refusal:
    return await http.refused("inject", archive=archive(bomb=250_000))


@meets
async def max_archive_entries(http: Http, _: Path) -> Refusal:
    return await http.refused("inject", archive=archive(**dict.fromkeys("abcdef", 1)))


@meets
async def max_archive_depth(http: Http, _: Path) -> Refusal:
    return await http.refused("inject", archive=archive(**{"a/b/c/d/e/f": 1}))


@meets
async def max_indexed_entries(http: Http, root: Path) -> Refusal:
    for name in "abcdef":
        (root / name).mkdir()
    return await http.refused("watch", timeoutMs=60_000)


def test_every_limit_that_refuses_is_met_somewhere() -> None:
    elsewhere = {name for names in ELSEWHERE.values() for name in names}
    unmet = REFUSALS.keys() - MEETINGS.keys() - elsewhere
    assert unmet == OF_A_FAMILY
    for file, names in ELSEWHERE.items():
        text = (Path(__file__).parent / file).read_text()
        assert all(wire_name(name) in text for name in names)


OF_A_FAMILY = {
    *("max_checkpoint_bytes", "max_checkpoint_file_bytes", "max_removed_bytes", "max_in_flight"),
    *("max_shell_queue", "max_open_shell_outputs", "max_viewers", "max_waiting_input_bytes"),
    *("max_requests_per_second_in_all", "max_spent_tokens"),
}
"""Met by the tests of their operations."""


@pytest.mark.parametrize("name", MEETINGS)
async def test_a_limit_is_met_by_its_name(name: str, http: Http, daemon: Daemon) -> None:
    refused = await MEETINGS[name](http, emptied(daemon.root))
    assert (refused.code, refused.details["limit"], refused.details["value"]) == (
        REFUSALS[name],
        wire_name(name),
        SMALL[name],
    )
    assert refused.status == BY_CODE[REFUSALS[name]].status


def test_the_page_is_the_table() -> None:
    written = (PROJECT / "docs/limits.md").read_text()
    assert written == document(), "run: python -m protocol.export.limits > docs/limits.md"


def test_an_error_names_only_limits_of_the_table() -> None:
    named = {wire_name(name) for name in REFUSALS}
    others = {"maxNameBytes", "MAX_ARG_STRLEN"}  # the kernel's
    for package in ("protocol", "toolserver"):
        for file in (PROJECT / package).rglob("*.py"):
            assert set(re.findall(r'limit="(\w+)"', file.read_text())) <= named | others, file
    assert REFUSALS.keys() <= set(Limits.__struct_fields__)
    assert set(REFUSALS.values()) <= BY_CODE.keys()
