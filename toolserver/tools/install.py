"""install: the workspace's packages, by the package manager that its lock file names."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping

from protocol.errors import Busy, InstallFailed, InvalidRequest, Timeout
from protocol.limits import Limits
from protocol.messages.base import Encoding, Event, Log
from protocol.messages.commands import Stderr, Stdout
from protocol.messages.devserver import Install, InstallAnswer, StoreOutcome, StoreUse
from protocol.package_managers import (
    install_commands,
    is_modern_yarn,
    known_manager,
    offline_environment,
    package_manager,
    pinned_version,
)
from protocol.paths import ROOT
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.threads import until_done
from toolserver.tools.call import Call
from toolserver.tools.follow import follow
from toolserver.tools.installers import unheeded_npm
from toolserver.tools.packages import Known, Packages
from toolserver.tools.project import Project, look
from toolserver.tools.shell import dev_environment, shell_argv

log = logging.getLogger("toolserver.install")

_TAIL_BYTES = 16 * 1024
_TAIL_LINES = 40
_NO_PROGRAM = 127
"""What a shell says of a name that is no program."""
_HINTS = {
    "pnpm": "; install it by `npm install -g pnpm`, or switch corepack on by `corepack enable pnpm`",
    "yarn": "; install it by `npm install -g yarn`, or switch corepack on by `corepack enable yarn`",
    "bun": "; install it by `npm install -g bun`",
    "npm": "; it comes with Node: install Node 22.12 or newer",
}
_UNSIGNED = ("No compatible signature found", "Cannot find matching keyid")
"""What Corepack says of a registry that does not sign, or not by a key that it knows."""
_USAGE, _USAGE_END = "npm error Usage:", 'npm error Run "npm help'
_ERROR_LINE = re.compile(r"(?i)\berr(or)?\b|ERR!|not found|ENOENT|404")
_COMPLAINT = re.compile(r"(?i)\b(forbidden|cannot|can't|couldn't|no candidates)\b")
"""For want of such a line: Yarn from 2 on marks none."""


class Installs:
    """The handler. One install at a time: two would write the same node_modules."""

    def __init__(
        self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits, packages: Packages
    ) -> None:
        self._packages = packages
        self._table = table
        self._disk = disk
        self._env = dev_environment(env)
        self._limits = limits
        self._running = False
        self.last = Install()
        """What was asked for last: whoever has to install again asks for the same."""

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._running

    async def install(self, request: Install, call: Call) -> InstallAnswer:
        """Try the commands in order until one succeeds."""
        if self._running:
            raise Busy("an install is under way in this workspace; wait for it")
        self._running, self.last = True, request
        try:
            return await self._install(request, call)
        finally:
            self._running = False

    async def _install(self, request: Install, call: Call) -> InstallAnswer:
        begun = time.monotonic()
        manager, commands, pinned_npm = await self._plan(request)
        notice = await self._unheeded(pinned_npm, request, call) if commands else None
        known, use = await self._asked(request, manager, call)
        failures: list[Process] = []
        used = None
        for used in commands if use is None or use.outcome is not StoreOutcome.HIT else ():
            process = await self._run(used, request, self._env_of(request, manager), call)
            if process.exit is not None and process.exit.code == 0:
                if known is not None:
                    self._packages.keep_soon(known)
                break
            failures.append(process)
            if len(failures) < len(commands):
                reason = _reason(used, process)
                await call.emit(Log(source="install", text=f"{reason}; trying {commands[1]!r}\n"))
        else:
            if failures:
                raise _failed(commands, failures, manager)
        if request.pack_to is not None:
            use = await self._packages.pack_to(
                request.pack_to, manager or "npm", self._env_of(request, manager), call
            )
        return InstallAnswer(
            package_manager=manager,
            command=used,
            fallback_reason=_reason(commands[0], failures[0]) if failures else None,
            notice=notice,
            store=use,
            duration_ms=round((time.monotonic() - begun) * 1000, 3),
        )

    async def _unheeded(self, pinned_npm: str | None, request: Install, call: Call) -> str | None:
        """What is not as package.json has it, told."""
        if pinned_npm is None:
            return None
        notice = await asyncio.to_thread(unheeded_npm, pinned_npm, self._env_of(request, "npm"))
        if notice is not None:
            log.warning("install", extra={"data": {"notice": notice}})
            await call.emit(Log(source="install", text=f"{notice}\n"))
        return notice

    async def _asked(
        self, request: Install, manager: str | None, call: Call
    ) -> tuple[Known | None, StoreUse | None]:
        """What the store knows the packages by, and what it did."""
        if manager is None or request.command == "" or not self._packages.on:
            return None, None
        if request.command is not None or not request.store:
            reason = "a command of its own installs" if request.store else "the request says so"
            return None, StoreUse(outcome=StoreOutcome.OFF, reason=reason)
        known = await self._packages.known(manager, self._env_of(request, manager), call)
        if isinstance(known, StoreUse):
            return None, known
        return known, await self._packages.take(known, call)

    def _env_of(self, request: Install, manager: str | None) -> dict[str, str]:
        offline = offline_environment(manager) if request.offline else {}
        return {**self._env, **offline, **request.env}

    async def _plan(self, request: Install) -> tuple[str | None, list[str], str | None]:
        """The package manager, the commands to try, and the npm that is pinned for them."""
        if request.timeout_ms is not None and request.timeout_ms <= 0:
            raise InvalidRequest("'timeoutMs' must be above 0", field="timeoutMs")
        project = await look(self._disk)
        manager = _wanted(request, project)
        if request.command is not None:
            return manager, [request.command] if request.command.strip() else [], None
        if manager is None:
            return None, [], None
        pinned = {"packageManager": request.package_manager} if request.package_manager else project.package
        modern = is_modern_yarn(pinned or {}, project.names)
        npm = pinned_version(pinned or {}, "npm") if manager == "npm" else None
        return manager, install_commands(manager, project.names, request.offline, modern), npm

    async def _run(self, line: str, request: Install, env: Mapping[str, str], call: Call) -> Process:
        cwd = await asyncio.to_thread(self._disk.directory, ROOT)
        argv = await asyncio.to_thread(shell_argv, line, env)
        process = await self._table.start_soon(argv, cwd=cwd, env=env, merged=True)
        timeout_ms = request.timeout_ms or self._limits.install_timeout_ms
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await follow(process, as_log(call, "install"), (0, 0), Encoding.UTF8)
        except TimeoutError:
            await self._stopped(process)
            raise Timeout(
                f"{line!r} did not end within {timeout_ms} ms (timeoutMs); it was stopped",
                clock="timeoutMs",
                value=timeout_ms,
                output=last_lines(process),
            ) from None
        except asyncio.CancelledError:
            await self._stopped(process)
            raise
        return process

    async def _stopped(self, process: Process) -> None:
        """However often who asks is cancelled: until then no other install may begin."""
        await until_done(asyncio.ensure_future(self._table.stop(process)))


def _wanted(request: Install, project: Project) -> str | None:
    """The package manager that is asked for, else the project's; None where there are no packages."""
    if request.package_manager is not None:
        asked = known_manager(request.package_manager, "'packageManager'")
        return None if project.package is None else asked
    if project.package is None:
        return None
    try:
        return package_manager(project.package, project.names)
    except InvalidRequest:
        if request.command is None:
            raise
        return None  # a command of its own installs, with whatever it likes


def as_log(call: Call, source: str) -> Call:
    """The same caller, told a program's output as ``log`` events."""

    async def emit(event: Event) -> None:
        if isinstance(event, Stdout | Stderr):
            await call.emit(Log(source=source, text=event.data, next_offset=event.next_offset))

    return Call(call.request_id, emit, call.admission)


def last_lines(process: Process) -> list[str]:
    """The end of what a program printed, for an error's details."""
    log = process.stdout
    text = log.read(max(0, log.end - _TAIL_BYTES), _TAIL_BYTES).data.decode(errors="replace")
    return _without_usage([line for line in text.splitlines() if line.strip()])[-_TAIL_LINES:]


def _without_usage(lines: list[str]) -> list[str]:
    """Without npm's list of its own options: after some errors it is ninety lines long, and they come last.

    >>> _without_usage(["Missing: a", "npm error Usage:", "npm error npm ci", 'npm error Run "npm help'])
    ['Missing: a', 'npm error Run "npm help']
    """
    begin = next((number for number, line in enumerate(lines) if line == _USAGE), len(lines))
    end = next((n for n, line in enumerate(lines) if n > begin and line.startswith(_USAGE_END)), len(lines))
    return lines[:begin] + lines[end:]


def error_line(lines: list[str]) -> str:
    """The line that tells most of what went wrong.

    >>> error_line(["npm warn x", "npm error code E404", "npm error 404  'nope@1' is not in this registry."])
    "npm error 404  'nope@1' is not in this registry."
    >>> error_line(["> dev", "> node x.js", "no such port"])
    'no such port'
    """
    lines = [line for line in lines if "throw new " not in line]  # Node shows the source before the sentence
    telling = [line for line in lines if _ERROR_LINE.search(line) and "log" not in line.lower()]
    telling = telling or [line for line in lines if _COMPLAINT.search(line)]
    long = [line for line in telling if len(line.split()) > 5]
    sentences = [line for line in long if "http" not in line] or long
    own = [line for line in lines if not line.startswith((">", "npm "))]
    return (sentences[:1] or telling[:1] or own[-1:] or lines[-1:] or ["it printed nothing"])[0].strip()


def corepack_hint(lines: list[str]) -> str:
    """What helps when Corepack did not get the package manager; empty when it is not that.

    >>> corepack_hint(["Error: Cannot find matching keyid: {}"])
    '; pin the version with its hash in package.json, as `corepack use` writes it'
    >>> corepack_hint(["npm error 404"])
    ''
    """
    text = "\n".join(lines)
    if any(sign in text for sign in _UNSIGNED):
        return "; pin the version with its hash in package.json, as `corepack use` writes it"
    if "corepack#troubleshooting" in text:
        return "; set npm_config_registry on the host, and Corepack fetches it from that registry"
    return ""


def _reason(command: str, process: Process) -> str:
    code = process.exit.code if process.exit else None
    return f"{command!r} failed with exit code {code}: {error_line(last_lines(process))}"


def _failed(commands: list[str], failures: list[Process], manager: str | None) -> InstallFailed:
    last = failures[-1]
    code = last.exit.code if last.exit else None
    hint = _HINTS.get(manager or "", "") if code == _NO_PROGRAM else corepack_hint(last_lines(last))
    return InstallFailed(
        _reason(commands[-1], last) + hint,
        command=commands[-1],
        exit_code=code,
        output=last_lines(last),
    )
