"""The real daemon as a subprocess, and plain ways to speak to it.

Requests and frames are written by hand here, so that these tests share no code with the project's own client.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.paths import RESERVED

TOKEN = "token-of-the-tests"
MARKER = "TESTS_OF_WORKSPACE_CORE"
"""Set for a daemon and inherited by all that it starts, so that what it leaves behind is found."""

PATIENCE_SECONDS = 60.0
"""Before a wait counts as a hang; nothing is measured by it."""
STOP_SECONDS = 10.0
"""What a container engine gives before it kills: the one promise in seconds."""

Json = dict[str, Any]
T = TypeVar("T")


def exactly(message: str) -> str:
    """A pattern for ``pytest.raises(match=...)`` that takes this sentence and no other."""
    return f"^{re.escape(message)}$"


async def some_turns() -> None:
    """Of the loop: what need not wait for anything gets as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for ``condition`` to hold."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


CLOCKS_MS = (200, 1000, 5000, 20_000)
"""For a command that is to run out of time: a short clock may be over before it has begun."""


async def out_of_time(ask: Callable[[int], Awaitable[T]], begun: Callable[[T], object]) -> T:
    """What ``ask`` answers on the first of the clocks that let it begin."""
    for milliseconds in CLOCKS_MS[:-1]:
        answer = await ask(milliseconds)
        if begun(answer):
            return answer
    return await ask(CLOCKS_MS[-1])


def is_alive(pid: int) -> bool:
    """Whether a process of that id runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def marked(marker: str) -> set[int]:
    """Pids of all processes that inherited ``marker``."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"{MARKER}={marker}".encode() in environ:
                found.add(int(entry.name))
    return found


@dataclass
class Daemon:
    """A daemon that listens. Made by ``running``."""

    url: str
    root: Path
    state: Path
    token: str | None
    marker: str
    process: subprocess.Popen[bytes]
    errors: Path
    """Its standard error: a file, for a pipe that nobody reads would hold it up."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> list[Json]:
        """The lines of its log so far, but for one that is being written."""
        return [json.loads(line) for line in self.errors.read_text().splitlines(True) if line.endswith("\n")]

    def children(self) -> set[int]:
        """Live pids of everything it started."""
        return {pid for pid in marked(self.marker) - {self.pid} if is_alive(pid)}

    def descriptors(self) -> list[str]:
        """What its open descriptors point to, sorted."""
        links = []
        if os.geteuid():
            pytest.skip("the daemon shows its descriptors to root only")
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(OSError):
                links.append(str(entry.readlink()))
        return sorted(links)

    def memory(self, line: str = "VmHWM") -> int:
        """Bytes of resident memory: the peak, or ``VmRSS`` for now."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{line}:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) * 1024

    def stop(self) -> int:
        """SIGTERM, by its pid; the exit code, within the promise, with nothing left running."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"not stopped within {STOP_SECONDS} s:\n{self.errors.read_text()}") from None
        left = {pid for pid in marked(self.marker) if is_alive(pid)}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"
        return code


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """What a daemon under test is started with: nothing of this machine's but PATH, and where we work."""
    home = directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        **({"TMPDIR": os.environ["TMPDIR"]} if "TMPDIR" in os.environ else {}),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "WORKSPACE_ROOT": str(directory / "root"),
        "TOOL_SERVER_STATE_DIR": str(directory / "state"),
        "TOOL_SERVER_PORT": "0",
        **variables,
    }


@contextmanager
def running(
    directory: Path,
    *flags: str,
    module: str = "toolserver",
    token: str | None = TOKEN,
    python: str = sys.executable,
    **variables: str,
) -> Iterator[Daemon]:
    """A daemon in ``directory``, stopped and checked at the end."""
    marker = secrets.token_hex(8)
    env = environment(directory, **{MARKER: marker}, **variables)
    if token is not None:
        env["TOOL_SERVER_TOKEN"] = token
    errors = directory / f"stderr-{marker}"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [python, "-m", module, *flags], env=env, stdout=subprocess.PIPE, stderr=stderr
        )
    try:
        url = _listening(process, errors)
        root, state = Path(env["WORKSPACE_ROOT"]), Path(env["TOOL_SERVER_STATE_DIR"])
        daemon = Daemon(url, root, state, token, marker, process, errors)
        yield daemon
        code = daemon.stop()
        assert code == 0, f"exit code {code}:\n{errors.read_text()[-2000:]}"
        refuse_faults(daemon.log())
    finally:
        end(process)
        assert process.stdout is not None
        process.stdout.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """After a failed test: by TERM, so that it ends what it has started; by KILL if it does not."""
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def refuse_faults(log: list[Json]) -> None:
    """No test makes a daemon fail for a reason of its own, or complain about something forgotten."""
    faults = [line for line in log if line["level"] == "error" or "traceback" in line]
    assert not faults, json.dumps(faults, indent=1)


def _listening(process: subprocess.Popen[bytes], errors: Path) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_SECONDS)
    line = process.stdout.readline().decode() if ready else ""
    found = re.fullmatch(r"listening on (http://\S+)\n", line)
    assert found is not None, f"no line {line!r}; stderr:\n{errors.read_text()}"
    return found[1]


def run_to_end(directory: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to refuse its start."""
    return subprocess.run(
        [sys.executable, "-m", "toolserver", *flags],
        env=environment(directory, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def emptied(directory: Path) -> Path:
    """``directory`` with nothing in it but what the tool server tries there, which goes by itself."""
    for each in directory.iterdir():
        if each.name == RESERVED:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()
    return directory


def tree_of(directory: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory: a file's content, a link's target, None for a directory."""
    found: dict[str, bytes | str | None] = {}
    for each in sorted(directory.rglob("*")):
        name = str(each.relative_to(directory))
        if each.is_symlink():
            found[name] = str(each.readlink())
        else:
            found[name] = each.read_bytes() if each.is_file() else None
    return found


@dataclass
class Refusal:
    """An error as it came over HTTP."""

    status: int
    code: str
    message: str
    details: Json = field(default_factory=dict)
    request_id: str = ""

    @classmethod
    def of(cls, status: int, body: Json) -> Refusal:
        error = body["error"]
        return cls(status, error["code"], error["message"], error["details"], error["requestId"])


class Http:
    """The HTTP door."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    def _post(self, operation: str, params: Json, **headers: str) -> Any:
        # As a file: aiohttp warns of a megabyte of bytes.
        body = io.BytesIO(json.dumps(params).encode())
        return self.session.post(
            f"/v1/{operation}", data=body, headers={"Content-Type": "application/json", **headers}
        )

    async def ok(self, operation: str, /, **params: Any) -> Json:
        """The answer of an operation that is expected to go well."""
        async with self._post(operation, params) as response:
            body: Json = await response.json()
            assert response.status == 200, body
            return body

    async def refused(self, operation: str, /, **params: Any) -> Refusal:
        """The error of an operation that is expected to be refused."""
        async with self._post(operation, params) as response:
            body: Json = await response.json()
            assert response.status >= 400, body
            return Refusal.of(response.status, body)

    async def refused_body(self, operation: str, body: bytes) -> Refusal:
        """The error of a body written by hand."""
        async with self.session.post(f"/v1/{operation}", data=body) as response:
            return Refusal.of(response.status, await response.json())

    async def stream(
        self, operation: str, /, accept: str = "application/x-ndjson", **params: Any
    ) -> list[Json]:
        """The frames of a streamed answer."""
        async with self._post(operation, params, Accept=accept) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == accept
            text = await response.text()
        if accept == "application/x-ndjson":
            return [json.loads(line) for line in text.splitlines() if line]
        return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part.strip(":")]


@asynccontextmanager
async def http_of(daemon: Daemon, **headers: str) -> AsyncIterator[Http]:
    """A session with the daemon's token."""
    if daemon.token is not None:
        headers.setdefault("Authorization", f"Bearer {daemon.token}")
    async with aiohttp.ClientSession(
        daemon.url, headers=headers, timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS), read_bufsize=2**22
    ) as session:
        yield Http(session)
    # The sockets of requests that were cut short close on the loop's next turn.
    await asyncio.sleep(0)


@asynccontextmanager
async def raw_of(daemon: Daemon, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which ``sent`` was sent as it stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    try:
        writer.write(sent)
        await writer.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield reader
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class Socket:
    """The WebSocket door: frames by hand, replies by id."""

    def __init__(self, connection: ClientConnection, form: str) -> None:
        self.connection = connection
        self.form = form
        self._waiting: dict[str, list[Json]] = {}
        self._next = 0

    def hold_little(self) -> None:
        """Have the kernel hold next to nothing for it: a buffer that was given no size grows to 32 MiB."""
        plug = self.connection.transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)

    async def send(self, id: str, op: str, params: Mapping[str, Any] | None = None, **more: Any) -> None:
        """One frame."""
        frame = {"id": id, "op": op, **({} if params is None else {"params": params}), **more}
        await self.send_raw(json.dumps(frame) if self.form == "json" else msgspec.msgpack.encode(frame))

    async def send_raw(self, data: str | bytes, text: bool | None = None) -> None:
        """Whatever it is."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.connection.send(data, text=text)

    async def receive(self) -> Json:
        """The next frame, of whatever id."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            data = await self.connection.recv()
        assert isinstance(data, str) == (self.form == "json")
        frame: Json = json.loads(data) if isinstance(data, str) else msgspec.msgpack.decode(data)
        return frame

    async def next_of(self, id: str) -> Json:
        """The next frame of ``id``; others are kept for who asks for them."""
        while not self._waiting.get(id):
            frame = await self.receive()
            self._waiting.setdefault(frame.get("id", ""), []).append(frame)
        return self._waiting[id].pop(0)

    async def end_of(self, id: str) -> tuple[list[Json], Json]:
        """The events of ``id`` and its last frame."""
        events = []
        while "event" in (frame := await self.next_of(id)):
            events.append(frame["event"])
        return events, frame

    async def call(self, op: str, /, **params: Any) -> tuple[list[Json], Json]:
        """One request to its end: (events, last frame)."""
        self._next += 1
        id = f"call-{self._next}"
        await self.send(id, op, params)
        return await self.end_of(id)

    async def closed(self) -> tuple[int, str]:
        """Wait for the other side to close: (code, reason)."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""

    async def ok(self, op: str, /, **params: Any) -> Json:
        """The answer of a request that is expected to go well."""
        _, last = await self.call(op, **params)
        assert "result" in last, last
        result: Json = last["result"]
        return result


@asynccontextmanager
async def socket_of(
    daemon: Daemon, form: str = "json", path: str = "/v1/ws", **headers: str
) -> AsyncIterator[Socket]:
    """A WebSocket with the daemon's token."""
    if daemon.token is not None:
        headers.setdefault("Authorization", f"Bearer {daemon.token}")
    async with connect(
        daemon.url.replace("http", "ws", 1) + path,
        subprotocols=[Subprotocol(f"workspace.v1+{form}")],
        additional_headers=headers,
        compression=None,
        max_size=None,
        # A busy machine is slow to take a connection, and to answer pings that no test is about.
        open_timeout=PATIENCE_SECONDS,
        ping_interval=None,
        close_timeout=1,
    ) as connection:
        yield Socket(connection, form)


def pause(seconds: float) -> None:
    """For a loop that waits on a condition outside the event loop."""
    time.sleep(seconds)
