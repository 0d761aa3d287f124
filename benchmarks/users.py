"""Many users at once, each the whole way, and nothing of one in another's.

    python -m benchmarks.users [--users 50] [--backend local] [--isolation auto]

Everybody goes the way of ``WAY``: up from static-html, worked in, looked for what is the neighbour's, stopped
with a save, brought up again (on the kept files, or in a new session of that save), read, removed. All are up
at the same time before anybody goes on. What does not hold raises; the tests go the same way with fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from orchestrator.backends import Backend, Host
from orchestrator.backends.installed import InstalledBackends
from orchestrator.client import Client, open_client
from orchestrator.launch import launch
from orchestrator.paths import PathManager, UserId
from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish, is_free
from orchestrator.records import Records, SessionRecord
from orchestrator.resume import resume
from orchestrator.sessions import PortWishes, Sessions
from orchestrator.templates import Source, find_source, template_roots
from orchestrator.toolchain import ToolchainError, find_toolchain
from orchestrator.workspace.host import Quiet
from protocol.errors import NotFound, Unauthorized

WAY = ("ready", "worked", "apart", "stopped", "again", "removed")
WISHES = PortWishes(tool=Wish(TOOL_PORTS[0], TOOL_PORTS), dev=Wish(DEV_PORTS[0], DEV_PORTS))
PATIENCE_SECONDS = 600.0
"""For one stage of everybody; nothing is measured by it."""
TEMPLATE = "static-html"
PROJECT = Path(__file__).parents[1]
_CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)"


@dataclass
class User:
    """One of them, and what is theirs alone."""

    name: UserId
    secret: str = field(default_factory=lambda: secrets.token_hex(12))
    record: SessionRecord | None = None
    saved: Path | None = None
    taken: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage of ``WAY``, waiting for the others apart."""

    @property
    def session(self) -> SessionRecord:
        """The one that runs."""
        assert self.record is not None
        return self.record

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Around a stage."""
        begun = time.monotonic()
        yield
        self.taken[stage] = time.monotonic() - begun


class Crowd:
    """All of them, on one data directory."""

    def __init__(self, sessions: Sessions, backend: Backend, number: int) -> None:
        self.sessions = sessions
        self.backend = backend
        self.users = [User(UserId(f"user{index}")) for index in range(number)]
        self.source = find_source(TEMPLATE, template_roots(PROJECT), PROJECT)
        self._all_up = asyncio.Barrier(number)
        self._all_looked = asyncio.Barrier(number)

    async def go(self) -> None:
        """All at once, each to the end. Raises the first thing that did not hold."""
        async with asyncio.TaskGroup() as group:
            for index, user in enumerate(self.users):
                neighbour = self.users[(index + 1) % len(self.users)]
                group.create_task(self._whole_way(user, neighbour, resumes=index % 2 == 0))

    async def _whole_way(self, user: User, neighbour: User, *, resumes: bool) -> None:
        with user.timed("ready"):
            user.record = await self._up(user, self.source)
        async with self.sessions.client(user.session) as client:
            with user.timed("worked"):
                await self._work(user, client)
            await self._with_all(self._all_up)
            with user.timed("apart"):
                await self._meet(user, neighbour, client)
            await self._with_all(self._all_looked)
        with user.timed("stopped"):
            await self._stop(user)
        with user.timed("again"):
            await (self._resume(user) if resumes else self._restore(user))
            await self._find_all_again(user)
        with user.timed("removed"):
            await self.sessions.destroy(user.name, user.session.session_id)

    async def _up(self, user: User, source: Source) -> SessionRecord:
        workspace = user.record.workspace_id if user.record else None
        wishes, name = WISHES, self.backend.name
        ready = await launch(self.sessions, user.name, source, wishes, Quiet(), name, workspace=workspace)
        return ready.record

    async def _work(self, user: User, client: Client) -> None:
        """Write, edit, search, run, see the page."""
        await client.write(path="mine.txt", content=f"{user.secret}\n")
        title = (await client.search(pattern="<title>.*</title>", glob="index.html")).matches[0].text.strip()
        new = f"<title>{user.secret}</title>"
        await client.edit(path="index.html", old_text=title, new_text=new)
        found = await client.search(pattern=user.secret)
        assert {match.path for match in found.matches} == {"mine.txt", "index.html"}, found
        told = await client.command(command="cat mine.txt && echo run > made.txt")
        assert (told.exit_code, told.stdout) == (0, f"{user.secret}\n"), told
        # Still there when the neighbour looks.
        await client.command(argv=["sleep", "3600"], env={"SECRET": user.secret}, background=True)
        assert user.secret in await self._page(user)

    async def _meet(self, user: User, neighbour: User, client: Client) -> None:
        """Nothing of the neighbour's is there, by any way; only one's own is told."""
        if user is neighbour:
            return
        theirs = neighbour.session
        seen = await self.sessions.list(user.name, stopped=True)
        assert [each.record.session_id for each in seen] == [user.session.session_id], seen
        for ask in (self.sessions.get, self.sessions.find, self.sessions.destroy):
            await refused(ask(user.name, theirs.session_id), NotFound)
        endpoint = self.sessions.tool_server(theirs)
        await refused(_greet(endpoint.url, user.session.token), Unauthorized)
        known = (await client.processes()).processes
        assert all(neighbour.secret not in " ".join(each.argv) for each in known), known
        assert not (await client.search(pattern=neighbour.secret, hidden=True, ignored=True)).matches
        await self._attack(neighbour, client)

    async def _attack(self, neighbour: User, client: Client) -> None:
        """What the backend promises to keep apart, tried from within."""
        promises, theirs = self.backend.properties, neighbour.session
        if promises.isolates_files:
            place = self.sessions.paths.workspace_dir(neighbour.name, theirs.session_id)
            for name in ("mine.txt", "index.html"):
                told = await client.command(argv=["cat", str(place / name)])
                assert (told.exit_code != 0, told.stdout) == (True, ""), told
        if promises.isolates_processes:
            look = f"cat /proc/[0-9]*/environ 2>/dev/null | grep -c {neighbour.secret}"
            assert (await client.command(command=look)).stdout.strip() == "0"
        if promises.isolates_network:
            for port in (theirs.tool_port, theirs.dev_port):
                told = await client.command(argv=["python3", "-c", _CONNECT, str(port)])
                assert told.exit_code != 0, f"{neighbour.name}'s port {port} was reached"

    async def _stop(self, user: User) -> None:
        ended = await self.sessions.stop(user.session)
        assert ended.saved is not None
        assert not ended.outcome.survivors
        user.saved = ended.saved.file.path

    async def _resume(self, user: User) -> None:
        """The same session, on the files that it left."""
        resumed = await resume(self.sessions, user.name, user.session.session_id, Quiet(), wishes=WISHES)
        assert not resumed.problem, resumed.problem
        user.record = resumed.record

    async def _restore(self, user: User) -> None:
        """The files are gone; a new session of the workspace begins on its save."""
        await self.sessions.destroy(user.name, user.session.session_id)
        assert user.saved is not None
        user.record = await self._up(user, find_source(str(user.saved), [], PROJECT))

    async def _find_all_again(self, user: User) -> None:
        async with self.sessions.client(user.session) as client:
            assert (await client.read(path="mine.txt")).content == f"{user.secret}\n"
            assert (await client.read(path="made.txt")).content == "run\n"
            found = {match.path for match in (await client.search(pattern="[0-9a-f]{24}")).matches}
            assert found == {"mine.txt", "index.html"}, found
        assert user.secret in await self._page(user)

    async def _page(self, user: User) -> str:
        endpoint = self.sessions.dev_server(user.session)
        clock = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=clock, headers=endpoint.headers) as http,
            http.get(f"{endpoint.url}/") as response,
        ):
            return await response.text()

    async def _with_all(self, barrier: asyncio.Barrier) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await barrier.wait()

    async def left_behind(self) -> list[str]:
        """Sandboxes, directories, processes, ports: of whatever there was, nothing may be."""
        guests = [guest.id for guest in await self.backend.guests()]
        workspaces = self.sessions.paths.base_dir / "workspaces"
        directories = [str(path) for path in workspaces.glob("*/*")]
        ports = [port for port in (*TOOL_PORTS, *DEV_PORTS) if port in self._used and not is_free(port)]
        records = [each.name for each in self.users if await self.sessions.list(each.name, stopped=True)]
        return [*guests, *directories, *naming(workspaces), *map(str, ports), *records]

    @property
    def _used(self) -> set[int]:
        return {port for each in self.users for port in (each.session.tool_port, each.session.dev_port)}


async def refused(asked: object, kind: type[Exception]) -> None:
    """It has to be."""
    try:
        await asked  # type: ignore[misc]
    except kind:
        return
    raise AssertionError(f"what is another's was not refused by {kind.__name__}")


async def _greet(url: str, token: str) -> None:
    async with open_client(url, token):
        pass


def naming(directory: Path) -> list[str]:
    """Programs of this host, network helpers too, that have ``directory`` in their words or environment."""
    found, name = [], os.fsencode(directory)
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes()
            if name in words or name in (place / "environ").read_bytes():
                found.append(f"{place.name} {words.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


@contextlib.contextmanager
def fresh_data() -> Iterator[Path]:
    """A data directory that workspaces' own users may pass through; everything in it goes."""
    directory = Path(tempfile.mkdtemp(prefix="users-"))
    directory.chmod(0o711)
    try:
        yield directory / "data"
    finally:
        shutil.rmtree(directory)


def crowd(data: Path, number: int, name: str = "local", **settings: str) -> Crowd:
    """On a backend as it is installed; ``settings`` are on top of the environment."""
    paths = PathManager(data)
    environ = {**os.environ, "WORKSPACE_ALLOW_SEVERAL_USERS": "1", **settings}
    backends = InstalledBackends(Host(paths, environ, _tools(data)))
    sessions = Sessions(paths, Records(paths.db_path("sessions")), backends)
    return Crowd(sessions, backends[name], number)


def _tools(data: Path) -> Path | None:
    with contextlib.suppress(ToolchainError):
        tools = find_toolchain(os.environ).make_bin(data.with_name("tools"))
        tools.chmod(0o755)
        return tools
    return None


def told(users: list[User]) -> Iterator[str]:
    """A line per stage, and one for the whole way: seconds."""
    for stage in (*WAY, "whole way"):
        ordered = sorted(
            sum(each.taken.values()) if stage == "whole way" else each.taken[stage] for each in users
        )
        p95 = ordered[int(len(ordered) * 0.95)]
        middle = statistics.median(ordered)
        yield f"{stage:10} p50 {middle:6.2f} s, p95 {p95:6.2f} s, slowest {ordered[-1]:6.2f} s"


async def main(arguments: argparse.Namespace) -> None:
    """One crowd, and its figures."""
    isolation = {"WORKSPACE_ISOLATION": arguments.isolation}
    with fresh_data() as data:
        many = crowd(data, arguments.users, arguments.backend, **isolation)
        begun = time.monotonic()
        try:
            async with many.sessions:
                await many.go()
            assert not (left := await many.left_behind()), left
        finally:
            for guest in await many.backend.guests():
                await many.backend.destroy(guest.id)
        seconds = time.monotonic() - begun
    print(
        f"{arguments.users} users at once, {arguments.backend}, {seconds:.1f} s for all, nothing left behind"
    )
    print("\n".join(told(many.users)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--backend", default="local")
    parser.add_argument("--isolation", default="auto")
    asyncio.run(main(parser.parse_args()))
