"""The client and a real tool server, started by the local backend."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from orchestrator.backends import Endpoint, Guest, Launch
from orchestrator.backends.local import LocalBackend, Settings
from orchestrator.client import Client, open_client, request_of
from orchestrator.paths import PathManager, SessionId, UserId
from orchestrator.toolchain import find_toolchain
from protocol.errors import (
    ArchiveInvalid,
    ArchiveUnsafe,
    Busy,
    Conflict,
    InvalidRequest,
    NotFound,
    ToolError,
    Unauthorized,
    Unavailable,
)
from protocol.messages.archives import ArchiveFormat, InjectMode
from protocol.messages.commands import Started, Stderr, StderrBytes, Stdout, StdoutBytes, WhenSlow
from protocol.operations import OPERATIONS
from tests.orchestrator.live import Host
from tests.ports import free_port

TOKEN = "a-token-of-the-tests"
MIB = 1024 * 1024
PATIENCE_SECONDS = 60.0


def tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


SITE = {"index.html": b"<h1>one</h1>\n", "src/a.txt": b"alpha\nbeta\n"}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find_toolchain(os.environ).make_bin(tmp_path_factory.mktemp("tools"))


def wanted() -> Launch:
    return Launch(UserId("ann"), SessionId("s1"), TOKEN, tool_port=0, dev_port=free_port())


@asynccontextmanager
async def sandbox(data: Path, tools: Path) -> AsyncIterator[tuple[LocalBackend, Guest]]:
    backend = LocalBackend(PathManager(data), Settings(environ=os.environ, tools=tools))
    guest = await backend.create(wanted())
    try:
        yield backend, guest
    finally:
        assert (await backend.destroy(guest.id)).survivors == ()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, tools: Path) -> Iterator[Endpoint]:
    """Of a tool server in which nothing but files is left."""
    settings = Settings(environ=os.environ, tools=tools)
    backend = LocalBackend(PathManager(tmp_path_factory.mktemp("shared")), settings)
    guest = asyncio.run(backend.create(wanted()))
    try:
        yield backend.endpoint(guest, guest.tool_port)
    finally:
        assert asyncio.run(backend.destroy(guest.id)).survivors == ()


@pytest.fixture
async def client(endpoint: Endpoint) -> AsyncIterator[Client]:
    """Of a workspace that holds ``SITE``, and nothing of the last test's."""
    async with (
        open_client(endpoint.url, TOKEN, endpoint.headers) as client,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        while True:
            try:
                await client.put_archive(tar(SITE))
                break
            except Busy:  # with an archive that broke off in the last test
                await asyncio.sleep(0.05)
    async with open_client(endpoint.url, TOKEN, endpoint.headers) as client:
        yield client


@pytest.fixture
async def fresh(tmp_path: Path, tools: Path) -> AsyncIterator[Client]:
    """Of a workspace that holds ``SITE``, and where nothing was asked yet."""
    async with sandbox(tmp_path, tools) as (backend, guest):
        endpoint = backend.endpoint(guest, guest.tool_port)
        async with open_client(endpoint.url, TOKEN, endpoint.headers) as client:
            await client.put_archive(tar(SITE))
            yield client


async def content_of(client: Client) -> set[str]:
    return {entry.path for entry in (await client.list(depth=3)).entries}


async def test_a_wrong_token_is_refused_on_both_doors(client: Client) -> None:
    with pytest.raises(Unauthorized):
        async with open_client(client.base_url, "another-token-altogether"):
            pass
    async with open_client(client.base_url, None, {"X-Workspace-Token": TOKEN}) as other:
        other._headers["X-Workspace-Token"] = "wrong"
        with pytest.raises(Unauthorized):
            await other.put_archive(tar(SITE))


async def test_a_proxys_own_authorization_and_our_token_go_side_by_side(client: Client) -> None:
    # Authorization is believed first by the tool server, so this proxy has to strip it; here nobody does.
    with pytest.raises(Unauthorized):
        async with open_client(client.base_url, TOKEN, {"Authorization": "Bearer proxys-own"}):
            pass
    async with open_client(client.base_url, None, {"X-Workspace-Token": TOKEN}) as other:
        assert (await other.stat(path="index.html")).size == len(SITE["index.html"])


async def test_edit_and_read_go_hand_in_hand(client: Client) -> None:
    before = await client.read(path="index.html")
    edited = await client.edit(path="index.html", old_text="one", new_text="two", expected_hash=before.hash)
    after = await client.read(path="index.html")
    assert (after.content, after.hash) == ("<h1>two</h1>\n", edited.hash)
    with pytest.raises(Conflict):
        await client.edit(path="index.html", old_text="two", new_text="3", expected_hash=before.hash)


async def test_search_gives_all_in_the_answer_or_all_in_events(client: Client) -> None:
    plain = await client.search(pattern="a")
    async with client.search.stream(pattern="a") as stream:
        streamed = [match async for event in stream for match in event.matches]
        answer = await stream.result()
    assert plain.matches == streamed
    assert (answer.matches, answer.match_count) == ([], len(streamed))


async def test_a_hundred_commands_on_one_socket(client: Client) -> None:
    answers = await asyncio.gather(*(client.command(command=f"echo {n}; exit {n}") for n in range(100)))
    assert [(answer.stdout, answer.exit_code) for answer in answers] == [(f"{n}\n", n) for n in range(100)]


async def test_leaving_a_command_early_ends_it(client: Client) -> None:
    # Who leaves waits for the end of it, and on a busy machine that may take longer than a client waits.
    async with (
        open_client(client.base_url, TOKEN, close_timeout_seconds=PATIENCE_SECONDS) as leaving,
        leaving.command.stream(command="sleep 300 & sleep 300") as stream,
    ):
        async for event in stream:
            if isinstance(event, Started):
                break
    running = [each for each in (await client.processes()).processes if each.exit_code is None]
    assert running == []


async def test_large_output_of_any_bytes_comes_exactly_and_in_order(client: Client) -> None:
    """To a reader that takes nothing before the command has ended, and so through every queue on the way."""
    written = os.urandom(10 * MIB) + b"\xff\0\n" + b"text\n" * 400_000
    await client.put_file("bytes", written)
    line = "cat bytes; cat bytes >&2; printf end"
    got = {StdoutBytes: b"", StderrBytes: b""}
    async with (
        open_client(client.base_url, TOKEN, patience_seconds=PATIENCE_SECONDS) as reader,
        reader.command.stream(command=line, raw_events=True, max_output_bytes=0) as events,
    ):
        async for event in events:
            if isinstance(event, Started):
                assert (await client.wait(process_id=event.process_id)).exit_code == 0
            elif isinstance(event, StdoutBytes | StderrBytes):
                assert event.offset == len(got[type(event)])
                got[type(event)] += event.data
                assert event.next_offset == len(got[type(event)])
    assert got == {StdoutBytes: written + b"end", StderrBytes: written}


@pytest.mark.parametrize(
    "text", ["plain\n", "é漢😀\n", "mostly plain, with an é here and there\n" * 5_000 + "漢"]
)
async def test_large_output_of_text_comes_whole_whatever_its_characters(client: Client, text: str) -> None:
    written = text * (2 * MIB // len(text.encode()))
    await client.put_file("text", written.encode())
    async with client.command.stream(
        command="cat text; cat text >&2", max_output_bytes=0, when_slow=WhenSlow.WAIT
    ) as events:
        got = {Stdout: "", Stderr: ""}
        async for event in events:
            if isinstance(event, Stdout | Stderr):
                got[type(event)] += event.data
    assert got == {Stdout: written, Stderr: written}


async def test_an_archive_of_any_size_goes_through_in_pieces(client: Client) -> None:
    block = os.urandom(MIB)
    archive = tar({"big.bin": block * 20}, "w")

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(archive), 100_000):
            yield archive[at : at + 100_000]

    answer = await client.put_archive(chunks(), digest="sha256:" + hashlib.sha256(archive).hexdigest())
    assert (answer.files, answer.content_bytes) == (1, 20 * MIB)
    back = b"".join([chunk async for chunk in client.get_archive(ArchiveFormat.TAR)])
    with tarfile.open(fileobj=io.BytesIO(back)) as found:
        member = found.extractfile(next(m for m in found if m.name.endswith("big.bin")))
        assert member is not None
        assert member.read() == block * 20


async def test_merging_keeps_what_is_there(client: Client) -> None:
    await client.put_archive(tar({"new.txt": b"x"}), InjectMode.MERGE)
    assert {"index.html", "new.txt"} <= await content_of(client)


@pytest.mark.parametrize(
    ("archive", "error"),
    [
        (b"", ArchiveInvalid),
        (b"no archive at all", ArchiveInvalid),
        (tar(SITE)[:80], ArchiveInvalid),
        (tar({"../out": b""}), ArchiveUnsafe),
        (b"x" * (64 * MIB), ArchiveInvalid),
        (tar({"../out": b"", "big": bytes(64 * MIB)}, "w"), ArchiveUnsafe),
    ],
    ids=["empty", "text", "cut", "climbing", "64 MiB of text", "climbing, then 64 MiB"],
)
async def test_a_bad_archive_is_refused_by_name_and_changes_nothing(
    client: Client, archive: bytes, error: type[ToolError]
) -> None:
    with pytest.raises(error):
        await client.put_archive(archive)
    assert await content_of(client) == {"index.html", "src", "src/a.txt"}


async def test_a_wrong_digest_is_refused(client: Client) -> None:
    with pytest.raises((Conflict, ArchiveInvalid)):
        await client.put_archive(tar({"x": b""}), digest="sha256:" + "0" * 64)
    assert "x" not in await content_of(client)


async def test_a_source_that_breaks_off_changes_nothing(client: Client) -> None:
    archive = tar({"x": bytes(5 * MIB)}, "w")

    async def breaks() -> AsyncIterator[bytes]:
        yield archive[:MIB]
        raise OSError("the disk is gone")

    with pytest.raises((OSError, Unavailable)):
        await client.put_archive(breaks())
    assert await content_of(client) == {"index.html", "src", "src/a.txt"}


async def test_rules_reach_the_raw_door(client: Client) -> None:
    await client.write(path="a.log", content="x")
    chunks = client.get_archive(ArchiveFormat.TAR, exclude=["src"], include=["*.log"])
    back = b"".join([chunk async for chunk in chunks])
    with tarfile.open(fileobj=io.BytesIO(back)) as found:
        names = {name.removeprefix("./") for name in found.getnames()} - {"", "."}
    assert names == {"index.html", "a.log"}


async def test_a_tool_server_that_goes_away_is_unavailable(tmp_path: Path, tools: Path) -> None:
    async with sandbox(tmp_path, tools) as (backend, guest):
        async with open_client(backend.endpoint(guest, guest.tool_port).url, TOKEN) as client:
            waiting = asyncio.create_task(client.command(command="sleep 300"))
            while not (await client.processes()).processes:
                await asyncio.sleep(0.01)
            await backend.destroy(guest.id)
            with pytest.raises((Unavailable, ToolError)):
                await waiting
            with pytest.raises(Unavailable):
                await client.put_archive(tar(SITE))


# -- the whole table --------------------------------------------------------------------------------------

PARAMS: dict[str, str] = {
    "read": '{"path": "index.html"}',
    "read_many": '{"files": [{"path": "index.html"}]}',
    "write": '{"path": "new.txt", "content": "x"}',
    "list": "",
    "stat": '{"path": "index.html"}',
    "mkdir": '{"path": "directory"}',
    "copy": '{"path": "index.html", "to": "copy.html", "overwrite": true}',
    "move": '{"path": "copy.html", "to": "moved.html", "overwrite": true}',
    "chmod": '{"path": "moved.html", "mode": 384}',
    "remove": '{"path": "moved.html"}',
    "checkpoint": '{"name": "mine"}',
    "checkpoints": "",
    "checkpoint_diff": '{"from": "mine"}',
    "rollback": '{"to": "mine"}',
    "undo": "",
    "redo": "",
    "activity": "",
    "audit": '{"limit": 5}',
    "separation": "",
    "watch": '{"timeoutMs": 1}',
    "search": '{"pattern": "h1"}',
    "replace": '{"pattern": "nowhere", "replacement": "x"}',
    "edit": '{"path": "index.html", "oldText": "h1", "newText": "h2", "replaceAll": true}',
    "command": '{"command": "true"}',
    "attach": '{"processId": "gone"}',
    "output": '{"processId": "gone"}',
    "send_input": '{"processId": "gone", "data": "x"}',
    "stop": '{"processId": "gone"}',
    "signal": '{"processId": "gone", "signal": "TERM"}',
    "wait": '{"processId": "gone"}',
    "processes": "",
    "ports": '{"follow": false}',
    "shell": '{"command": "true"}',
    "shell_output": '{"number": 1}',
    "shell_restart": "",
    "shells": "",
    "shell_stop": "",
    "terminal_open": '{"name": "mine", "argv": ["true"]}',
    "terminal_attach": '{"terminal": "gone"}',
    "resize": '{"processId": "gone", "cols": 80, "rows": 24}',
    "terminals": "",
    "inject": json.dumps({"archive": base64.b64encode(tar(SITE)).decode()}),
    "save": "",
    "install": "",
    "dev_start": "",
    "dev_stop": "",
    "dev_status": "",
    "dev_logs": "",
    "dev_feedback": "",
    "start": "",
    "revoke": '{"tokenId": "gone"}',
    "bind_session": '{"sessionId": "another"}',
}
REFUSED: dict[str, type[ToolError]] = {
    **dict.fromkeys("attach output send_input stop signal wait terminal_attach resize".split(), NotFound),
    "bind_session": Conflict,
}
"""Operations on a process that is not there, and on a session that is another one."""


def test_the_walk_knows_every_operation() -> None:
    assert PARAMS.keys() == OPERATIONS.keys()


async def test_every_operation_answers_the_client_with_its_own_type(fresh: Client) -> None:
    for name, params in PARAMS.items():
        request = request_of(name, params.encode())
        if name in REFUSED:
            with pytest.raises(REFUSED[name]):
                await fresh.call(request)
        else:
            assert type(await fresh.call(request)) is OPERATIONS[name].answer, name


async def test_every_operation_answers_the_client_as_a_stream(fresh: Client) -> None:
    for name, params in PARAMS.items():
        async with fresh.stream(request_of(name, params.encode())) as stream:
            events = [event async for event in stream]
            if name in REFUSED:
                with pytest.raises(REFUSED[name]):
                    await stream.result()
            else:
                assert type(await stream.result()) is OPERATIONS[name].answer, name
        assert OPERATIONS[name].streams or events == []


@pytest.mark.parametrize("name", PARAMS)
def test_every_operation_answers_the_command_line(host: Host, name: str) -> None:
    done = host.inside("call", name, PARAMS[name], "--json")
    shown = json.loads(done.stdout)
    if name in REFUSED:
        assert (done.returncode, shown["error"]["code"]) == (1, REFUSED[name].code)
    else:
        assert (done.returncode, done.stderr) == (0, b"")
        wanted = {field.encode_name for field in msgspec.structs.fields(OPERATIONS[name].answer)}
        assert shown.keys() <= wanted
        assert shown


async def test_an_unknown_field_is_refused_by_the_tool_server_too(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        await client.read(path="")


async def test_a_file_of_any_bytes_goes_there_and_back(client: Client) -> None:
    data = bytes(range(256)) * 5000

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    written = await client.put_file("a b/c#1?.bin", chunks(), 0o640)
    assert (written.size, written.created) == (len(data), True)
    assert b"".join([chunk async for chunk in client.get_file("a b/c#1?.bin")]) == data
    assert (await client.stat(path="a b/c#1?.bin")).mode == 0o640


async def test_a_file_is_not_written_over_somebody_elses(client: Client) -> None:
    first = await client.put_file("a", b"1", only_new=True)
    with pytest.raises(Conflict, match="exists already"):
        await client.put_file("a", b"2", only_new=True)
    await client.put_file("a", b"2", if_match=first.hash)
    with pytest.raises(Conflict, match="has changed since it was read"):
        await client.put_file("a", b"3", if_match=first.hash)
    with pytest.raises(NotFound):
        [chunk async for chunk in client.get_file("nowhere")]
