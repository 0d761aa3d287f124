"""Which part of a file an answer holds: rules on bytes, fed block by block, so that any size is taken.

Lines end at line feeds, as ripgrep and editors count them. What a limit leaves out is told, never dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.errors import InvalidRequest
from toolserver.tools.follow import whole_characters

_NAMED_LINES = 20


@dataclass(frozen=True)
class Bounds:
    """Limits on one answer; None is none."""

    max_bytes: int
    max_lines: int | None = None
    max_line_bytes: int | None = None


@dataclass
class Lines:
    """Takes a file's blocks in order and keeps the lines from ``first`` to ``last``.

    >>> lines = Lines(2, 3, Bounds(max_bytes=100))
    >>> for block in (b"one\\ntw", b"o\\nthree\\nfo", b"ur"): lines.feed(block)
    >>> lines.content, lines.last_kept, lines.is_done
    (b'two\\nthree\\n', 3, True)
    """

    first: int
    last: int | None
    """None for the end of the file."""
    bounds: Bounds
    cut_by: list[str] = field(default_factory=list)
    cut_lines: list[int] = field(default_factory=list)
    is_done: bool = False
    """Nothing that comes later is wanted."""
    _line: int = 1
    _kept: bytearray = field(default_factory=bytearray)
    _in_line: int = 0
    """Bytes kept of the current line."""
    _counted: int = 0

    @property
    def content(self) -> bytes:
        """What is kept, cut between characters."""
        return bytes(_trimmed(self._kept) if "maxBytes" in self.cut_by else self._kept)

    @property
    def last_kept(self) -> int:
        """The last line of which something is kept; one before ``first`` when there is none."""
        return self.first - 1 + self._counted

    def feed(self, block: bytes) -> None:
        """Take the next block."""
        at = 0
        while at < len(block) and not self.is_done:
            if self._line < self.first:
                at = self._pass_over(block, at)
                continue
            feed = block.find(b"\n", at)
            end = feed + 1 if feed >= 0 else len(block)
            self._take(block, at, end, feed >= 0)
            at = end

    def _pass_over(self, block: bytes, at: int) -> int:
        """Skip to the first line that is wanted, many lines at a time."""
        missing = self.first - self._line
        ends = block.count(b"\n", at)
        if ends < missing:
            self._line += ends
            return len(block)
        for _ in range(missing):
            at = block.index(b"\n", at) + 1
        self._line = self.first
        return at

    def _take(self, block: bytes, at: int, end: int, ended: bool) -> None:
        if self._in_line == 0 and not self._begin_line():
            return
        wanted = block[at : end - 1 if ended else end]
        self._keep_of_line(wanted)
        if ended and not self.is_done:
            self._keep(b"\n")
            self._line += 1
            self._in_line = 0
            if self.last is not None and self._line > self.last:
                self.is_done = True

    def _begin_line(self) -> bool:
        most = self.bounds.max_lines
        if most is not None and self._counted >= most:
            self.cut_by.append("maxLines")
            self.is_done = True
            return False
        self._counted += 1
        return True

    def _keep_of_line(self, wanted: bytes) -> None:
        most = self.bounds.max_line_bytes
        before = self._in_line
        self._in_line += len(wanted)
        room = len(wanted) if most is None else max(0, most - before)
        self._keep(wanted[:room])
        if len(wanted) > room and not self.is_done:
            self._note_cut_line()

    def _note_cut_line(self) -> None:
        if "maxLineBytes" not in self.cut_by:
            self.cut_by.append("maxLineBytes")
        if len(self.cut_lines) < _NAMED_LINES and self._line not in self.cut_lines:
            self.cut_lines.append(self._line)
        self._kept = _trimmed(self._kept)

    def _keep(self, data: bytes) -> None:
        room = self.bounds.max_bytes - len(self._kept)
        self._kept += data[:room]
        if len(data) > room:
            self.cut_by.append("maxBytes")
            self.is_done = True


def _trimmed(kept: bytearray) -> bytearray:
    """Without what is left of a cut character at the end."""
    tail = kept[-4:]
    return kept[: len(kept) - len(tail) + whole_characters(bytes(tail))]


def range_of_bytes(size: int, offset: int | None, length: int | None) -> tuple[int, int]:
    """First byte and number of bytes; raises InvalidRequest for a range that begins past the end.

    >>> range_of_bytes(10, -3, None), range_of_bytes(10, 4, 99), range_of_bytes(0, 0, None)
    ((7, 3), (4, 6), (0, 0))
    """
    first = 0 if offset is None else offset if offset >= 0 else max(0, size + offset)
    if first > size:
        raise InvalidRequest(f"the file has {size} bytes, none at {first}", field="offset", size=size)
    if length is not None and length < 0:
        raise InvalidRequest("'length' is 0 or more", field="length")
    return first, min(size - first, size if length is None else length)
