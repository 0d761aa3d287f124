r"""Patches in the V4A envelope, which carry context and no line numbers.

    *** Begin Patch
    *** Add File: PATH            then lines that begin with +
    *** Delete File: PATH
    *** Update File: PATH         then, if it is to have another name, *** Move to: PATH, then hunks
    @@ LINE ABOVE                 an anchor; several in a row stand for one below the other
     kept / -removed / +added     an empty line is an empty one that is kept
    *** End of File               the hunk's old lines are the file's last
    *** End Patch

A hunk that removes and keeps nothing is put below its anchor, or at the end of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol.errors import InvalidRequest
from toolserver.tools.editing.hunks import Hunk
from toolserver.tools.editing.patches import Added, Deleted, Section, Updated

BEGIN, END = "*** Begin Patch", "*** End Patch"
_ADD, _DELETE, _UPDATE = "*** Add File: ", "*** Delete File: ", "*** Update File: "
_MOVE, _END_OF_FILE = "*** Move to: ", "*** End of File"
_NUMBERED = re.compile(r"@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@ ?(.*)")
"""A unified diff's head, which some write here: its numbers mean nothing in this envelope."""


def is_v4a(patch: str) -> bool:
    r"""
    >>> is_v4a("\n*** Begin Patch\n"), is_v4a("--- a\n+++ b\n")
    (True, False)
    """
    return patch.lstrip().startswith(BEGIN)


def sections(patch: str) -> list[Section]:
    """What the patch does, file by file; raises InvalidRequest naming the patch's line."""
    return _Reader(patch).read()


@dataclass
class _Reader:
    patch: str

    def __post_init__(self) -> None:
        lead = len(self.patch) - len(self.patch.lstrip())
        self._skipped = self.patch.count("\n", 0, lead)
        self._lines = [line.removesuffix("\r") for line in self.patch.strip().split("\n")]
        self._at = 1

    def read(self) -> list[Section]:
        if self._lines[-1].rstrip() != END:
            raise InvalidRequest(
                f"the patch does not end with {END!r}: it was cut short, or lacks its last line",
                field="patch",
            )
        found: list[Section] = []
        while self._at < len(self._lines) - 1:
            found.append(self._section())
        if not found:
            raise self._wrong("the patch changes no file", 1)
        return found

    def _section(self) -> Section:
        line = self._next()
        for head, read in ((_ADD, self._added), (_DELETE, self._deleted), (_UPDATE, self._updated)):
            if line.startswith(head):
                if not (path := line[len(head) :].strip()):
                    raise self._wrong("a file's name is missing")
                return read(path)
        raise self._wrong(
            f"{line[:80]!r} begins no file; write {_UPDATE!r}, {_ADD!r} or {_DELETE!r} and a path"
        )

    def _added(self, path: str) -> Section:
        lines = []
        while (line := self._peek()) is not None and not line.startswith("*** "):
            self._next()
            if not line.startswith("+"):
                raise self._wrong("a line of a file to add does not begin with '+'")
            lines.append(line[1:] + "\n")
        return Added(path, "".join(lines))

    def _deleted(self, path: str) -> Section:
        return Deleted(path)

    def _updated(self, path: str) -> Section:
        first, to = self._at, None
        line = self._peek()
        if line is not None and line.startswith(_MOVE):
            to = self._next()[len(_MOVE) :].strip()
            if not to:
                raise self._wrong("a file's name is missing")
        hunks: list[Hunk] = []
        while (line := self._peek()) is not None and (not line.startswith("*** ") or line == _END_OF_FILE):
            hunks.append(self._hunk())
        if not hunks and to is None:
            raise self._wrong(f"the update of {path!r} has no hunk", first)
        return Updated(path, tuple(hunks), to)

    def _hunk(self) -> Hunk:
        source = self._at + 1 + self._skipped
        anchors = self._anchors()
        old, new = list[str](), list[str]()
        changes = False
        while (line := self._peek()) is not None and not line.startswith(("*** ", "@@")):
            self._next()
            mark, text = line[:1] or " ", line[1:] + "\n"
            if mark not in " +-":
                raise self._wrong(f"{line[:80]!r} begins with neither ' ', '-' nor '+'")
            old += [text] if mark != "+" else []
            new += [text] if mark != "-" else []
            changes = changes or mark != " "
        at_end = self._peek() == _END_OF_FILE
        if at_end:
            self._next()
        if not changes:
            raise self._wrong("a hunk neither removes nor adds a line", source - self._skipped)
        return Hunk(tuple(old), tuple(new), source, anchors=anchors, at_end=at_end)

    def _anchors(self) -> tuple[str, ...]:
        anchors = []
        while (line := self._peek()) is not None and line.startswith("@@"):
            self._next()
            numbered = _NUMBERED.fullmatch(line)
            anchor = numbered[1] if numbered else line[2:].removeprefix(" ")
            anchors += [anchor] if anchor.strip() else []
        return tuple(anchors)

    def _peek(self) -> str | None:
        return self._lines[self._at] if self._at < len(self._lines) - 1 else None

    def _next(self) -> str:
        self._at += 1
        return self._lines[self._at - 1]

    def _wrong(self, what: str, line: int | None = None) -> InvalidRequest:
        number = (self._at if line is None else line) + self._skipped
        return InvalidRequest(f"line {number} of the patch: {what}", field="patch", patch_line=number)
