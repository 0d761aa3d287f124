"""When things go wrong in a container: memory, disk, processes, and a kill at the worst moment."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.image.support import (
    CUT_SHORT,
    PORTS,
    TOKEN,
    Guest,
    Refused,
    archive_of,
    created,
    daemon_pid,
    docker,
    eventually,
    in_image,
    members,
    workspace,
)

OLD = {"kept.txt": b"old", "src/a.txt": b"old"}
NEW = {"kept.txt": b"new", "src/a.txt": b"new", "more/b.txt": b"new"}


@contextlib.contextmanager
def volume() -> Iterator[str]:
    """A named volume, gone afterwards."""
    name = docker("volume", "create")
    try:
        yield name
    finally:
        docker("volume", "rm", "--force", name)


def content(guest: Guest) -> dict[str, bytes]:
    """The files of the workspace as a save has them."""
    return {name: member[3] for name, member in members(guest.save()).items() if member[0] == "0"}


def staged(guest: Guest) -> int:
    """How many files lie in the daemon's areas, the one beside the root and the one in it."""
    areas = "/var/lib/workspace/.workspace /app/.workspace-core"
    return int(guest.exec("bash", "-c", f"find {areas} -name '*.bin' -o -name '*.txt' 2>/dev/null | wc -l"))


# ---- memory


def test_a_command_that_eats_all_memory_is_ended_and_the_daemon_lives() -> None:
    with workspace("--memory=300m", "--memory-swap=300m") as guest:
        before = daemon_pid(guest)
        told = guest.run("python3 -c 'x = bytearray(10**9); print(len(x))'")
        assert (told["exitCode"], told["signal"]) == (137, "SIGKILL")
        assert daemon_pid(guest) == before
        assert guest.output("echo still here") == "still here"


def test_many_small_programs_that_eat_all_memory_together_are_ended_before_the_daemon() -> None:
    with workspace("--memory=300m", "--memory-swap=300m") as guest:
        before = daemon_pid(guest)
        # Each is smaller than the daemon, so that size alone would choose the daemon.
        each = "python3 -c 'x = b\"1\" * 16_000_000; import time; time.sleep(3)'"
        guest.run(f"for i in $(seq 40); do {each} & done; wait")
        assert daemon_pid(guest) == before
        assert guest.output("echo still here") == "still here"


# ---- disk


def test_a_full_disk_refuses_an_injection_and_keeps_the_old_tree() -> None:
    with workspace("--tmpfs=/app:exec,size=8m") as guest:
        guest.inject(archive_of(OLD))
        with pytest.raises(Refused) as refused:
            guest.inject(archive_of({"large.bin": os.urandom(16_000_000)}))
        assert (refused.value.code, refused.value.status) == ("no_space", 507)
        assert content(guest) == OLD
        guest.inject(archive_of(NEW))
        assert content(guest) == NEW


def test_a_disk_filled_by_a_command_refuses_a_write_and_keeps_the_file() -> None:
    with workspace("--tmpfs=/app:exec,size=2m") as guest:
        guest.call("write", {"path": "a.txt", "content": "old"})
        guest.run("head -c 9000000 /dev/zero > fill")
        with pytest.raises(Refused) as refused:
            guest.call("write", {"path": "a.txt", "content": "new" * 100_000})
        assert refused.value.code == "no_space"
        assert guest.output("cat a.txt; rm fill") == "old"
        guest.call("write", {"path": "a.txt", "content": "new"})
        assert guest.output("cat a.txt") == "new"


@pytest.mark.parametrize("how", ["volume", "root"])
def test_a_read_only_workspace_can_be_read_and_run_and_refuses_changes_with_a_reason(how: str) -> None:
    with volume() as name:
        with workspace("--volume", f"{name}:/app") as guest:
            guest.inject(archive_of(OLD))
        # As a kill leaves it while an old tree is removed, or while it is tried what can be done here.
        litter = ("swap/new", "swap/old/0", "trash-0123456789abcdef/x", "dependencies-0123/x")
        paths = [f"/app/.workspace-core/{each}" for each in litter]
        in_image("mkdir", "--parents", *paths, options=["--volume", f"{name}:/app"])
        place = [f"--volume={name}:/app:ro", *(["--read-only"] if how == "root" else [])]
        with workspace(*place) as guest:
            assert guest.output("cat kept.txt") == "old"
            assert guest.call("read", {"path": "src/a.txt"})["content"] == "old"
            with pytest.raises(Refused, match=r"403: .*(?i:read-only file system)"):
                guest.call("write", {"path": "kept.txt", "content": "new"})
            with pytest.raises(Refused, match=r"403: .*(?i:read-only file system)"):
                guest.inject(archive_of(NEW))
            assert content(guest) == OLD


# ---- killed


class Sender(threading.Thread):
    """Sends the first part of an archive, then keeps the rest back until it is told to go on."""

    def __init__(self, guest: Guest, archive: bytes, first: int) -> None:
        super().__init__(daemon=True)
        self._address = urlsplit(guest.url()).netloc.split(":")
        self._archive = archive
        self._first = first
        self.sent = threading.Event()

    def run(self) -> None:
        """One PUT that never gets to its end."""
        host, port = self._address
        with socket.create_connection((host, int(port))) as connection, contextlib.suppress(OSError):
            head = f"PUT /v1/archive HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            connection.sendall(f"{head}Content-Length: {len(self._archive)}\r\n\r\n".encode())
            connection.sendall(self._archive[: self._first])
            self.sent.set()
            connection.recv(1)


@pytest.mark.parametrize("place", ["container", "volume"])
def test_a_kill_in_the_middle_of_an_injection_leaves_the_old_tree(place: str) -> None:
    with volume() as name:
        options = [f"--volume={name}:/app"] if place == "volume" else []
        with workspace(*options) as guest:
            guest.inject(archive_of(OLD))
            archive = archive_of({f"new/{number}.bin": os.urandom(100_000) for number in range(40)})
            sender = Sender(guest, archive, len(archive) // 2)
            sender.start()
            assert sender.sent.wait(30)
            eventually("some of it is unpacked beside the tree", lambda: staged(guest) > 0)
            docker("kill", guest.id)
            sender.join(30)
            docker("start", guest.id)
            guest.wait_healthy()
            assert content(guest) == OLD
            assert staged(guest) == 0


@pytest.mark.parametrize("place", ["container", "volume"])
def test_kills_at_any_moment_leave_one_whole_tree_or_the_other(place: str) -> None:
    trees = [{f"{number:03}.txt": bytes([mark]) for number in range(300)} for mark in b"AB"]
    archives = [archive_of(tree) for tree in trees]
    with volume() as name:
        options = [f"--volume={name}:/app"] if place == "volume" else []
        with workspace(*options) as guest:
            guest.inject(archives[0])
            for number in range(6):
                sender = threading.Thread(target=try_to_inject, args=(guest, archives[number % 2]))
                sender.start()
                # Spread over the tens of milliseconds that an injection takes; which moment is met is chance.
                time.sleep(0.01 + 0.012 * number)
                docker("kill", guest.id)
                sender.join(30)
                docker("start", guest.id)
                guest.wait_healthy()
                assert content(guest) in trees


def try_to_inject(guest: Guest, archive: bytes) -> None:
    """An injection whose end may be anything."""
    with contextlib.suppress(*CUT_SHORT, Refused):
        guest.inject(archive)


# ---- processes


def test_orphans_end_with_their_command_and_no_zombie_stays() -> None:
    with workspace() as guest:
        guest.run("(sleep 0.2 &) ; (setsid sleep 0.3 &) ; for i in 1 2 3; do (true &) ; done")
        eventually("nothing but init and the daemon", lambda: programs(guest) == ["init", "toolserver"])


def test_orphans_of_programs_started_from_outside_are_reaped_by_init() -> None:
    with workspace() as guest:
        guest.exec("bash", "-c", "(sleep 0.2 &) ; (setsid sleep 0.3 &)")
        eventually("nothing but init and the daemon", lambda: programs(guest) == ["init", "toolserver"])


def programs(guest: Guest) -> list[str]:
    """Names of all processes, zombies too, but for the one that looks."""
    told = docker("top", guest.id, "-o", "pid,comm").splitlines()[1:]
    return sorted(line.split(None, 1)[1] for line in told)


# ---- several


def test_two_containers_at_once_know_nothing_of_each_other() -> None:
    with workspace() as one, workspace(f"--env=TOOL_SERVER_TOKEN={TOKEN}-2") as started:
        two = Guest(started.id, f"{TOKEN}-2")
        one.inject(archive_of({"who.txt": b"one"}))
        two.inject(archive_of({"who.txt": b"two"}))
        assert (one.output("cat who.txt"), two.output("cat who.txt")) == ("one", "two")
        assert Guest(two.id, TOKEN).get("/v1/archive")[0] == 401
        # A program that the daemon is just starting bears its name for a moment.
        servers = "ps -eo args | grep -c '[/]tools/bin/toolserver'"
        eventually("init and one daemon, its own", lambda: one.output(servers) == "2")


def test_a_volume_keeps_the_content_for_the_next_container() -> None:
    with volume() as name:
        with workspace("--volume", f"{name}:/app") as guest:
            guest.inject(archive_of(OLD))
        with workspace("--volume", f"{name}:/app") as guest:
            assert content(guest) == OLD
            guest.inject(archive_of(NEW))
            assert content(guest) == NEW
            eventually("the old tree is removed, after the answer", lambda: staged(guest) == 0)


def test_content_that_came_with_an_image_is_replaced_like_any_other() -> None:
    with workspace() as guest:
        guest.inject(archive_of(OLD | {"deep/er/c.txt": b"old"}))
        derived = docker("commit", guest.id)
    try:
        with created(*PORTS, "--env", f"TOOL_SERVER_TOKEN={TOKEN}", derived) as guest:
            guest.wait_healthy()
            assert content(guest) == OLD | {"deep/er/c.txt": b"old"}
            guest.inject(archive_of(NEW))
            assert content(guest) == NEW
    finally:
        docker("image", "rm", "--force", derived)
