"""Who listens where, and whether a port answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.ports import free_port
from toolserver.system import ports
from toolserver.system.sock_diag import dump, listening, messages


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        # As servers do.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_a_port_that_nobody_has_is_free() -> None:
    assert ports.is_free("127.0.0.1", free_port())


def test_a_port_with_a_listener_is_not_free_on_any_address(listener: socket.socket) -> None:
    assert not ports.is_free("127.0.0.1", port_of(listener))
    assert not ports.is_free("0.0.0.0", port_of(listener))
    assert not ports.is_free("::1", port_of(listener))


def test_a_port_that_is_bound_without_listening_is_not_free() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert not ports.is_free("127.0.0.1", port_of(bound))


def test_a_listener_on_the_other_family_counts() -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen()
        assert not ports.is_free("127.0.0.1", port_of(listener))
        assert port_of(listener) in ports.ports_of([os.getpid()])


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_tells_the_same_of_a_listener_as_proc(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        inode = os.fstat(listener.fileno()).st_ino
        assert inode not in ports.listeners()
        listener.listen()
        wanted = ports.Listener(port_of(listener), address, inode)
        assert ports.listeners()[inode] == ports.listeners_of_proc()[inode] == wanted


def test_many_listeners_come_in_more_than_one_piece() -> None:
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(socket.socket()) for _ in range(600)]
        for each in many:
            each.bind(("127.0.0.1", 0))
            each.listen(1)
        assert {os.fstat(each.fileno()).st_ino for each in many} <= {inode for _, _, inode in listening()}


def test_where_the_kernel_is_not_to_be_asked_proc_is_read(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> list[tuple[int, bytes, int]]:
        raise OSError("a filter")

    monkeypatch.setattr("toolserver.system.sock_diag.listening", refused)
    assert not ports.is_free("127.0.0.1", port_of(listener))


@pytest.mark.parametrize("kind", [2, 3])
def test_an_error_of_the_kernels_is_not_a_list_of_nobody(kind: int) -> None:
    """Also at the end of the list: a kernel without the module for TCP says so there."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernel:
        kernel.send(struct.pack("=IHHIIi", 20, kind, 2, 0, 0, -errno.ENOENT))
        with pytest.raises(FileNotFoundError):
            list(dump(ours, socket.AF_INET))


def test_what_the_kernel_cuts_short_is_an_error() -> None:
    for data in (b"x" * 7, b"\xff" * 16, b"\0" * 16):
        with pytest.raises(OSError, match="half a"):
            list(messages(data))


def test_a_connection_that_is_closing_does_not_keep_the_port(listener: socket.socket) -> None:
    """Its listener is gone; the other side of a connection lingers in TIME_WAIT."""
    port = port_of(listener)
    with socket.create_connection(("127.0.0.1", port)):
        taken, _ = listener.accept()
        taken.close()
    listener.close()
    assert ports.is_free("127.0.0.1", port)


def test_the_owner_is_found(listener: socket.socket) -> None:
    assert ports.owner(port_of(listener)) == os.getpid()
    assert ports.listens([os.getpid()], port_of(listener), "127.0.0.1")
    assert not ports.listens([1], port_of(listener), "127.0.0.1")
    assert ports.owner(free_port()) is None


def test_who_listens_on_another_address_is_not_who_answers(listener: socket.socket) -> None:
    us, port = [os.getpid()], port_of(listener)
    assert ports.listens(us, port, "0.0.0.0")  # asked there, the kernel asks on loopback
    assert not ports.listens(us, port, "127.0.0.2")
    assert not ports.listens(us, port, "::1")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_listens_on_every_address_answers_on_loopback(family: socket.AddressFamily) -> None:
    with socket.socket(family) as listener:
        listener.bind(("", 0))
        listener.listen()
        assert ports.listens([os.getpid()], port_of(listener), "127.0.0.1")


def test_pids_that_are_gone_have_no_ports() -> None:
    assert ports.ports_of([2**22 + 1]) == set()


def test_only_listening_sockets_are_read() -> None:
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 0100007F:10E1 00000000:0000 0A 0:0 00:0 0 0 0 7781 1",
        "   1: 0100007F:10E2 0100007F:9999 01 0:0 00:0 0 0 0 7782 1",
        f"   2: {'0' * 32}:0050 {'0' * 32}:0000 0A 0:0 00:0 0 0 0 7783 1",
        "   3: short",
    ]
    assert ports.parse_listening(lines) == {
        7781: ports.Listener(4321, "127.0.0.1", 7781),
        7783: ports.Listener(80, "::", 7783),
    }


ANSWERS = {
    b"HTTP/1.1 200 OK\r\n\r\n": 200,
    b"HTTP/1.0 404 Not Found\r\n\r\n": 404,
    b"HTTP/1.1 503\r\n\r\n": 503,
    b"SSH-2.0-OpenSSH\r\n": None,
    b"HTTP/1.1 abc\r\n": None,
    b"HTTP/1.1\r\n": None,
    b"": None,
    b"\xff" * 100_000: None,
}


@pytest.fixture(
    params=ANSWERS.items(), ids=[key[:20].decode("latin-1").strip() or "nothing" for key in ANSWERS]
)
async def answering(request: pytest.FixtureRequest) -> AsyncIterator[tuple[int, int | None]]:
    """(port, expected status) of a server that says one thing."""
    said, expected = request.param

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield port_of(server.sockets[0]), expected


async def test_a_status_is_read_from_whatever_answers(answering: tuple[int, int | None]) -> None:
    port, expected = answering
    assert await ports.http_status("127.0.0.1", port, "/") == expected
    assert await ports.accepts("127.0.0.1", port)


async def test_nobody_there_is_no_status() -> None:
    assert await ports.http_status("127.0.0.1", free_port(), "/") is None
    assert not await ports.accepts("127.0.0.1", free_port())


async def test_one_that_never_answers_is_left(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(ports, "_ANSWER_SECONDS", 0.05)
        assert await ports.http_status("127.0.0.1", port_of(listener), "/") is None
    assert await ports.accepts("127.0.0.1", port_of(listener))
