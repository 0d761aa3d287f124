"""``workspace template dev``: a workspace that follows its author's directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.cli import pushing
from orchestrator.cli.common import Options, print_json, sentence, tell
from orchestrator.cli.foreground import Foreground
from orchestrator.cli.pushing import Pushed, Pusher
from orchestrator.cli.signals import StopSignals
from orchestrator.cli.up import LOCAL, port_wishes, tools_of
from orchestrator.records import SessionRecord
from orchestrator.substitution import with_values
from orchestrator.templates import Source, SourceKind, find_source, template_roots
from orchestrator.units import count_text
from protocol.errors import InvalidRequest, ToolError
from protocol.messages.devserver import DevState

if TYPE_CHECKING:
    from orchestrator.client import Client

_NAMED = 5


def run(
    options: Options,
    directory: str,
    ports: tuple[int | None, int | None],
    backend: str,
    given: Mapping[str, str],
) -> int:
    """Bring it up and follow the directory until a signal comes; the exit code."""
    source = with_values(_template(directory), given)
    pusher = Pusher(source)
    tools = tools_of(options, source) if backend == LOCAL else None
    foreground = _Following(options.sessions(tools), options, backend, pusher)
    return asyncio.run(foreground.run(options.user_id(), source, port_wishes(source, *ports)))


def _template(directory: str) -> Source:
    cwd = Path.cwd()
    source = find_source(directory, template_roots(cwd), cwd)
    if source.kind is SourceKind.ARCHIVE:
        raise InvalidRequest(f"{directory!r} is an archive; name the template's directory")
    # Somebody's own directory too is taken as the template that it is going to be.
    return replace(source, kind=SourceKind.TEMPLATE)


class _Following(Foreground):
    """An ``up`` that also pushes. Its files are only a copy, so they go at the end."""

    def __init__(self, sessions: Any, options: Options, backend: str, pusher: Pusher) -> None:
        super().__init__(sessions, options, backend, detach=False, remove=True)
        self._pusher = pusher
        self._told = ""
        self._not_pushed = ""
        self._left_out: list[str] = []

    async def _watch(self, record: SessionRecord, stop: StopSignals) -> None:
        pushing_ = asyncio.create_task(self._push_on(record))
        watching = asyncio.create_task(super()._watch(record, stop))
        try:
            await asyncio.wait({pushing_, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pushing_, watching):
                task.cancel()
            await asyncio.wait({pushing_, watching})
        for task in (watching, pushing_):
            if not task.cancelled():
                task.result()

    async def _push_on(self, record: SessionRecord) -> None:
        tell(f"following {self._pusher.directory}: what you save there goes into the workspace")
        async for _ in self._pusher.changes():
            try:
                await self._push(record)
                self._not_pushed = ""
            except ToolError as error:
                self._tell_not_pushed(sentence(error))
            except OSError as error:
                self._tell_not_pushed(
                    f"{error.filename or self._pusher.directory}: {error.strerror or error}"
                )

    async def _push(self, record: SessionRecord) -> None:
        begun = time.monotonic()
        differs = await self._pusher.differs()
        self._tell_broken()
        self._tell_left_out()
        if not differs:
            return
        async with self._sessions.client(record) as client:
            pushed = await pushing.retried(self._pusher, client)
            if pushed:
                self._tell(pushed, time.monotonic() - begun)
            if why := self._pusher.restarts(pushed):
                await self._restart(client, record, why)

    def _tell_not_pushed(self, why: str) -> None:
        """Once, however often it is tried again."""
        if why != self._not_pushed:
            tell(f"not pushed: {why}")
        self._not_pushed = why

    def _tell_left_out(self) -> None:
        """Each once."""
        left_out = self._pusher.left_out
        for why in left_out:
            if why not in self._left_out:
                tell(f"not pushed: {why}")
        self._left_out = left_out

    def _tell_broken(self) -> None:
        broken = self._pusher.broken
        if broken and broken != self._told:
            tell(f"{broken}; going on with the one before")
        self._told = broken

    def _tell(self, pushed: Pushed, seconds: float) -> None:
        if self._options.as_json:
            print_json(
                {"pushed": pushed.changed, "removed": pushed.removed, "durationMs": round(seconds * 1000, 3)}
            )
            return
        gone = [path for path in pushed.removed if path not in pushed.changed]
        parts = [_named("pushed", pushed.changed), _named("removed", gone)]
        tell(f"{'; '.join(part for part in parts if part)} ({seconds * 1000:.0f} ms)")

    async def _restart(self, client: Client, record: SessionRecord, why: str) -> None:
        """Install, and the dev server anew: what it holds in memory was made from the old files."""
        tell(f"{why} changed: installing, and starting the dev server anew")
        template = self._pusher.restarting()
        dev = msgspec.structs.replace(template.dev_request(), port=record.dev_port)
        await client.dev_stop()
        started = await client.start(install=template.install_request(), dev=dev)
        ready = started.dev.state is DevState.READY
        tell(f"the dev server {'is ready again' if ready else 'is ' + started.dev.state.value}")


def _named(what: str, paths: list[str] | tuple[str, ...]) -> str:
    """
    >>> _named("pushed", ["a", "b"]), _named("removed", [])
    ('pushed a, b', '')
    """
    if not paths:
        return ""
    if len(paths) > _NAMED:
        return f"{what} {', '.join(paths[:_NAMED])} and {count_text(len(paths) - _NAMED, 'other')}"
    return f"{what} {', '.join(paths)}"
