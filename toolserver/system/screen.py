"""What a terminal shows: an emulator fed with its output, and the bytes that draw the same elsewhere.

The emulator is pyte: small, pure Python, in maintenance for years and so without surprises. It is slow
(1 MB/s) and raises on some sequences that it does not know, so it is loaded when first needed, fed on a
thread and only when somebody wants to see (``viewing``), and an error costs the piece it was in. Replaying
raw output instead would be free, and wrong as soon as what is shown was written before the replay begins.
The alternate screen of editors and pagers, which pyte lacks, is kept here.
"""

from __future__ import annotations

import copy
import re
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyte.screens import Char

_ALTERNATE = frozenset((47, 1047, 1049))
_RESTORED = (1, 5, 6, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 2004)
"""Private modes that a viewer's terminal has to be in too: cursor keys, mouse, focus, bracketed paste."""
_TEXT = {"bold": 1, "italics": 3, "underscore": 4, "blink": 5, "reverse": 7, "strikethrough": 9}
_PLAIN = "\x1b[0m"
_PIECE = 1024
_BREATH_SECONDS = 0.0001
"""After a piece, which takes a millisecond: emulation is pure Python, and the event loop wants its turn."""
_SET_MODE = re.compile(rb"\x1b\[\?[\d;]{1,40}[hl]")
_KEYBOARD = re.compile(rb"\x1b\[[<=>?][\d;:]*[mu]")
"""About a keyboard's modifiers; pyte would take some of them for colours."""
_CLEAR = b"\x1b[0m\x1b[r\x1b[H\x1b[2J"


class Screen:
    """The emulator. Slow: to be used on a thread, by one at a time."""

    def __init__(self, cols: int, rows: int) -> None:
        import pyte

        self._pyte: Any = pyte
        self._screen: Any = _emulator()(cols, rows)
        self._stream: Any = pyte.ByteStream(self._screen)

    def feed(self, data: bytes) -> None:
        """Take what a program wrote."""
        data = _KEYBOARD.sub(b"", data)
        for at in range(0, len(data), _PIECE):
            time.sleep(_BREATH_SECONDS)
            try:
                self._stream.feed(data[at : at + _PIECE])
            except Exception:
                # A sequence it does not know ends its parser; the screen is as good as it was.
                self._stream = self._pyte.ByteStream(self._screen)

    def skip(self, data: bytes) -> None:
        """Take of ``data`` only which modes it leaves the terminal in, a hundred times as fast."""
        self.feed(b"".join(_SET_MODE.findall(data))[-64 * 1024 :])

    def clear(self) -> None:
        """Nothing is known of what it shows."""
        self.feed(_CLEAR)

    def resize(self, cols: int, rows: int) -> None:
        """As a terminal does: lines go at the top, columns at the right."""
        self._screen.resize_both(rows, cols)

    def drawn(self) -> bytes:
        """Bytes that make a terminal of this size show the same, whatever it showed before."""
        screen = self._screen
        parts = ["\x1b[?1049l\x1b[!p\x1b[?25l\x1b[0m\x1b[r\x1b[2J"]
        if screen.covered is not None:
            buffer, cursor = screen.covered
            parts += [
                _rows(buffer, screen.lines, screen.columns),
                _placed(cursor, buffer, screen.columns),
                "\x1b[?1049h\x1b[0m\x1b[2J",
            ]
        parts.append(_rows(screen.buffer, screen.lines, screen.columns))
        if screen.title:
            parts.append(f"\x1b]2;{''.join(filter(str.isprintable, screen.title))}\x07")
        if screen.margins is not None:
            parts.append(f"\x1b[{screen.margins.top + 1};{screen.margins.bottom + 1}r")
        parts += [f"\x1b[?{mode}h" for mode in _RESTORED if mode << 5 in screen.mode and mode not in (5, 6)]
        if 7 << 5 not in screen.mode:
            parts.append("\x1b[?7l")
        parts.append(_placed(screen.cursor, screen.buffer, screen.columns))
        parts.append("" if screen.cursor.hidden else "\x1b[?25h")
        return "".join(parts).encode()


def _rows(buffer: Any, lines: int, columns: int) -> str:
    told = ((y, _cells(buffer[y], columns)) for y in range(lines))
    return "".join(f"\x1b[{y + 1};1H{cells}" for y, cells in told if cells) + _PLAIN


def whole_cells(line: Any, columns: int) -> list[Char]:
    """A line's cells. Half of a wide character is blank once the other half is written over."""
    from wcwidth import wcwidth

    cells = [line[x] for x in range(columns)]
    wide = [bool(cell.data) and wcwidth(cell.data[0]) == 2 for cell in cells]
    for x, cell in enumerate(cells):
        cut = wide[x] and (x + 1 == columns or cells[x + 1].data)
        if cut or (not cell.data and (x == 0 or not wide[x - 1])):
            cells[x] = cell._replace(data=" ")
            wide[x] = False
    return cells


def _cells(line: Any, columns: int) -> str:
    """One line, without the blank end that an erased one has anyway."""
    blank, parts, style, last = " ", [], "", 0
    for cell in whole_cells(line, columns):
        if (wanted := _style(cell)) != style:
            parts.append(wanted or "\x1b[0m")
            style = wanted
        # The second cell of a wide character holds nothing.
        parts.append(cell.data)
        if cell.data != blank or wanted:
            last = len(parts)
    return "".join([*parts[:last], _PLAIN]) if last else ""


def _style(cell: Char) -> str:
    """How to switch to a cell's colours and attributes from any; empty for the default."""
    codes = [str(code) for name, code in _TEXT.items() if getattr(cell, name)]
    codes += [_colour(cell.fg, 38), _colour(cell.bg, 48)]
    told = ";".join(code for code in codes if code)
    return f"\x1b[0;{told}m" if told else ""


def _colour(name: str, kind: int) -> str:
    """A colour's parameters; ``kind`` is 38 for the foreground, 48 for the background.

    >>> _colour("red", 38), _colour("brightblue", 48), _colour("ff8000", 38), _colour("default", 48)
    ('31', '104', '38;2;255;128;0', '')
    """
    names = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")
    if name in names:
        return str(kind - 8 + names.index(name))
    # Bright magenta has a letter of its own in pyte.
    bright = name.replace("bfight", "bright").removeprefix("bright")
    if bright != name and bright in (*names, "yellow"):
        return str(kind + 52 + names.index("brown" if bright == "yellow" else bright))
    if re.fullmatch(r"[0-9a-fA-F]{6}", name):
        return f"{kind};2;" + ";".join(str(int(name[at : at + 2], 16)) for at in (0, 2, 4))
    return ""


def _placed(cursor: Any, buffer: Any, columns: int) -> str:
    """The cursor and its style. It gets past the last column only by a character that is written there."""
    style = _style(cursor.attrs) or _PLAIN
    if cursor.x < columns:
        return f"{style}\x1b[{cursor.y + 1};{cursor.x + 1}H"
    line = buffer[cursor.y]
    cells = whole_cells(line, columns)
    x = columns - 1 if cells[-1].data else columns - 2
    return f"\x1b[{cursor.y + 1};{x + 1}H{_style(cells[x]) or _PLAIN}{cells[x].data}{style}"


_EMULATOR: list[type] = []


def _emulator() -> type:
    """pyte's screen with an alternate one, made when pyte is first needed."""
    if not _EMULATOR:
        _EMULATOR.append(_made())
    return _EMULATOR[0]


def _made() -> type:
    import pyte

    class Emulator(pyte.Screen):
        covered: tuple[Any, Any] | None = None
        """The main screen's cells and cursor, while the alternate one is shown."""

        def reset(self) -> None:
            self.covered = None
            super().reset()

        def set_mode(self, *modes: int, **kwargs: Any) -> None:
            if kwargs.get("private") and _ALTERNATE & set(modes) and self.covered is None:
                self.covered = self.buffer, copy.copy(self.cursor)
                self.buffer = type(self.buffer)(self.buffer.default_factory)  # type: ignore[attr-defined]
            super().set_mode(*(mode for mode in modes if mode not in _ALTERNATE), **kwargs)

        def reset_mode(self, *modes: int, **kwargs: Any) -> None:
            if kwargs.get("private") and _ALTERNATE & set(modes) and self.covered is not None:
                self.buffer, self.cursor = self.covered
                self.covered = None
            super().reset_mode(*(mode for mode in modes if mode not in _ALTERNATE), **kwargs)

        def select_graphic_rendition(self, *attrs: int, **kwargs: Any) -> None:
            # Private ones are about a keyboard's modifiers, and no colours.
            if not kwargs.get("private"):
                super().select_graphic_rendition(*attrs)

        def report_device_status(self, mode: int = 0, **kwargs: Any) -> None:
            """Questions are for a viewer's own terminal to answer."""

        def resize_both(self, lines: int, columns: int) -> None:
            before = self.lines, self.columns
            if self.covered is not None:
                shown = self.buffer, self.cursor
                self.buffer, self.cursor = self.covered
                self._resize(lines, columns)
                self.covered = self.buffer, self.cursor
                self.buffer, self.cursor = shown
                self.lines, self.columns = before
            self._resize(lines, columns)

        def _resize(self, lines: int, columns: int) -> None:
            self.resize(lines, columns)
            self.ensure_hbounds()
            self.ensure_vbounds()

    return Emulator
