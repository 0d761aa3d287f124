"""A tool server on a directory of the host, in place: nothing is copied, and the files stay where they are.

It starts with the first use, as a process of its own, and ends with the workspace; or with this program,
however that ends: its standard input is a pipe that we hold, and a guardian in it ends the server when the
pipe does. What it runs may do what this user may: ``properties`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator import processes
from orchestrator.backends import Properties
from orchestrator.backends.environment import area_marker, sandbox_environment
from orchestrator.directories import private_directory, remove_tree
from orchestrator.isolation.tiers import EVERYTHING, RESOURCES
from orchestrator.leasing import to_the_end
from orchestrator.paths import SessionArea
from orchestrator.ports import DEV_PORTS, Wish, choose, is_free
from orchestrator.workspace.places import Reached
from protocol.errors import InvalidRequest, Unavailable
from protocol.routes import DEFAULT_DEV_PORT

START_SECONDS = 20.0
"""From exec to ``listening on``; 0.4 s when quiet. The rest is for a busy machine."""
STOP_SECONDS = 10.0
"""The tool server ends its own commands within this after TERM."""
KILL_SECONDS = 5.0

PROPERTIES = Properties(
    isolates_files=False,
    isolates_processes=False,
    isolates_network=False,
    keeps_files=True,
    survives_host_restart=False,
    isolation="none",
    left_open=(EVERYTHING, RESOURCES),
)

_HOST = "127.0.0.1"
_GUARDED = 'exec 3<&0; (read -r _ <&3; kill -TERM $$) >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'
"""The server takes the shell's place and its process id; the guardian waits for the end of the pipe."""
_NOT_OURS = ("npm_config_cache", "COREPACK_")
"""In place, a person's own package caches are the right ones."""


class InPlace:
    """One directory, and the tool server on it while it is used."""

    properties = PROPERTIES

    def __init__(self, directory: Path, environ: Mapping[str, str], extra: Mapping[str, str]) -> None:
        """``environ`` is the host's, of which an allowlist is handed on; ``extra`` is added to that."""
        self.directory = directory
        self._environ = environ
        self._extra = dict(extra)
        self._server: _Server | None = None

    @property
    def roots(self) -> tuple[str, ...]:
        """As it was given, and where that leads."""
        return (str(self.directory), str(self.directory.resolve()))

    @property
    def preview_url(self) -> str | None:
        """On this machine's loopback; None before the first use."""
        return f"http://{_HOST}:{self._server.dev_port}/" if self._server else None

    async def open(self) -> Reached:
        """The server that runs; one that ended by itself is started anew."""
        if self._server is not None and self._server.runs:
            return self._server.reached
        await self.close()
        area = SessionArea(Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="workspace-")))
        server = _Server(self.directory, area)
        try:
            await server.start(self._environ, self._extra)
        except BaseException:
            await asyncio.shield(server.stop())
            raise
        self._server = server
        return server.reached

    async def pause(self) -> None:
        """The files are where they are anyway."""
        await self.close()

    async def close(self) -> None:
        """End the server and every command that it runs."""
        if self._server is not None:
            await self._server.stop()
            self._server = None  # only now: whoever was cancelled meanwhile may ask again


class _Server:
    """One run of the tool server."""

    def __init__(self, root: Path, area: SessionArea) -> None:
        self._root = root
        self._area = area
        self._token = secrets.token_urlsafe(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._stopping = False
        self.dev_port = 0

    @property
    def runs(self) -> bool:
        return self._process is not None and not self._stopping and self._process.poll() is None

    @property
    def reached(self) -> Reached:
        return Reached(self._url, self._token)

    async def start(self, environ: Mapping[str, str], extra: Mapping[str, str]) -> None:
        # A thread goes on when nobody waits for it any more, and what it starts is to be stopped.
        await to_the_end(lambda: self._spawn(environ, extra))
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await asyncio.to_thread(self._process.stdout.readline)
        except TimeoutError:
            line = b""
        if not line.startswith(b"listening on "):
            raise Unavailable(f"the tool server on {self._root} did not start: {self._last_words()}")
        self._url = line.decode().removeprefix("listening on ").strip()

    async def stop(self) -> None:
        """TERM by way of the guardian; then KILL to all that bears this run's mark. Again goes on with it."""
        self._stopping = True
        if (process := self._process) is not None:
            assert process.stdin is not None
            if process.poll() is not None and not process.stdin.closed:
                # Its id may be another's by now: the guardian must not signal it.
                _kill_group(process.pid)
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_SECONDS)
            marked = area_marker(self._area)
            await processes.kill_all(lambda: processes.members(marked), KILL_SECONDS)
            await asyncio.to_thread(process.wait)
            assert process.stdout is not None
            process.stdout.close()
        await asyncio.to_thread(remove_tree, self._area.directory)

    def _spawn(self, environ: Mapping[str, str], extra: Mapping[str, str]) -> None:
        for directory in (*self._area.directories, self._area.state):
            private_directory(directory)
        self.dev_port = choose(Wish(DEFAULT_DEV_PORT, DEV_PORTS), (), is_free)
        daemon = (sys.executable, "-P", "-m", "toolserver")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ("/bin/sh", "-c", _GUARDED, "sh", *daemon),
                cwd=self._area.directory,
                env=self._environment(environ, extra),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
        name = self._area.directory.name
        base = sandbox_environment(environ, self._area, self._area.directory, None, name)
        return {
            **{key: value for key, value in base.items() if not key.startswith(_NOT_OURS)},
            **({"HOME": environ["HOME"]} if environ.get("HOME") else {}),
            **extra,
            "TOOL_SERVER_HOST": _HOST,
            "TOOL_SERVER_PORT": "0",
            "TOOL_SERVER_TOKEN": self._token,
            "TOOL_SERVER_STATE_DIR": str(self._area.state),
            "WORKSPACE_ROOT": str(self._root.resolve()),
            "DEV_SERVER_PORT": str(self.dev_port),
        }

    @property
    def _log(self) -> Path:
        return self._area.directory / "log"

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"it said nothing for {START_SECONDS:g} s"


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def made_directory(given: str | os.PathLike[str]) -> Path:
    """``given`` as an absolute path, made if need be; raises InvalidRequest for one that is no directory."""
    path = Path(os.path.normpath(Path(given).expanduser().absolute()))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidRequest(f"{path} is no directory: name one, or a place for a new one") from None
    return path
