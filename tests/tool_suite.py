"""The tools on every backend: a walk through the table of operations, by the project's own client.

``BackendSuite`` says what a sandbox is; this says that what is offered in one is the same wherever it runs.
Each walk goes through the operations it names, and together they are the whole table. How an operation is at
its edges is tested beside it, in ``tests/toolserver``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.client import Client, open_client, request_of
from protocol.errors import (
    AlreadyExists,
    AmbiguousMatch,
    Conflict,
    Forbidden,
    NotFound,
    ToolError,
    Unauthorized,
)
from protocol.messages.archives import InjectMode
from protocol.messages.commands import Stdout
from protocol.messages.devserver import DevState
from protocol.messages.edits import EditAnswer
from protocol.messages.files import Read
from protocol.messages.processes import PortOpened
from protocol.messages.search import Where
from protocol.messages.terminals import TerminalScreen
from protocol.messages.watch import Changes, Watching
from protocol.operations import OPERATIONS
from tests.backend_suite import BackendSuite, Sandbox
from tests.signing import Signer

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Walk:
    """Some operations, and the way through them."""

    operations: frozenset[str]
    go: Callable[[Client, Sandbox], Awaitable[None]]


WALKS: dict[str, Walk] = {}


def walks(*operations: str) -> Callable[[Callable[[Client, Sandbox], Awaitable[None]]], Walk]:
    """Name the operations that a function goes through."""

    def named(go: Callable[[Client, Sandbox], Awaitable[None]]) -> Walk:
        return WALKS.setdefault(go.__name__, Walk(frozenset(operations), go))

    return named


class ToolSuite(BackendSuite):
    """A backend's facts, and the walks in one of its sandboxes each."""

    def test_the_walks_are_the_whole_table(self) -> None:
        walked = frozenset[str]().union(*(walk.operations for walk in WALKS.values()))
        assert walked == OPERATIONS.keys(), "a new operation has its place in a walk of tests/tool_suite.py"

    @pytest.mark.parametrize("name", WALKS)
    async def test_the_tools_are_the_same_here(self, name: str, box: Sandbox) -> None:
        async with box.client() as client, asyncio.timeout(PATIENCE_SECONDS):
            asked = recorded(client)
            await WALKS[name].go(client, box)
        assert asked == WALKS[name].operations


def recorded(client: Client) -> set[str]:
    """The names of what is asked from now on."""
    asked: set[str] = set()
    send = client.connection.send

    async def sent(operation: str, params: Any, *, wants_events: bool) -> Any:
        asked.add(operation)
        return await send(operation, params, wants_events=wants_events)

    client.connection.send = sent  # type: ignore[method-assign]
    return asked


@walks("write", "read", "read_many", "list", "stat")
async def files(client: Client, box: Sandbox) -> None:
    written = await client.write(path="src/ä b.txt", content="one\ntwo\nthree\n")
    with pytest.raises(Conflict):
        await client.write(path="src/ä b.txt", content="", expected_hash="sha256:" + "0" * 64)
    part = await client.read(path="/app/src/ä b.txt", start_line=2, end_line=2)
    assert (part.path, part.content, part.hash) == ("src/ä b.txt", "two\n", written.hash)
    both = await client.read_many(files=[Read(path="src/ä b.txt"), Read(path="nowhere")])
    assert [bool(each.file) for each in both.files] == [True, False]
    assert (await client.stat(path="src/ä b.txt")).size == written.size
    assert {entry.path for entry in (await client.list(depth=2)).entries} == {"src", "src/ä b.txt"}
    # The same by the door for raw bytes, of more than one piece.
    data = bytes(range(256)) * 2000
    raw = await client.put_file("raw #1.bin", data, 0o640)
    assert b"".join([chunk async for chunk in client.get_file("raw #1.bin")]) == data
    assert raw.hash.endswith(hashlib.sha256(data).hexdigest())
    status, page = await box.get("/v1/files/src/%C3%A4%20b.txt", token=box.token)
    assert (status, page) == (200, "one\ntwo\nthree\n")


@walks("mkdir", "write", "copy", "move", "chmod", "remove", "stat")
async def places(client: Client, box: Sandbox) -> None:
    await client.mkdir(path="a/b", mode=0o750)
    await client.write(path="a/b/run", content="#!/bin/sh\necho ran\n")
    assert (await client.chmod(path="a/b/run", mode=0o755)).previous & 0o111 == 0
    assert (await client.copy(path="a", to="c")).entries == 3
    with pytest.raises(AlreadyExists):
        await client.move(path="a", to="c")
    await client.move(path="c/b/run", to="run")
    assert await box.shell("./run && ls -A c/b") == "ran"
    with pytest.raises(ToolError):
        await client.remove(path="a")
    assert (await client.remove(path="a", recursive=True)).removed
    with pytest.raises(NotFound):
        await client.stat(path="a")


@walks("write", "search", "edit", "replace", "read", "watch")
async def searches_edits_and_what_changed(client: Client, box: Sandbox) -> None:
    for name in ("one.txt", "two.txt"):
        await client.write(path=name, content="alpha\nbeta\nalpha\n")
    async with client.search.stream(pattern="^alpha", glob="*.txt") as stream:
        found = [(each.path, each.line) async for event in stream for each in event.matches]
    assert sorted(found) == [("one.txt", 1), ("one.txt", 3), ("two.txt", 1), ("two.txt", 3)]
    named = await client.search(pattern="two", in_=Where.NAMES)
    assert [match.path for match in named.matches] == ["two.txt"]
    async with client.watch.stream() as changes:
        assert isinstance(await anext(changes), Watching)
        good = {"path": "one.txt", "oldText": "beta", "newText": "gamma"}
        with pytest.raises(AmbiguousMatch):
            await edit(client, good, {"path": "two.txt", "oldText": "alpha", "newText": "x"})
        assert "gamma" not in (await client.read(path="one.txt")).content
        edited = await edit(client, good, {"path": "two.txt", "oldText": "beta", "newText": "x"})
        assert "+gamma" in edited.diff
        assert await paths_told(changes, {"one.txt", "two.txt"})
    replaced = await client.replace(pattern="^alpha$", replacement="omega")
    assert (replaced.replacements, replaced.file_count) == (4, 2)
    assert (await client.read(path="one.txt")).content == "omega\ngamma\nomega\n"


async def edit(client: Client, *edits: dict[str, str]) -> EditAnswer:
    """All of them or none, as the wire has it."""
    answer = await client.call(request_of("edit", json.dumps({"edits": edits}).encode()))
    assert isinstance(answer, EditAnswer)
    return answer


async def paths_told(changes: AsyncIterator[Any], wanted: set[str]) -> bool:
    """Wait until all of ``wanted`` was told as changed."""
    async for event in changes:
        if isinstance(event, Changes):
            wanted = wanted - {change.path for change in event.changes}
        if not wanted:
            return True
    return False


@walks("write", "checkpoint", "checkpoints", "checkpoint_diff", "rollback", "undo", "redo", "read")
async def checkpoints(client: Client, box: Sandbox) -> None:
    await client.write(path="a.txt", content="one\n")
    kept = await client.checkpoint(name="first")
    await client.write(path="a.txt", content="two\n")
    await client.write(path="b.txt", content="new\n")
    told = await client.checkpoint_diff(from_="first")
    assert {change.path for change in told.changes} == {"a.txt", "b.txt"}
    assert kept.id in {each.id for each in (await client.checkpoints()).checkpoints}
    await client.rollback(to="first")
    assert (await client.read(path="a.txt")).content == "one\n"
    with pytest.raises(NotFound):
        await client.read(path="b.txt")
    await client.undo()
    assert (await client.read(path="a.txt")).content == "two\n"
    await client.redo()
    assert (await client.read(path="a.txt")).content == "one\n"


@walks("command", "attach", "output", "send_input", "wait", "signal", "stop", "processes", "ports")
async def commands(client: Client, box: Sandbox) -> None:
    told = await client.command(command="echo out; echo err >&2; exit 3")
    assert (told.stdout, told.stderr, told.exit_code) == ("out\n", "err\n", 3)
    late = await client.command(command="echo early; sleep 600", timeout_ms=500)
    if not late.stdout:  # then the time was over before it had begun
        late = await client.command(command="echo early; sleep 600", timeout_ms=20_000)
    assert (late.timed_out, late.stdout) == (True, "early\n")
    cat = await client.command(argv=["cat"], stdin_open=True, background=True)
    await client.send_input(process_id=cat.process_id, data="typed\n")
    async with client.attach.stream(process_id=cat.process_id) as stream:
        said = [event async for event in until(stream, Stdout)]
        assert said[-1].data == "typed\n"
        await client.send_input(process_id=cat.process_id, eof=True)
        assert (await stream.result()).exit_code == 0
    assert (await client.output(process_id=cat.process_id)).data == "typed\n"
    slept = await client.command(argv=["sleep", "600"], background=True)
    assert (await client.wait(process_id=slept.process_id, timeout_ms=1)).running
    await client.signal(process_id=slept.process_id, signal="TERM")
    assert (await client.wait(process_id=slept.process_id)).signal == "SIGTERM"
    await a_server(client)


async def a_server(client: Client) -> None:
    """It opens a port, has a child, and is ended with all of it."""
    line = "sleep 600 & exec python3 -u -m http.server 0 --bind 127.0.0.1"
    async with client.ports.stream() as ports:
        started = await client.command(command=line, background=True)
        async for event in ports:
            if isinstance(event, PortOpened) and event.process_id == started.process_id:
                break
    known = {each.process_id: each for each in (await client.processes()).processes}
    assert len(known[started.process_id].members) >= 2
    stopped = await client.stop(process_id=started.process_id)
    assert (len(stopped.killed) >= 2, stopped.survivors) == (True, [])


async def until(stream: AsyncIterator[Any], kind: type) -> AsyncIterator[Any]:
    """Events, up to the first one of ``kind``."""
    async for event in stream:
        yield event
        if isinstance(event, kind):
            return


@walks("shell", "shell_output", "shell_restart", "shell_stop", "shells")
async def kept_shells(client: Client, box: Sandbox) -> None:
    await client.shell(command="mkdir -p deep && cd deep && export KEPT=yes")
    told = await client.shell(command="echo $KEPT; pwd; false")
    assert (told.stdout.startswith("yes\n"), told.exit_code) == (True, 1)
    assert told.cwd.endswith("/deep")
    again = await client.shell_output(number=told.number)
    assert (again.stdout, again.running) == (told.stdout, False)
    (kept,) = (await client.shells()).shells
    assert (kept.name, kept.cwd) == ("main", told.cwd)
    await client.shell_restart()
    assert (await client.shell(command="echo ${KEPT:-no}")).stdout == "no\n"
    assert (await client.shell_stop()).survivors == []
    assert (await client.shells()).shells == []


@walks("terminal_open", "terminal_attach", "resize", "terminals", "send_input", "stop")
async def terminals(client: Client, box: Sandbox) -> None:
    opened = await client.terminal_open(
        name="mine", argv=["sh", "-c", "stty size; read line; echo got $line"]
    )
    assert not (await client.terminal_open(name="mine")).created
    await client.resize(process_id=opened.process_id, cols=100, rows=30)
    assert [each.cols for each in (await client.terminals()).terminals] == [100]
    async with client.terminal_attach.stream(terminal="mine") as view:
        screen = await anext(view)
        assert isinstance(screen, TerminalScreen)
        await client.send_input(process_id=opened.process_id, data="here\r")
        shown = "".join([event.data async for event in view if hasattr(event, "data")])
        assert "got here" in shown
        assert (await view.result()).exit_code == 0
    with contextlib.suppress(NotFound):
        assert (await client.stop(process_id=opened.process_id)).survivors == []


@walks("inject", "save", "command", "read")
async def archives(client: Client, box: Sandbox) -> None:
    with pytest.raises(ToolError):
        await client.inject(archive=packed({"../out": b"x"}))
    assert (await client.inject(archive=packed({"a/b.txt": b"b\n"}))).files == 1
    await client.command(command="ln -s b.txt a/link && chmod 700 a/b.txt && mkdir -m 755 empty")
    saved = await client.save()
    streamed = b"".join([chunk async for chunk in client.get_archive()])
    for archive in (saved.archive, streamed):
        await client.inject(archive=packed({"other.txt": b""}))
        await client.inject(archive=archive)
        told = await client.command(command="stat -c '%A %N' a/b.txt a/link empty")
        assert told.stdout == "-rwx------ 'a/b.txt'\nlrwxrwxrwx 'a/link' -> 'b.txt'\ndrwxr-xr-x 'empty'\n"
    assert (await client.read(path="a/link")).content == "b\n"
    await client.command(command="rm a/link && echo c > a/c.txt && chmod 700 empty")
    delta = await client.save(since=saved.digest)
    assert (delta.files, delta.removed) == (1, 1)
    await client.inject(archive=saved.archive)
    await client.inject(archive=delta.archive, mode=InjectMode.DELTA)
    told = await client.command(command="ls a; stat -c %a empty")
    assert told.stdout == "b.txt\nc.txt\n700\n"
    head, entries = await client.get_manifest(delta.digest)
    assert (head.tree, {entry.path for entry in entries}) == (
        delta.tree,
        {"a", "a/b.txt", "a/c.txt", "empty"},
    )


@walks("bind_session", "revoke", "list")
async def session_tokens(client: Client, box: Sandbox) -> None:
    signer, session = Signer(box.guest.session_id), box.guest.session_id
    with pytest.raises(Conflict):
        await client.bind_session(session_id="another")
    bound = await client.bind_session(session_id=session, public_keys=[signer.public])
    assert bound.key_ids == [signer.id]
    endpoint = box.driver.endpoint(box.guest, box.guest.tool_port)
    async with open_client(endpoint.url, signer.token("read", jti="first"), endpoint.headers) as reader:
        assert (await reader.list()).entries == []
        with pytest.raises(Forbidden, match="needs the scope 'command'"):
            await reader.command(command="true")
        await reader.renew(signer.token("command", jti="second"))
        assert (await reader.command(command="true")).exit_code == 0
        assert (await client.revoke(token_id="second")).closed == 1
        await reader.wait_closed()
    with pytest.raises(Unauthorized):
        async with open_client(endpoint.url, signer.token("read", sid="another"), endpoint.headers):
            pass
    await client.list()


def packed(files: dict[str, bytes]) -> bytes:
    """A tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@walks(
    "start",
    "install",
    "write",
    "dev_start",
    "dev_stop",
    "dev_status",
    "dev_logs",
    "dev_feedback",
    "activity",
    "audit",
    "separation",
)
async def the_dev_server(client: Client, box: Sandbox) -> None:
    started = await client.start(archive=packed({"index.html": b"<title>One</title>"}))
    assert (started.dev.state, started.files) == (DevState.READY, 1)
    assert "One" in (await box.get("/", port=box.guest.dev_port))[1]
    await client.write(path="index.html", content="<title>Two</title>")
    assert "Two" in (await box.get("/", port=box.guest.dev_port))[1]
    assert (await client.dev_stop()).state is DevState.DOWN
    await client.install()
    async with client.dev_start.stream() as stream:
        assert (await stream.result()).state is DevState.READY
    assert (await client.dev_status()).port == box.guest.dev_port
    assert (await client.dev_logs()).next_offset >= 0
    assert (await client.dev_feedback(paths=["index.html"])).errors == []
    assert (await client.activity()).sockets >= 1
    assert "dev_stop" in {each.operation for each in (await client.audit()).lines}
    assert "memory" in {each.name for each in (await client.separation()).properties if each.holds}
