"""What sending content in costs, beside the engine's own way of copying an archive into a container."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest

from tests.image.figures import Figures, median_seconds
from tests.image.support import Guest, archive_of, archive_of_template, workspace

SOCKET = Path("/var/run/docker.sock")
ROUNDS = 9


class EngineConnection(http.client.HTTPConnection):
    """HTTP over the engine's socket: no client program in between."""

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(SOCKET))


def engine_copy(guest: Guest, archive: bytes) -> None:
    """The engine's own archive copy into a running container."""
    connection = EngineConnection("engine")
    try:
        connection.request("PUT", f"/containers/{guest.id}/archive?path=/tmp", archive)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    finally:
        connection.close()


@pytest.mark.parametrize("what", ["the template vite-vanilla", "5000 files of 4 KB"])
def test_injecting_is_told_beside_the_engines_own_copy(what: str, figures: Figures) -> None:
    if not SOCKET.is_socket():
        pytest.skip(f"the engine has no socket at {SOCKET}")
    files = {f"d{n % 50}/{n}.js": b"x" * 4096 for n in range(5000)}
    archive = archive_of(files) if "files" in what else archive_of_template("vite-vanilla")
    with workspace() as guest:
        rounds = 3 if "files" in what else ROUNDS
        ours = median_seconds(lambda: guest.inject(archive), rounds)
        theirs = median_seconds(lambda: engine_copy(guest, archive), rounds)
    beside = f"engine's archive copy: {theirs * 1000:.0f} ms"
    figures.add(f"injecting {what}", f"{ours * 1000:.0f} ms", beside)
