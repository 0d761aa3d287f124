"""The dev server's log: one row of bytes over all runs, from one ``dev_start`` to the next.

Each run's output stays where its process keeps it; here is only which run begins at which offset.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocol.messages.base import Log
from toolserver.system.output import OutputLog, Piece
from toolserver.tools.call import Call
from toolserver.tools.follow import whole_characters

_KEPT_RUNS = 20
"""Runs whose output can be read; more come only from a dev server that ends again and again."""
_PIECE_BYTES = 64 * 1024


@dataclass
class _Run:
    output: OutputLog
    base: int
    """Offset of its first byte."""
    size: int | None = None
    """Once another run follows: what its children write then is not in here any more."""

    @property
    def end(self) -> int:
        return self.base + (self.output.end if self.size is None else self.size)


class DevLog:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque(maxlen=_KEPT_RUNS)
        self._begun = 0

    @property
    def empty(self) -> bool:
        """Nothing was started yet."""
        return not self._runs

    @property
    def begin_of_run(self) -> int:
        """Offset of the newest run's first byte."""
        return self._runs[-1].base if self._runs else 0

    @property
    def end(self) -> int:
        """Offset of the byte that comes next."""
        return self._runs[-1].end if self._runs else 0

    def begin(self, output: OutputLog) -> None:
        """A new log, with this run."""
        self._begun += 1
        self._runs.clear()
        self._runs.append(_Run(output, 0))

    def go_on(self, output: OutputLog) -> None:
        """The next run, after those before."""
        base = self.end
        if self._runs:
            self._runs[-1].size = base - self._runs[-1].base
        self._runs.append(_Run(output, base))

    def read(self, offset: int, max_bytes: int) -> Piece:
        """From ``offset`` on, of one run; what is no longer kept is told as missing."""
        missing = 0
        for run in self._runs:
            if offset < run.end or run is self._runs[-1]:
                skipped = max(0, run.base - offset)
                at = max(0, offset - run.base)
                piece = run.output.read(at, min(max_bytes, max(0, run.end - run.base - at)))
                if piece.data or run is self._runs[-1]:
                    return Piece(run.base + piece.offset, piece.data, missing + skipped + piece.missing)
                # Its record is gone, and its output with it.
                missing, offset = missing + skipped + run.end - run.base - at, run.end
        return Piece(0, b"")

    def read_on(self, offset: int, max_bytes: int) -> Piece:
        """The same over all runs, as far as nothing is missing between them, cut at a whole character."""
        first = self.read(offset, max_bytes)
        data, end = first.data, first.offset + len(first.data)
        while len(data) < max_bytes and end < self.end:
            more = self.read(end, max_bytes - len(data))
            if more.missing or not more.data:
                break
            data, end = data + more.data, end + len(more.data)
        whole = whole_characters(data) if end < self.end else len(data)
        return Piece(first.offset, data[: whole or len(data)], first.missing)

    async def follow(self, call: Call, offset: int, next_run: Callable[[], Awaitable[bool]]) -> int:
        """Tell all from ``offset`` on, run after run; the offset where it ended.

        ``next_run`` waits until there may be more, and says False once there will be none.
        """
        begun, position = self._begun, min(offset, self.end)
        while begun == self._begun:
            told = await self._tell(call, position)
            if told == position and not await self._more(position, next_run):
                break
            position = told
            # Where the caller has room nothing above waits, and everybody else is to have a turn too.
            await asyncio.sleep(0)
        return position

    async def _tell(self, call: Call, position: int) -> int:
        """The next piece, cut at whole characters while more is to come; the offset after it."""
        piece = self.read(position, _PIECE_BYTES)
        run = next((each for each in self._runs if piece.offset < each.end), self._runs[-1])
        is_over = run.size is not None or run.output.settled is not None
        is_last = is_over and piece.offset + len(piece.data) >= run.end
        data = piece.data if is_last else piece.data[: whole_characters(piece.data)]
        after = piece.offset + len(data)
        if data:
            text = data.decode(errors="replace")
            await call.emit(Log(source="dev_server", text=text, next_offset=after))
        return after

    async def _more(self, position: int, next_run: Callable[[], Awaitable[bool]]) -> bool:
        run = self._runs[-1]
        if run.output.settled is not None:
            return position < run.end or await next_run()
        # Past what is there: it may be the first bytes of a character.
        await run.output.wait_past(max(run.end, position) - run.base)
        return True
