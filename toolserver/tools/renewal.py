"""A dev server is started anew when what it was started from has changed: packages, scripts, or files named.

What it sees by itself (its own config, the modules) is left to it. What counts is the content, compared with
what was there at the last start: an install that writes the lock file, a save that changes nothing and a
change taken back are no reason.
"""

from __future__ import annotations

import asyncio
import logging
import time

from protocol.errors import InvalidRequest, ToolError
from protocol.limits import Limits
from protocol.messages.devserver import DevStart, DevState
from protocol.package_managers import LOCK_FILES
from protocol.paths import workspace_path
from protocol.templates import PACKAGE_FILE
from toolserver.system.disk import Disk
from toolserver.system.watcher import Numbered, Watcher
from toolserver.tools.call import Call
from toolserver.tools.devserver import DevServer
from toolserver.tools.install import Installs
from toolserver.tools.patterns import spec
from toolserver.tools.reasons import Basis, basis, changed, restarted, sentence
from toolserver.tools.restarts import Haste
from toolserver.tools.text import content_hash

_QUIET_SECONDS = 0.5
"""Without a further change, before anything is done: a package manager writes package.json, then the lock."""
_MOST_QUIET = 20
"""Times that it is waited for, where it never gets quiet."""
_MOST_INSTALLS = 5
"""In a row, where packages change again while they are installed: a gut feeling."""
_MAX_FILE_BYTES = 32 * 1024 * 1024
"""Of a lock file; large ones have 2 MB."""
_MAX_NAMED = 500
"""Files that patterns name; those past it are passed over."""
_INSTALLED = (".package-lock.json", ".modules.yaml", ".yarn-state.yml", ".yarn-integrity")
"""What npm, pnpm and yarn write into node_modules last."""

_log = logging.getLogger("toolserver.renewal")


class Renewal:
    """Looks after the one dev server."""

    def __init__(
        self, watcher: Watcher, disk: Disk, dev: DevServer, installs: Installs, limits: Limits
    ) -> None:
        self._watcher = watcher
        self._disk = disk
        self._dev = dev
        self._installs = installs
        self._limits = limits
        self._basis: Basis = {}
        self._named: Basis = {}
        self._task: asyncio.Task[None] | None = None
        self._haste = Haste()
        self._since = 0.0
        """When it was last started, was ready, or a change was judged."""
        self._seen = 0
        """Number of the last change before it was started."""
        dev.observer = self

    def check(self, request: DevStart) -> None:
        """Raise InvalidRequest for patterns that are none."""
        spec(request.restart_on or (), "restartOn")

    async def launching(self, request: DevStart) -> None:
        """It is about to be started from what is there now."""
        if not self._dev.life.tally.restarts:
            self._haste = Haste()  # somebody has asked for it
        self._since, self._seen = time.monotonic(), self._watcher.number
        now, before = await asyncio.to_thread(self._look), self._basis
        if before and self._dev.life.tally.restarts and not await asyncio.to_thread(self._is_installed):
            # What package.json has come to name meanwhile nobody has installed: judged once it is ready.
            now = before if now is None else restarted(before, now)
        self._basis = now or {}

    async def answered(self, request: DevStart) -> None:
        """It answers, and nobody was told yet: what it wrote so far into named files is its own."""
        if request.restart_on:
            try:
                self._named = await self._digests(request.restart_on)
            except ToolError as error:
                _tell(error)

    def ready(self, request: DevStart) -> None:
        """It is told to be ready: from here on changes count."""
        self._since = time.monotonic()
        if self._task is not None:
            self._task.cancel()
        self._task = None
        # Without a package.json there is nothing to look after, and looking costs watches.
        if request.restart_on or (request.restart_on is None and self._basis):
            self._task = asyncio.create_task(self._follow(request))

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self, request: DevStart) -> None:
        try:
            await self._watcher.index()
            number = self._watcher.number
            # While it started nobody looked.
            await self._judge(request, None, self._since, self._watcher.since(self._seen))
            while True:
                await self._watcher.wait_past(number)
                at = time.monotonic()
                await self._quiet()
                changes = self._watcher.since(number)
                number = self._watcher.number
                paths = None if changes is None else {each.change.path for each in changes}
                await self._judge(request, paths, at, changes)
        except ToolError as error:
            _tell(error)

    async def _quiet(self) -> None:
        left = _MOST_QUIET
        while left:
            number = self._watcher.number
            await asyncio.sleep(_QUIET_SECONDS)
            if self._installs.running:
                continue  # which has a clock of its own; nothing is stopped or installed in the midst of it
            if self._watcher.number == number:
                return
            left -= 1

    async def _judge(
        self, request: DevStart, paths: set[str] | None, at: float, changes: list[Numbered] | None
    ) -> None:
        """``paths`` changed from ``at`` on; None when that is not known."""
        named = spec(request.restart_on or (), "restartOn")
        files = {PACKAGE_FILE, *LOCK_FILES}
        touched = paths is None or any(named.match_file(each) if named else each in files for each in paths)
        if not touched or self._dev.state not in (DevState.READY, DevState.CRASHED):
            return
        now = await asyncio.to_thread(self._look)
        if now is None:
            return
        why = differs = changed(self._basis, now)
        if request.restart_on:
            before, self._named = self._named, await self._digests(request.restart_on)
            why = changed(before, self._named)
        if not why:
            return
        if await self._is_time(why, at, changes):
            needs_install = any(not each.endswith("#") for each in differs)
            is_done = not needs_install or await asyncio.to_thread(self._is_installed)
            if not self._dev.renew(sentence(why), None if is_done else self._install):
                return  # it is being started by now: judged once it is ready
        self._basis = now

    async def _is_time(self, why: list[str], at: float, changes: list[Numbered] | None) -> bool:
        """Whether it is to be started anew for that, after a pause when it may be its own doing."""
        names = {name.rstrip("#") for name in why}
        requested = any(each.request_id is not None for each in changes or () if each.change.path in names)
        self._haste = self._haste.changed((at - self._since) * 1000, requested)
        self._since, delay_ms = time.monotonic(), self._haste.delay_ms(self._limits)
        if delay_ms is None:
            said = (
                f"{sentence(why)} soon after it was started, {self._haste.in_row} times in a row "
                "and by no request: it seems to write that itself, and is not started anew for it; "
                "name other files in 'restartOn', or 'dev_start' it"
            )
            self._dev.life.remark(said)
            _log.warning("a dev server is not started anew", extra={"data": {"reason": said}})
            return False
        await asyncio.sleep(delay_ms / 1000)
        return True

    async def _digests(self, patterns: list[str]) -> Basis:
        """Of the files that these patterns name."""
        named = spec(patterns, "restartOn")
        files = (await self._watcher.snapshot()).files

        def read() -> Basis:
            found = [path for path in files if named is not None and named.match_file(path)]
            contents = {path: self._content(path) for path in sorted(found)[:_MAX_NAMED]}
            return {path: content_hash(data) for path, data in contents.items() if data is not None}

        return await asyncio.to_thread(read)

    async def _install(self) -> str:
        """Until it has begun after the last change: what it is started from then is what was there."""
        wrong = ""
        installed = now = await asyncio.to_thread(self._packages)
        try:
            for _ in range(_MOST_INSTALLS):
                installed = now
                await self._installs.install(self._installs.last, Call("renewal"))
                now = await asyncio.to_thread(self._packages)
                if now in (installed, {}):
                    break
            else:
                installed = now
        except ToolError as error:
            wrong = error.message
        locks = await asyncio.to_thread(self._look, tuple(LOCK_FILES)) or {}
        kept = {name: said for name, said in self._basis.items() if name not in LOCK_FILES}
        self._basis = {**kept, **installed, **locks}
        return wrong

    def _packages(self) -> Basis:
        """Which ones package.json names; empty while that cannot be told."""
        return restarted(self._look((PACKAGE_FILE,)) or {}, {})

    def _look(self, names: tuple[str, ...] = (PACKAGE_FILE, *LOCK_FILES)) -> Basis | None:
        """What is there; None while package.json is not to be understood, as in the middle of an edit."""
        contents = {name: self._content(name) for name in names}
        found = {name: data for name, data in contents.items() if data is not None}
        try:
            return basis(found)
        except InvalidRequest:
            return None

    def _content(self, name: str) -> bytes | None:
        try:
            return self._disk.read(workspace_path(name), _MAX_FILE_BYTES)[0]
        except (ToolError, OSError):
            return None

    def _is_installed(self) -> bool:
        """Whether a package manager was done after the last of these changes, whoever ran it."""
        said = [self._modified(name) for name in (PACKAGE_FILE, *LOCK_FILES)]
        done = [self._modified(f"node_modules/{name}") for name in _INSTALLED]
        return max(done) >= max(said) > 0

    def _modified(self, name: str) -> int:
        try:
            return self._disk.stat(workspace_path(name)).st_mtime_ns
        except (ToolError, OSError):
            return 0


def _tell(error: ToolError) -> None:
    data = {"reason": error.message}
    _log.warning("changes do not start the dev server anew", extra={"data": data})
