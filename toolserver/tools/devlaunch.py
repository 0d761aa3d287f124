"""How a dev server is started: which command, on a port that is free, with which variables."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping

from protocol.errors import DevServerFailed, InvalidRequest
from protocol.messages.devserver import DevStart
from protocol.paths import ROOT
from protocol.templates import StaticSite, dev_command, filled
from toolserver.system import ports
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.tools.project import look
from toolserver.tools.shell import shell_argv

_VITE_HOSTS = "__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS"
"""Vite's own, for whoever starts it: added to what its config allows."""
_HOST = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def check_hosts(hosts: list[str]) -> None:
    """Raise InvalidRequest for what is no name of a host.

    >>> check_hosts(["shop.example.com", ".example.com"])
    """
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise InvalidRequest(
                f"{host!r} in 'allowedHosts' is no host name: say 'a.example.com' or '.example.com'",
                field="allowedHosts",
            )


class Launching:
    """One workspace's way to start one."""

    def __init__(self, table: ProcessTable, disk: Disk, env: Mapping[str, str], host: str) -> None:
        self._table = table
        self._disk = disk
        self._env = env
        self._host = host

    async def found(self) -> bool:
        """Whether the workspace's own files say how."""
        project = await look(self._disk)
        return dev_command(project.package, project.names) is not None

    async def plan(self, request: DevStart, port: int) -> tuple[list[str], str]:
        """What to run, and how it is shown; raises DevServerFailed where nothing says what."""
        env = {**self._env, **request.env}
        if request.command is not None and request.command.strip():
            line = filled(request.command, self._host, port)
            return await asyncio.to_thread(shell_argv, line, env), line
        project = await look(self._disk)
        found = dev_command(project.package, project.names)
        if found is None:
            raise DevServerFailed(
                "no dev server to start: give 'command', a script 'dev' in package.json, or an index.html"
            )
        if isinstance(found, StaticSite):
            argv = [sys.executable, "-I", "-m", "toolserver.wire.static", self._host, str(port)]
            return argv, f"static site on {self._host}:{port}"
        line = filled(found, self._host, port)
        return await asyncio.to_thread(shell_argv, line, env), line

    async def run(self, argv: list[str], request: DevStart, port: int) -> Process:
        """Start it; raises DevServerFailed when the port is taken."""
        await self._refuse_taken(port)
        env = {**self._env, "HOST": self._host, "PORT": str(port), "BROWSER": "none"}
        if request.allowed_hosts:
            env[_VITE_HOSTS] = ",".join(request.allowed_hosts)
        env |= request.env
        cwd = await asyncio.to_thread(self._disk.directory, ROOT)
        return await self._table.start_soon(argv, cwd=cwd, env=env, merged=True)

    async def _refuse_taken(self, port: int) -> None:
        if await asyncio.to_thread(ports.is_free, self._host, port):
            return
        pid = await asyncio.to_thread(ports.owner, port)
        who = f"process {pid}" if pid else "another program"
        raise DevServerFailed(
            f"port {port} is taken by {who}; stop it, or give another 'port'", port=port, pid=pid
        )
