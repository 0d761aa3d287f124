"""terminal_open, terminal_attach, resize, terminals: one program, one screen, any number of people.

The program's output is recorded once, by the process table; a viewer only reads along, each at its own pace.
Who is further behind than a bound is not sent what he missed, which on a terminal is stale, but the screen as
it is. The first screen is drawn in the same way, so a viewer who comes late sees what the others see.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

from protocol.errors import Busy, Conflict, InvalidRequest, NotFound
from protocol.limits import Limits
from protocol.messages.base import Encoding
from protocol.messages.commands import Command
from protocol.messages.terminals import (
    Resize,
    ResizeAnswer,
    Resized,
    TerminalAttach,
    TerminalAttachAnswer,
    TerminalOpen,
    TerminalOpenAnswer,
    TerminalOutput,
    TerminalRecord,
    Terminals,
    TerminalsAnswer,
    TerminalScreen,
)
from toolserver.system.disk import Disk
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.viewing import View
from toolserver.tools.call import Call
from toolserver.tools.follow import PIECE_BYTES, text_of, whole_characters
from toolserver.tools.shell import command_argv, resolved

_TERM = "xterm-256color"
_SHELLS = ("bash", "sh")
_END_SECONDS = 2.0
"""Between the end of a terminal and that of its program: a turn of the loop, or a busy machine."""


class SharedTerminals:
    """The handlers."""

    def __init__(self, table: ProcessTable, disk: Disk, env: Mapping[str, str], limits: Limits) -> None:
        self._table = table
        self._disk = disk
        self._env = env
        self._limits = limits
        self._names: dict[str, Process] = {}
        self._starting = asyncio.Lock()
        self._views: WeakKeyDictionary[Process, View] = WeakKeyDictionary()

    async def terminal_open(self, request: TerminalOpen, call: Call) -> TerminalOpenAnswer:
        """Start it, or find the one of that name."""
        _refuse_size(request.cols, request.rows)
        if request.name is not None and not 0 < len(request.name) <= 128:
            raise InvalidRequest("'name' must have 1 to 128 characters", field="name")
        if (found := self._named(request.name)) is not None:
            return self._opened(found, request.name, created=False)
        env = {**self._env, "TERM": _TERM, **request.env}
        path = self._disk.path(request.cwd)
        argv, cwd = await asyncio.to_thread(self._looked_up, request, path, env)
        async with self._starting:
            # Another request of the same name may have been quicker.
            if (found := self._named(request.name)) is not None:
                return self._opened(found, request.name, created=False)
            process = await self._table.start_soon(
                argv, cwd=cwd, env=env, pty=(request.cols, request.rows), shown_cwd=path
            )
            self._table.give_way(process)
            if request.name is not None:
                self._names = {
                    name: each for name, each in self._names.items() if self._table.find(each.id) is each
                }
                self._names[request.name] = process
        return self._opened(process, request.name, created=True)

    async def terminal_attach(self, request: TerminalAttach, call: Call) -> TerminalAttachAnswer:
        """Show it, and what becomes of it."""
        if request.from_offset is not None and request.from_offset < 0:
            raise InvalidRequest("'fromOffset' must be 0 or more", field="fromOffset")
        process = self._found(request.terminal)
        view = self._view(process)
        if not call.streaming:
            drawing = await view.drawing()
            return self._answer(process, view, text_of(drawing.data, request.encoding))
        with self._viewing(view), process.stdout.being_read():
            await self._show(process, view, request, call)
            await _ended(process)
        return self._answer(process, view, None)

    async def resize(self, request: Resize, call: Call) -> ResizeAnswer:
        """Tell the kernel, which tells the programs; then the viewers."""
        _refuse_size(request.cols, request.rows)
        process = self._found(request.process_id)
        view = self._view(process)
        if process.input is None or not process.input.resize(request.cols, request.rows):
            raise Conflict(f"the program of {process.id!r} has ended", process_id=process.id)
        view.resize((request.cols, request.rows))
        return ResizeAnswer(process_id=process.id, cols=request.cols, rows=request.rows)

    async def terminals(self, request: Terminals, call: Call) -> TerminalsAnswer:
        """What runs on a terminal."""
        running = [each for each in self._table.all() if each.running and each.terminal_size]
        return TerminalsAnswer(terminals=[self._record(each) for each in running])

    # Which one ------------------------------------------------------------------------------------

    def _named(self, name: str | None) -> Process | None:
        process = None if name is None else self._names.get(name)
        return process if process is not None and process.running else None

    def _found(self, terminal: str) -> Process:
        process = self._names.get(terminal)
        if process is not None and self._table.find(process.id) is process:
            return process
        self._names.pop(terminal, None)
        if self._table.find(terminal) is None:
            raise NotFound(f"there is no terminal {terminal!r}; 'terminals' lists them", terminal=terminal)
        return self._table.get(terminal)

    def _view(self, process: Process) -> View:
        if process.terminal_size is None:
            raise Conflict(
                f"{process.id!r} runs without a terminal; start it with 'terminal_open', or with 'pty'",
                process_id=process.id,
            )
        if process not in self._views:
            self._views[process] = View(process.stdout, process.terminal_size)
        return self._views[process]

    def _name_of(self, process: Process) -> str | None:
        return next((name for name, each in self._names.items() if each is process), None)

    def _looked_up(self, request: TerminalOpen, path: str, env: Mapping[str, str]) -> tuple[list[str], str]:
        """What to run and where; blocks."""
        cwd = self._disk.directory(self._disk.path(path))
        if request.command is None and request.argv is None:
            found = (resolved([name], env, cwd) for name in _SHELLS)
            return next((argv for argv in found if "/" in argv[0]), ["/bin/sh"]), cwd
        asked = Command(command=request.command, argv=request.argv, env=request.env)
        return resolved(command_argv(asked, env), env, cwd), cwd

    # Showing it -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _viewing(self, view: View) -> Iterator[None]:
        if view.viewers >= self._limits.max_viewers:
            raise Busy(
                f"{view.viewers} viewers see this terminal, which is the limit",
                limit="maxViewers",
                value=self._limits.max_viewers,
            )
        view.viewers += 1
        try:
            yield
        finally:
            view.viewers -= 1

    async def _show(self, process: Process, view: View, request: TerminalAttach, call: Call) -> None:
        shown = _Shown(view)
        sizes = asyncio.create_task(_tell_sizes(view, call, shown))
        try:
            await self._tell_output(process, view, request, call, shown)
        finally:
            sizes.cancel()
            await asyncio.gather(sizes, return_exceptions=True)

    async def _tell_output(
        self, process: Process, view: View, request: TerminalAttach, call: Call, shown: _Shown
    ) -> None:
        log, encoding = process.stdout, request.encoding
        position = request.from_offset
        if position is None:
            position = await _tell_screen(view, call, encoding, None, shown)
        while True:
            await log.wait_past(position)
            limit = log.end if log.settled is not None else None
            if limit is not None and position >= limit:
                return
            if log.end - position > self._limits.max_viewer_lag_bytes or log.start > position:
                position = await _tell_screen(view, call, encoding, position, shown)
                continue
            piece = log.read(position, PIECE_BYTES)
            data = piece.data
            if encoding is Encoding.UTF8 and (limit is None or position + len(data) < limit):
                data = data[: whole_characters(data)]
            if not data:
                await log.wait_past(position + len(piece.data))
                continue
            after = position + len(data)
            told = TerminalOutput(offset=position, next_offset=after, data=text_of(data, encoding))
            await call.emit(told)
            position = after
            # Where the viewer has room nothing above waits, and everybody else is to have a turn too.
            await asyncio.sleep(0)

    # Answers --------------------------------------------------------------------------------------

    def _opened(self, process: Process, name: str | None, created: bool) -> TerminalOpenAnswer:
        cols, rows = self._view(process).size
        return TerminalOpenAnswer(
            process_id=process.id, name=name, pid=process.pid, cols=cols, rows=rows, created=created
        )

    def _answer(self, process: Process, view: View, screen: str | None) -> TerminalAttachAnswer:
        end = process.exit
        return TerminalAttachAnswer(
            process_id=process.id,
            name=self._name_of(process),
            running=process.running,
            exit_code=end.code if end else None,
            signal=end.signal if end else None,
            cols=view.size[0],
            rows=view.size[1],
            offset=process.stdout.end,
            screen=screen,
        )

    def _record(self, process: Process) -> TerminalRecord:
        view = self._view(process)
        return TerminalRecord(
            process_id=process.id,
            name=self._name_of(process),
            argv=process.argv,
            cols=view.size[0],
            rows=view.size[1],
            viewers=view.viewers,
            started=process.started.isoformat(),
        )


class _Shown:
    """Which size one viewer was told last."""

    def __init__(self, view: View) -> None:
        self.size = view.size
        self.turn = asyncio.Lock()
        """A size that it gets while a screen of the one before is drawn is told after that."""


async def _tell_screen(view: View, call: Call, encoding: Encoding, behind: int | None, shown: _Shown) -> int:
    """The screen; gives the offset to go on from. ``behind`` is where the viewer was, if anywhere."""
    async with shown.turn:
        drawing = await view.drawing()
        shown.size = drawing.cols, drawing.rows
        await call.emit(
            TerminalScreen(
                offset=drawing.offset,
                cols=drawing.cols,
                rows=drawing.rows,
                data=text_of(drawing.data, encoding),
                skipped_bytes=0 if behind is None else max(0, drawing.offset - behind),
            )
        )
    return drawing.offset


async def _tell_sizes(view: View, call: Call, shown: _Shown) -> None:
    while True:
        await view.wait_resized(shown.size)
        async with shown.turn:
            if shown.size != view.size:
                shown.size = view.size
                await call.emit(Resized(cols=shown.size[0], rows=shown.size[1]))


def _refuse_size(cols: int, rows: int) -> None:
    if not (1 <= cols <= 1000 and 1 <= rows <= 1000):
        raise InvalidRequest("a terminal has 1 to 1000 columns and rows", field="cols")


async def _ended(process: Process) -> None:
    """A terminal closes a moment before its program is gone; one that lives on without it is told as such."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
