"""One ``up`` in a terminal, from the first stage to the last process gone.

A signal before it is ready undoes everything; one after it ends everything and keeps the files. Whatever else
happens, nothing runs on that nobody knows of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import click

from orchestrator.cli.again import Chosen
from orchestrator.cli.common import Options, Refused, as_refused, print_json, refuse_survivors, tell
from orchestrator.cli.progress import Shown, observer
from orchestrator.cli.signals import StopSignals
from orchestrator.cli.summary import as_data, summary
from orchestrator.client import Client
from orchestrator.launch import Ready, launch
from orchestrator.paths import UserId
from orchestrator.plan import LaunchPlan
from orchestrator.records import SessionRecord, State
from orchestrator.sessions import PortWishes, Seen, Sessions
from orchestrator.templates import Source
from protocol.errors import Busy, ToolError, Unavailable
from protocol.messages.files import Kind

_EXAMPLES = ("index.html", "package.json", "README.md")
"""Files worth reading first, for the printed curl line."""
_GOING_ON = (State.INITIALIZING, State.RUNNING)
_RECONNECT_SECONDS = 1.0


class Foreground:
    """One ``up``, from the first stage to the last process gone."""

    def __init__(
        self,
        sessions: Sessions,
        options: Options,
        backend: str,
        detach: bool,
        remove: bool,
        plan: LaunchPlan | None = None,
        derived_image: bool = False,
        chosen: Chosen | None = None,
    ) -> None:
        self._sessions = sessions
        self._options = options
        self._backend = backend
        self._detach = detach
        self._remove = remove
        self._plan = plan
        self._derived_image = derived_image
        self._workspace = chosen.workspace if chosen else None
        self.autosave_seconds: float | None = None
        """How often it is saved while it runs and changes; not at all when left so."""
        self.autosave_to: Path | None = None
        """The file that each autosave replaces; among the workspace's saves when left so."""
        self._keep_first = chosen is not None and chosen.keep_first and not remove
        self._begun: SessionRecord | None = None
        self._not_known = ""
        """Why nobody knows whether it goes on, as it was told last."""

    async def run(self, user: UserId, source: Source, wishes: PortWishes) -> int:
        """The exit code."""
        with StopSignals() as stop:
            ready = await self._launch(user, source, wishes, stop)
            if ready is None:
                await self._tell_left(source)
                return 128 + stop.number
            try:
                await self._show(ready, source)
                if self._detach:
                    return 0
                async with self._autosaving(ready.record):
                    await self._watch(ready.record, stop)
            except BaseException:
                await self._end(ready.record)
                raise
            return await (self._end_as_asked if stop.came() else self._gone)(ready.record)

    async def _launch(
        self, user: UserId, source: Source, wishes: PortWishes, stop: StopSignals
    ) -> Ready | None:
        """None when a signal came first; then only what was ready by then is left of it."""
        shown = observer()

        def stopping() -> None:
            shown.close()
            tell("stopping…")

        work = launch(
            self._sessions,
            user,
            source,
            wishes,
            shown,
            self._backend,
            self._plan,
            derived_image=self._derived_image,
            workspace=self._workspace,
            keep_first=self._keep_first,
            begun=self._has_begun,
        )
        try:
            return await stop.or_until(work, stopping)
        except ToolError as error:
            shown.close()
            raise self._failed(error, shown) from error
        finally:
            shown.close()

    def _has_begun(self, record: SessionRecord) -> None:
        self._begun = record

    async def _tell_left(self, source: Source) -> None:
        """What a start that was interrupted has left: somebody may work in it as soon as it is ready."""
        left = await self._seen(self._begun) if self._begun else None
        if left is None:
            tell(f"nothing is kept: it was not ready, and its files were only a copy of {source.name}")
        elif self._remove or left.record.state is not State.STOPPED:
            await self._end_as_asked(left.record)
        else:
            session = left.record.session_id
            directory = self._sessions.paths.workspace_dir(left.record.user_id, session)
            tell(self._kept(session, str(directory) if directory.is_dir() else "a save of its workspace"))

    def _failed(self, error: ToolError, shown: Shown) -> Exception:
        """With the failed program's last lines, unless they stand above already."""
        refused = as_refused(error)
        lines = error.details.get("output")
        if refused is None or not isinstance(lines, list) or not shown.showed(lines):
            return error
        shorter = Refused(error.message, refused.body)
        shorter.as_json = self._options.as_json
        return shorter

    async def _show(self, ready: Ready, source: Source) -> None:
        if self._options.as_json:
            print_json(as_data(ready))
            return
        async with self._sessions.client(ready.record) as client:
            example = await _example(client)
        down = self._options.command("down", ready.record.session_id)
        end = f"It runs on; end it by: {down}" if self._detach else "Ctrl-C stops everything."
        click.echo(summary(ready, source.name, example, end))

    @contextlib.asynccontextmanager
    async def _autosaving(self, record: SessionRecord) -> AsyncIterator[None]:
        """Meanwhile it is saved every so often; one that is under way is broken off at the end."""
        if self.autosave_seconds is None:
            yield
            return
        from orchestrator.autosaving import Autosaver

        saver = Autosaver(
            self._sessions,
            lambda done: tell(f"{done.record.session_id} {done.sentence}"),
            user=record.user_id,
            only=record.session_id,
            target=lambda _: self.autosave_to,
        )
        saving = asyncio.create_task(saver.watch(self.autosave_seconds))
        saving.add_done_callback(_tell_why)
        try:
            yield
        finally:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)

    async def _watch(self, record: SessionRecord, stop: StopSignals) -> None:
        """Until a signal comes, or the sandbox is gone or going.

        A connection tells the end at once; that it was lost proves nothing, for a laptop may have slept.
        """
        while not stop.came() and await self._goes_on(record):
            with contextlib.suppress(Unavailable):
                async with self._sessions.client(record) as client:
                    await stop.or_until(client.wait_closed())
            if not stop.came() and await self._goes_on(record):
                await stop.or_until(asyncio.sleep(_RECONNECT_SECONDS))

    async def _goes_on(self, record: SessionRecord) -> bool:
        """Also when nobody knows: an engine that is being started anew has lost no sandbox."""
        try:
            seen = await self._seen(record)
        except Busy as error:  # the registry was in use for long
            return self._is_not_known(error.message)
        if seen is None or seen.record.state not in _GOING_ON:
            return False
        return self._is_not_known(seen.unknown) if seen.unknown else seen.alive

    def _is_not_known(self, why: str) -> bool:
        if why != self._not_known:
            tell(f"state unknown, asking on: {why}")
        self._not_known = why
        return True

    async def _seen(self, record: SessionRecord) -> Seen | None:
        sessions = await self._sessions.list(record.user_id, stopped=True)
        return next((each for each in sessions if each.record.session_id == record.session_id), None)

    async def _end_as_asked(self, record: SessionRecord) -> int:
        code = await self._end(record)
        if self._remove:
            await self._sessions.remove_log(record)
        return code

    async def _end(self, record: SessionRecord) -> int:
        tell("stopping…")
        outcome = await self._sessions.end(record, keep_files=not self._remove)
        if outcome.kept:
            tell(self._kept(record.session_id, outcome.kept))
        refuse_survivors(outcome.survivors)
        return 0

    def _kept(self, session: str, place: str) -> str:
        """Where the files are, a directory or a save, and what can be done about it."""
        lines = [f"files kept in {place}", f"  go on with them: {self._options.command('resume', session)}"]
        if Path(place).is_dir():
            lines.append(f"  remove them:     {self._options.command('down', session, '--remove')}")
        return "\n".join(lines)

    async def _gone(self, record: SessionRecord) -> int:
        """It ended, and not by us."""
        seen = await self._seen(record)
        if seen is None or seen.record.state not in _GOING_ON:
            tell("stopped by another `workspace down`")
            return 0
        await self._end(record)
        raise Refused(f"the tool server ended; its log is {self._sessions.log_path(record)}")


def _tell_why(saving: asyncio.Task[None]) -> None:
    """It goes on until it is cancelled; anything else a person has to know at once."""
    if not saving.cancelled() and (error := saving.exception()) is not None:
        tell(f"autosaving has stopped: {error}; save by `workspace save`")


async def _example(client: Client) -> str | None:
    """A file to read."""
    entries = (await client.list()).entries
    # A name that is not UTF-8 is listed with marks in it, and is not found by them.
    names = [entry.path for entry in entries if entry.kind is Kind.FILE and "\ufffd" not in entry.path]
    return next((name for name in (*_EXAMPLES, *names) if name in names), None)
