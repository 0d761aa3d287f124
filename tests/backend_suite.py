"""What every backend must do, as tests: a backend's own test file subclasses ``BackendSuite`` and says how it
is opened.

Only the contract is used, the project's client, and plain HTTP: nothing here knows what a sandbox is made of.
A promise of ``Properties`` is held where it is given; where it is not, the test is skipped and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import aiohttp
import msgspec
import pytest

from orchestrator.archive import archive_directory
from orchestrator.backends import Backend, Guest, GuestState, Launch, Revives, guest_id
from orchestrator.client import Client, open_client
from orchestrator.paths import SessionId, UserId
from protocol.errors import AlreadyExists, InvalidRequest, Unauthorized, Unavailable
from protocol.exclusions import Exclusions
from protocol.messages.commands import CommandAnswer
from protocol.messages.processes import ProcessRecord, ProcessState
from tests.ports import free_port

Open = Callable[[Path], Backend]
"""A new backend object on a data directory, as an orchestrator that has just started would have it."""

PATIENCE_SECONDS = 60.0
ATTACKS = (
    "../../etc/x",
    "ann/../bob",
    "ann",
    "",
    "/",
    "ann/",
    "/s1",
    "ann/.s1",
    "ann/a/b",
    "ann/a\0b",
    "ann/a b",
)


def launch(session: str = "", user: str = "ann", **more: str) -> Launch:
    """One to be made, with a token and ports of its own."""
    return Launch(
        user_id=UserId(user),
        session_id=SessionId(session or f"s{secrets.token_hex(6)}"),
        token=secrets.token_urlsafe(24),
        tool_port=0,
        dev_port=free_port(),
        environment=more,
    )


class Sandbox:
    """A guest, and the ways to speak to it."""

    def __init__(self, driver: Backend, guest: Guest, token: str) -> None:
        self.driver = driver
        self.guest = guest
        self.token = token

    def client(self) -> contextlib.AbstractAsyncContextManager[Client]:
        """The project's own client."""
        endpoint = self.driver.endpoint(self.guest, self.guest.tool_port)
        return open_client(endpoint.url, self.token, endpoint.headers)

    async def run(self, *argv: str) -> CommandAnswer:
        """A command to its end."""
        async with self.client() as client:
            return await client.command(argv=list(argv))

    async def shell(self, line: str) -> str:
        """What a line of shell prints; it has to go well."""
        told = await self.run("sh", "-c", line)
        assert told.exit_code == 0, told
        return told.stdout.strip()

    async def get(self, path: str, port: int | None = None, token: str | None = None) -> tuple[int, str]:
        """Status and body."""
        endpoint = self.driver.endpoint(self.guest, port or self.guest.tool_port)
        headers = endpoint.headers | ({"Authorization": f"Bearer {token}"} if token else {})
        clock = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(headers=headers, timeout=clock) as session:
            async with session.get(endpoint.url + path) as response:
                return response.status, await response.text()

    async def answers(self) -> bool:
        """Whether anybody answers on the tool server's endpoint."""
        try:
            return (await self.get("/health"))[0] == 200
        except aiohttp.ClientError:
            return False


class BackendSuite:
    """Subclass it, give ``open`` and ``crash``, and ``leftovers`` where something could be left."""

    @pytest.fixture
    def open(self) -> Open:
        """How this backend is opened."""
        raise NotImplementedError

    @pytest.fixture
    def crash(self) -> Callable[[Guest], Awaitable[None]]:
        """End a guest from outside, as a crash would."""
        raise NotImplementedError

    async def leftovers(self, data: Path) -> list[str]:
        """What there is on the machine of the data directory's sandboxes, beside what ``guests`` tells."""
        return []

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """A fresh data directory."""
        return tmp_path / "data"

    @pytest.fixture
    async def driver(self, open: Open, data: Path) -> AsyncIterator[Backend]:
        """A backend on it; whatever is there at the end is removed."""
        driver = open(data)
        yield driver
        await asyncio.gather(*(driver.destroy(guest.id) for guest in await driver.guests()))
        assert await self.leftovers(data) == []

    @pytest.fixture
    async def box(self, driver: Backend) -> Sandbox:
        """One that runs."""
        wanted = launch()
        return Sandbox(driver, await driver.create(wanted), wanted.token)

    @pytest.fixture
    async def other(self, driver: Backend) -> Sandbox:
        """Another user's."""
        wanted = launch(user="bob")
        return Sandbox(driver, await driver.create(wanted), wanted.token)

    async def test_a_guest_is_what_was_asked_for(self, driver: Backend) -> None:
        wanted = launch()
        guest = await driver.create(wanted)
        assert (guest.id, guest.backend) == (guest_id(wanted.user_id, wanted.session_id), driver.name)
        assert (guest.user_id, guest.session_id) == (wanted.user_id, wanted.session_id)
        assert guest.dev_port == wanted.dev_port
        assert guest.tool_port > 0
        assert guest.state is GuestState.RUNNING
        assert wanted.token not in msgspec.json.encode(guest).decode()

    async def test_its_health_is_open_and_all_else_needs_its_token(
        self, box: Sandbox, other: Sandbox
    ) -> None:
        assert (await box.get("/health"))[0] == 200
        assert (await box.get("/v1/archive"))[0] == 401
        assert (await box.get("/v1/archive", token=other.token))[0] == 401
        with pytest.raises(Unauthorized):
            async with Sandbox(box.driver, box.guest, other.token).client():
                pass

    async def test_its_root_is_empty_and_may_be_filled(self, box: Sandbox, tmp_path: Path) -> None:
        assert await box.shell("ls -A") == ""
        await inject(box, tmp_path / "files", {"a.txt": "Hello\n", "src/b.txt": "b\n"})
        assert (
            await box.shell("cat a.txt src/b.txt && echo more > c.txt && ls") == "Hello\nb\na.txt\nc.txt\nsrc"
        )
        assert (await box.get("/v1/archive", token="x" * 20))[0] == 401

    async def test_its_dev_server_is_reached_by_the_endpoint(self, box: Sandbox, tmp_path: Path) -> None:
        await inject(box, tmp_path / "files", {"index.html": "<title>Here I am</title>"})
        async with box.client() as client:
            await client.dev_start()
        status, page = await box.get("/", port=box.guest.dev_port)
        assert (status, "Here I am" in page) == (200, True)

    async def test_what_the_launch_sets_reaches_commands_and_the_daemons_own_does_not(
        self, driver: Backend
    ) -> None:
        wanted = launch(GREETING="hello there")
        box = Sandbox(driver, await driver.create(wanted), wanted.token)
        seen = await box.shell("env")
        assert "GREETING=hello there" in seen
        assert "TOOL_SERVER_" not in seen
        assert wanted.token not in seen

    async def test_two_at_once_have_nothing_in_common(self, box: Sandbox, other: Sandbox) -> None:
        await asyncio.gather(box.shell("echo ann > whose"), other.shell("echo bob > whose"))
        assert (await box.shell("cat whose"), await other.shell("cat whose")) == ("ann", "bob")
        assert {guest.id for guest in await box.driver.guests()} == {box.guest.id, other.guest.id}
        await box.driver.destroy(box.guest.id)
        assert await other.shell("cat whose") == "bob"

    async def test_several_start_and_end_at_once(self, driver: Backend) -> None:
        guests = await asyncio.gather(*(driver.create(launch()) for _ in range(4)))
        assert len({driver.endpoint(guest, guest.tool_port).url for guest in guests}) == 4
        assert {guest.id for guest in await driver.guests()} == {guest.id for guest in guests}
        ended = await asyncio.gather(*(driver.destroy(guest.id) for guest in guests))
        assert all(each.found and not each.survivors for each in ended)
        assert await driver.guests() == []

    async def test_a_new_orchestrator_finds_it_speaks_to_it_and_ends_it(
        self, box: Sandbox, open: Open, data: Path
    ) -> None:
        later = open(data)
        assert await later.guests() == [box.guest]
        # As the registry keeps it: plain data, read by another process.
        kept = msgspec.json.decode(msgspec.json.encode(box.guest), type=Guest)
        assert await Sandbox(later, kept, box.token).shell("echo still here") == "still here"
        assert (await later.destroy(kept.id)).found
        assert await box.driver.guests() == []

    async def test_another_data_directory_sees_none_of_it_and_ends_none_of_it(
        self, box: Sandbox, open: Open, data: Path
    ) -> None:
        stranger = open(data / "elsewhere")
        assert await stranger.guests() == []
        assert not (await stranger.destroy(box.guest.id)).found
        assert await box.answers()

    async def test_the_same_session_of_two_data_directories_is_two(
        self, box: Sandbox, open: Open, data: Path
    ) -> None:
        stranger = open(data / "elsewhere")
        guest = await stranger.create(launch(box.guest.session_id))
        try:
            assert guest.id == box.guest.id
            assert stranger.endpoint(guest, guest.tool_port) != box.driver.endpoint(
                box.guest, box.guest.tool_port
            )
        finally:
            await stranger.destroy(guest.id)
        assert await box.answers()

    async def test_ending_it_leaves_nothing_and_twice_is_no_error(self, box: Sandbox, data: Path) -> None:
        async with box.client() as client:
            await client.command(command="trap '' TERM; sleep 1000", background=True)
            await client.command(command="setsid sleep 1000 &", background=True)
        ended = await box.driver.destroy(box.guest.id)
        assert (ended.found, ended.survivors, ended.kept) == (True, (), None)
        assert await box.driver.guests() == []
        assert await self.leftovers(data) == []
        assert not await box.answers()
        assert not (await box.driver.destroy(box.guest.id)).found

    async def test_two_may_end_it_at_once(self, box: Sandbox, open: Open, data: Path) -> None:
        await asyncio.gather(box.driver.destroy(box.guest.id), open(data).destroy(box.guest.id))
        assert await box.driver.guests() == []

    async def test_ending_what_never_was_is_no_error(self, driver: Backend, box: Sandbox) -> None:
        assert not (await driver.destroy("ann/never-was")).found
        assert not (await driver.destroy(f"bob/{box.guest.session_id}")).found
        assert await box.answers()

    @pytest.mark.parametrize("id", ATTACKS)
    async def test_an_id_that_is_none_is_refused(self, driver: Backend, id: str) -> None:
        with pytest.raises(InvalidRequest, match="is refused"):
            await driver.destroy(id)

    @pytest.mark.parametrize("session", ["..", "a/b", "-v/x:/y", "a,b=c", "s" * 129])
    async def test_a_session_whose_id_is_none_is_not_made(self, driver: Backend, session: str) -> None:
        with pytest.raises(InvalidRequest, match="is refused"):
            await driver.create(launch(session))
        assert await driver.guests() == []

    async def test_the_longest_and_oddest_ids_are_taken_and_told_apart(self, driver: Backend) -> None:
        longest = "-" + "x" * 126
        wishes = [launch(longest + end, user="-U." + "y" * 125) for end in "ab"] + [
            launch("a.b", "c"),
            launch("b", "c.a"),
        ]
        guests = await asyncio.gather(*map(driver.create, wishes))
        assert sorted(guest.id for guest in await driver.guests()) == sorted(guest.id for guest in guests)
        assert len({guest.id for guest in guests}) == len(wishes)

    async def test_a_session_that_has_one_gets_no_second(self, driver: Backend, box: Sandbox) -> None:
        with pytest.raises(AlreadyExists, match=box.guest.session_id):
            await driver.create(launch(box.guest.session_id))
        assert await box.answers()

    async def test_of_two_that_make_the_same_session_one_wins(
        self, driver: Backend, open: Open, data: Path
    ) -> None:
        wishes = [launch("same"), launch("same")]
        makers = [driver.create(wishes[0]), open(data).create(wishes[1])]
        told = await asyncio.gather(*makers, return_exceptions=True)
        (guest,) = [each for each in told if isinstance(each, Guest)]
        (error,) = [each for each in told if not isinstance(each, Guest)]
        assert isinstance(error, AlreadyExists)
        assert await Sandbox(driver, guest, wishes[told.index(guest)].token).shell("echo up") == "up"

    async def test_a_cancelled_start_leaves_nothing(self, driver: Backend, data: Path) -> None:
        for moments in (1, 5, 20, 60):
            starting = asyncio.create_task(driver.create(launch()))
            await asyncio.sleep(moments / 100)
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                guest = await starting
                await driver.destroy(guest.id)
        assert await driver.guests() == []
        assert await self.leftovers(data) == []

    async def test_one_that_crashed_is_shown_dead_and_ended_like_any(
        self, box: Sandbox, crash: Callable[[Guest], Awaitable[None]], data: Path
    ) -> None:
        await crash(box.guest)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [each.state for each in await box.driver.guests()] != [GuestState.DEAD]:
                await asyncio.sleep(0.05)
        assert (await box.driver.destroy(box.guest.id)).found
        assert await box.driver.guests() == []
        assert await self.leftovers(data) == []

    async def test_one_that_crashed_starts_again_as_it_was_where_that_is_promised(
        self, box: Sandbox, crash: Callable[[Guest], Awaitable[None]]
    ) -> None:
        if not box.driver.properties.revives:
            pytest.skip(f"the backend {box.driver.name} starts no sandbox a second time")
        driver = cast(Revives, box.driver)
        await box.shell("echo mine > work.txt")
        await crash(box.guest)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while [each.state for each in await driver.guests()] != [GuestState.DEAD]:
                await asyncio.sleep(0.05)
        for _ in range(2):  # one that runs is as well
            again = Sandbox(driver, await driver.revive(box.guest.id), box.token)
            assert await again.shell("cat work.txt") == "mine"

    async def test_files_are_kept_where_that_is_promised_and_nowhere_else(self, box: Sandbox) -> None:
        await box.shell("echo mine > work.txt")
        kept = (await box.driver.destroy(box.guest.id, keep_files=True)).kept
        if box.driver.properties.keeps_files:
            assert kept is not None
            assert (Path(kept) / "work.txt").read_text() == "mine\n"
            assert (await box.driver.destroy(box.guest.id)).found
            assert not Path(kept).exists()
        else:
            assert kept is None

    async def test_one_begun_on_kept_files_has_them_and_may_change_them(self, driver: Backend) -> None:
        if not driver.properties.keeps_files:
            pytest.skip(f"the backend {driver.name} keeps no files")
        wanted = launch()
        box = Sandbox(driver, await driver.create(wanted), wanted.token)
        await box.shell(
            "mkdir -p a/b && echo mine > a/b/work.txt && ln -s /etc/passwd link && chmod 600 a/b/*"
        )
        await driver.destroy(box.guest.id, keep_files=True)
        again = dataclasses.replace(launch(wanted.session_id), existing=True)
        box = Sandbox(driver, await driver.create(again), again.token)
        assert (
            await box.shell("cat a/b/work.txt && echo more >> a/b/work.txt && rm link && ls -A") == "mine\na"
        )
        with pytest.raises(AlreadyExists):
            await driver.create(again)
        assert await box.answers()

    async def test_one_begun_on_files_that_are_not_there_is_empty(self, driver: Backend) -> None:
        wanted = dataclasses.replace(launch(), existing=True)
        box = Sandbox(driver, await driver.create(wanted), wanted.token)
        assert await box.shell("ls -A") == ""

    async def test_files_of_another_are_out_of_reach(self, box: Sandbox, other: Sandbox) -> None:
        promised(box, box.driver.properties.isolates_files, "files")
        secret = secrets.token_hex(8)
        places = await other.shell(
            'for place in "$PWD" "$HOME" "${TMPDIR:-/tmp}"; do '
            f'echo {secret} > "$place/{secret}"; echo "$place/{secret}"; done'
        )
        for place in places.splitlines():
            for path in (place, f"/proc/[0-9]*/root{place}", f"/proc/[0-9]*/cwd/{secret}"):
                told = await box.run("sh", "-c", f"cat {path}; echo x > {path}")
                assert secret not in told.stdout, path
            assert await other.shell(f"cat {place}") == secret

    async def test_processes_of_another_are_neither_read_nor_ended(
        self, box: Sandbox, other: Sandbox
    ) -> None:
        promised(box, box.driver.properties.isolates_processes, "processes")
        secret = secrets.token_hex(8)
        async with other.client() as client:
            started = await client.command(
                command="exec sleep 9876", env={"A_SECRET": secret}, background=True
            )
        look = f"cat /proc/[0-9]*/environ | grep -c {secret}"
        async with asyncio.timeout(PATIENCE_SECONDS):
            # While a shell becomes a program, the kernel shows no environment.
            while (await other.run("sh", "-c", look)).stdout.strip() == "0":
                await asyncio.sleep(0.05)
        assert (await box.run("sh", "-c", look)).stdout.strip() == "0"
        # By its number, as its owner sees it: never by a pattern, for where nothing is held it does hit.
        pid = (await record_of(other, started.process_id)).pid
        with contextlib.suppress(
            Unavailable
        ):  # where numbers are a sandbox's own, it may be one of this one's
            await box.run("sh", "-c", f"kill -9 {pid}")
        assert (await record_of(other, started.process_id)).state is ProcessState.RUNNING

    async def test_ports_of_another_are_out_of_reach(
        self, box: Sandbox, other: Sandbox, tmp_path: Path
    ) -> None:
        promised(box, box.driver.properties.isolates_network, "ports")
        await inject(other, tmp_path / "files", {"index.html": "<title>Not yours</title>"})
        async with other.client() as client:
            await client.dev_start()
        ports = (other.guest.tool_port, other.guest.dev_port)
        ways = [f"{address}:{port}" for address in await addresses(other) for port in ports]
        ways += [other.driver.endpoint(other.guest, port).url.rpartition("/")[2] for port in ports]
        for way in ways:
            # Said by the other side where it is its own: else an address that nobody has would prove nothing.
            told = await box.run("python3", "-c", CONNECT, way)
            assert told.stdout.strip() != "connected", way
        assert "connected" in [await other.shell(f"python3 -c '{CONNECT}' {way}") for way in ways]


CONNECT = """
import socket, sys
host, port = sys.argv[1].split(":")
try:
    socket.create_connection((host, int(port)), timeout=2).close()
    print("connected")
except OSError as error:
    print(error)
"""
# Asks for no answer: a UDP socket that is connected knows by which of its addresses it would send.
ADDRESSES = """
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("192.0.2.1", 9))
print(udp.getsockname()[0])
"""


async def addresses(box: Sandbox) -> list[str]:
    """Under which it is known to its own network."""
    return [(await box.run("python3", "-c", ADDRESSES)).stdout.strip()]


async def record_of(box: Sandbox, process_id: str) -> ProcessRecord:
    """What its tool server tells of a process."""
    async with box.client() as client:
        known = (await client.processes()).processes
    return next(each for each in known if each.process_id == process_id)


def promised(box: Sandbox, holds: bool, what: str) -> None:
    """Skip where it is not."""
    if not holds:
        pytest.skip(f"the backend {box.driver.name} promises nothing about {what}")


async def inject(box: Sandbox, directory: Path, files: dict[str, str]) -> None:
    """These files as the whole content of the workspace."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    archive = archive_directory(directory, Exclusions())
    async with box.client() as client:
        await client.put_archive(archive.content, digest=archive.digest)
