"""What the image's tests share: containers that are gone after the test, and a caller as plain as curl.

Nothing here knows the project's own client: what passes, passes for anybody who can speak HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
IMAGE = "workspace-core:latest"
TOKEN = "a-token-for-the-image-tests"
HEALTH_SECONDS = 60.0
PORTS = ("--publish", "127.0.0.1::3001", "--publish", "127.0.0.1::4321")

HARDENED = (
    "--read-only",
    "--tmpfs=/tmp:exec",
    "--tmpfs=/app:exec",
    "--tmpfs=/home/node:exec",
    "--tmpfs=/var/lib/workspace",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--pids-limit=256",
    "--memory=1g",
)
"""All the flags at once, as docs/image.md gives them."""

CUT_SHORT = (OSError, http.client.HTTPException, subprocess.CalledProcessError)
"""What a call raises when its container ends before it has answered, or has not begun."""


class Refused(Exception):
    """An answer that is an error: its status, and the error object."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status}: {error.get('message')}")
        self.status = status
        self.code = error.get("code")


@dataclass(frozen=True)
class Guest:
    """A running container of the image."""

    id: str
    token: str = TOKEN

    def url(self, port: int = 3001) -> str:
        """Where the host reaches ``port``."""
        return f"http://{docker('port', self.id, str(port)).splitlines()[0]}"

    def get(self, path: str, token: bool = True) -> tuple[int, bytes]:
        """Status and body."""
        return self._send(urllib.request.Request(self.url() + path, headers=self._headers(token)))

    def call(self, operation: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One operation; raises Refused."""
        body = json.dumps(params or {}).encode()
        request = urllib.request.Request(f"{self.url()}/v1/{operation}", body, self._headers())
        return _answer(self._send(request))

    def run(self, line: str, **more: Any) -> dict[str, Any]:
        """One command line; its answer with exit code and output."""
        return self.call("command", {"command": line, **more})

    def output(self, line: str) -> str:
        """What a command line that must succeed prints."""
        answer = self.run(line)
        assert answer["exitCode"] == 0, answer
        text: str = answer["stdout"]
        return text.strip()

    def inject(self, archive: bytes, mode: str = "replace") -> dict[str, Any]:
        """Send an archive in."""
        request = urllib.request.Request(
            f"{self.url()}/v1/archive?mode={mode}", archive, self._headers(), method="PUT"
        )
        return _answer(self._send(request))

    def save(self) -> bytes:
        """The save, as tar.gz."""
        status, body = self.get("/v1/archive")
        assert status == 200, body
        return body

    def exec(self, *command: str, user: str | None = None) -> str:
        """A program started from outside, as the engine does it."""
        return docker("exec", *(["--user", user] if user else []), self.id, *command)

    def logs(self) -> tuple[str, str]:
        """(stdout, stderr) since its start."""
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    def first_line(self) -> str:
        """The first line of its stdout. The engine may have it a moment after /health has answered."""
        eventually("a line is printed", lambda: "\n" in self.logs()[0])
        return self.logs()[0].splitlines()[0]

    def state(self, field: str) -> str:
        """A field of the engine's state of it, such as ``Running`` or ``Health.Status``."""
        return docker("inspect", "--format", "{{.State." + field + "}}", self.id)

    def wait_healthy(self) -> None:
        """Until /health answers."""
        deadline = time.monotonic() + HEALTH_SECONDS
        while True:
            with contextlib.suppress(*CUT_SHORT):
                if self.get("/health", token=False)[0] == 200:
                    return
            assert self.state("Running") == "true", f"the container ended: {self.logs()}"
            assert time.monotonic() < deadline, f"no answer on /health: {self.logs()}"
            time.sleep(0.02)

    def _headers(self, token: bool = True) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if token else {}

    def _send(self, request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=100) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


def _answer(told: tuple[int, bytes]) -> dict[str, Any]:
    status, body = told
    decoded: dict[str, Any] = json.loads(body)
    if status != 200:
        raise Refused(status, decoded["error"])
    return decoded


def docker(*arguments: str, stdin: bytes | None = None) -> str:
    """The client's output; a failure tells what it complained about."""
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode:
        told = done.stderr.decode(errors="replace")
        error = subprocess.CalledProcessError(done.returncode, ["docker", *arguments], done.stdout, told)
        error.add_note(told)  # else a test's report has the code alone
        raise error
    return done.stdout.decode(errors="replace").strip()


def remove_network(name: str) -> None:
    """If it was made. A container that is left in it refuses; what an engine keeps of one that is gone goes.

    A busy engine was seen to keep such an end of a network: it is named after no container (``ep-``).
    """
    if not docker("network", "ls", "--quiet", "--filter", f"name=^{name}$"):
        return
    (found,) = json.loads(docker("network", "inspect", name))
    for id, end in found["Containers"].items():
        if id.startswith("ep-"):
            docker("network", "disconnect", "--force", name, end["Name"])
    docker("network", "rm", name)


@contextlib.contextmanager
def created(*arguments: str) -> Iterator[Guest]:
    """``docker run --detach`` with these arguments; removed at the end, with its volumes."""
    guest = Guest(docker("run", "--detach", *arguments))
    try:
        yield guest
    finally:
        docker("rm", "--force", "--volumes", guest.id)


@contextlib.contextmanager
def workspace(*options: str, arguments: Sequence[str] = (), ports: Sequence[str] = PORTS) -> Iterator[Guest]:
    """A container of the image that is healthy, with the tests' token."""
    environment = ("--env", f"TOOL_SERVER_TOKEN={TOKEN}")
    with created(*ports, *environment, *options, IMAGE, *arguments) as guest:
        guest.wait_healthy()
        yield guest


def daemon_pid(guest: Guest) -> str:
    """The daemon's process id inside the container."""
    # The oldest: a command that it is just starting bears its name until it has its own.
    return guest.exec("pgrep", "--oldest", "-f", "^/tools/venv/bin/python -I /tools/bin/toolserver")


def in_image(*command: str, options: Sequence[str] = ()) -> str:
    """What a program prints in a fresh container that has no daemon."""
    return docker("run", "--rm", *options, "--entrypoint", command[0], IMAGE, *command[1:])


def trust() -> list[str]:
    """Options that hand a container the CA bundle of this machine, where its network needs one."""
    bundle = os.environ.get("EXTRA_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if not bundle or not Path(bundle).is_file():
        return []
    path = Path(bundle).resolve()
    return ["--volume", f"{path}:/etc/extra-ca.pem:ro", "--env", "EXTRA_CA_BUNDLE=/etc/extra-ca.pem"]


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archive_of_template(name: str) -> bytes:
    """A template as it lies in the repository."""
    root = REPOSITORY / "templates" / name
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and "node_modules" not in path.parts)
    return archive_of({path.relative_to(root).as_posix(): path.read_bytes() for path in paths})


def members(archive: bytes) -> dict[str, tuple[str, int, str, bytes]]:
    """Every member of a tar.gz: kind, mode, link target, content."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            content = file.read() if file else b""
            name = member.name.removeprefix("./")
            found[name] = (member.type.decode(), member.mode, member.linkname, content)
    return found


def eventually(question: str, ask: Any, seconds: float = 60.0) -> None:
    """Until ``ask()`` is true; fails with the question as text."""
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {question}"
        time.sleep(0.1)
