"""A terminal's screen at the newest byte, drawn when somebody asks and at no other time.

Between two looks nothing is emulated: output is only recorded. A look feeds what came since the last one; of
more than a bound it feeds the end, which fills any screen many times over, and of the rest it
takes the modes that the terminal is left in. So a look costs the same after a kilobyte and after a gigabyte,
and what it misses is a line that was drawn long ago and never again, on a screen without an end of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from toolserver.system.output import OutputLog
from toolserver.system.screen import Screen
from toolserver.system.threads import whole

_FED_BYTES_PER_CELL = 16
"""A screen drawn anew costs one to five bytes a cell, colours ten; so this is one and more of any."""
_MIN_FED_BYTES, _MAX_FED_BYTES = 64 * 1024, 256 * 1024
"""0.06 to 0.25 s of emulation; the least is 30 screens of 80 x 24."""
_MAX_SKIPPED_BYTES = 16 * 1024 * 1024
"""Searched for modes; older ones are as the last look left them."""
_SKIP_PIECE = 1024 * 1024
_MAX_SIZES = 256


@dataclass(frozen=True)
class Drawing:
    """The screen with all output before ``offset`` in it."""

    offset: int
    cols: int
    rows: int
    data: bytes


class View:
    """One terminal's output and sizes. Belongs to the event loop's thread."""

    def __init__(self, log: OutputLog, size: tuple[int, int]) -> None:
        self.size = size
        """(columns, rows)."""
        self.viewers = 0
        self._log = log
        self._first_size = size
        self._sizes: deque[tuple[int, tuple[int, int]]] = deque(maxlen=_MAX_SIZES)
        """From which byte on it had which size, as far as no look has used them yet."""
        self._resized = asyncio.Event()
        self._turn = asyncio.Lock()
        self._screen: Screen | None = None
        self._fed = 0

    def resize(self, size: tuple[int, int]) -> None:
        """It has this size from here on."""
        self.size = size
        self._sizes.append((self._log.end, size))
        self._resized.set()
        self._resized = asyncio.Event()

    async def wait_resized(self, seen: tuple[int, int]) -> None:
        """Until it has another size than ``seen``."""
        while self.size == seen:
            await self._resized.wait()

    async def drawing(self) -> Drawing:
        """As it is now. Looks at the same time take turns, and the second has little left to do."""
        async with self._turn:
            end, size = self._log.end, self.size
            end -= _cut(self._log.read(max(0, end - 3), 3).data)
            if self._screen is None:
                self._screen = await whole(Screen, *self._first_size)
            if end - self._fed > self._bound or self._log.start > self._fed:
                await self._skip(self._screen, end)
            while self._fed < end:
                await self._feed(self._screen, end)
            self._apply_sizes(self._screen, end)
            data = await whole(self._screen.drawn)
            return Drawing(end, *size, data)

    @property
    def _bound(self) -> int:
        """Bytes that are fed at most."""
        cells = self.size[0] * self.size[1]
        return min(max(_MIN_FED_BYTES, cells * _FED_BYTES_PER_CELL), _MAX_FED_BYTES)

    async def _feed(self, screen: Screen, end: int) -> None:
        """Up to the next change of size, or to ``end``."""
        self._apply_sizes(screen, self._fed)
        until = min((offset for offset, _ in self._sizes if self._fed < offset < end), default=end)
        piece = self._log.read(self._fed, until - self._fed)
        self._fed = piece.offset + len(piece.data)
        await whole(screen.feed, piece.data)

    async def _skip(self, screen: Screen, end: int) -> None:
        target = max(end - self._bound, self._log.start)
        at = max(self._fed, target - _MAX_SKIPPED_BYTES)
        while at < target:
            piece = self._log.read(at, min(_SKIP_PIECE, target - at))
            if not piece.data:
                break
            at = piece.offset + len(piece.data)
            await whole(screen.skip, piece.data)
        # From the beginning of a line, where there is one: a sequence is not to be cut.
        rest = self._log.read(target, _SKIP_PIECE).data
        self._fed = target + rest.find(b"\n") + 1
        self._apply_sizes(screen, self._fed)
        await whole(screen.clear)

    def _apply_sizes(self, screen: Screen, offset: int) -> None:
        """Those that it had by ``offset``; the last one counts."""
        size = None
        while self._sizes and self._sizes[0][0] <= offset:
            size = self._sizes.popleft()[1]
        if size is not None:
            screen.resize(*size)


def _cut(tail: bytes) -> int:
    """How many bytes at the end of ``tail`` are a character that is not all there: its rest is yet to come.

    >>> _cut(b"abc"), _cut("aé".encode()), _cut("a漢".encode()[:-1]), _cut(b"ab\\xe6")
    (0, 0, 2, 1)
    """
    for back in range(1, len(tail) + 1):
        byte = tail[-back]
        if byte & 0xC0 != 0x80:
            length = (
                2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
            )
            return back if length > back else 0
    return 0
