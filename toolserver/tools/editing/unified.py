r"""Unified diffs, as diff and git write them: ``---``, ``+++``, ``@@ -1,3 +1,4 @@``.

``/dev/null`` on one side creates or deletes. Of git's own lines, modes and renames count; copies and binary
patches are refused. A head without numbers (``@@ @@``) is taken: its hunk goes where its old lines are.
Otherwise the numbers must agree with the lines, so that a diff that was cut short changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from protocol.errors import InvalidRequest
from toolserver.tools.editing.hunks import Hunk
from toolserver.tools.editing.patches import Added, Deleted, Section, Updated

_HEAD = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*", re.DOTALL)
_NOWHERE = "/dev/null"
_GIT = "diff --git "
_REFUSED = ("copy from ", "copy to ", "GIT binary patch", "Binary files ")
_ESCAPE = re.compile(r'\\([0-7]{3}|[abtnvfr"\\])')
_ESCAPED = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}


def sections(patch: str) -> list[Section]:
    """What the diff does, file by file; raises InvalidRequest naming the diff's line."""
    return _Reader(patch).read()


def file_name(shown: str) -> str:
    r"""A name out of a head line: up to its time, and out of git's quotes.

    >>> file_name("b/a b\t2026-01-01"), file_name('"b/\\303\\251\\t"')
    ('b/a b', 'b/é\t')
    """
    if not shown.startswith('"'):
        return shown.partition("\t")[0].rstrip("\r\n")
    inner = shown[1 : shown.rindex('"')] if shown.count('"') > 1 else shown[1:]
    parts, at = b"", 0
    for escape in _ESCAPE.finditer(inner):
        code = escape[1]
        byte = int(code, 8) & 0xFF if len(code) == 3 else _ESCAPED[code]
        parts += inner[at : escape.start()].encode() + bytes([byte])
        at = escape.end()
    return (parts + inner[at:].encode()).decode(errors="surrogateescape")


@dataclass
class _File:
    """One file's head, as far as it was read."""

    line: int
    old: str | None = None
    new: str | None = None
    rename_from: str | None = None
    rename_to: str | None = None
    mode: int | None = None
    is_new: bool = False
    is_gone: bool = False
    hunks: list[Hunk] = field(default_factory=list)


class _Reader:
    def __init__(self, patch: str) -> None:
        lines = patch.split("\n")
        heads = [line for line in lines if line.startswith(("--- ", "+++ ", "@@ "))]
        if heads and all(line.endswith("\r") for line in heads):  # the way here has changed all line ends
            lines = [line.removesuffix("\r") for line in lines]
        self._lines = lines[:-1] if lines[-1] == "" else lines
        self._at = 0

    def read(self) -> list[Section]:
        found = []
        while (begun := self._file()) is not None:
            found.append(self._section(begun))
        if not found:
            raise InvalidRequest(
                "the patch is neither a unified diff nor begins with '*** Begin Patch'; "
                "write '--- a/PATH', '+++ b/PATH', then hunks",
                field="patch",
            )
        return found

    def _file(self) -> _File | None:
        """The next file's head and hunks; text before it means nothing."""
        found = None
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith(_GIT):
                if found is not None:
                    return found
                found = _File(self._at + 1)
                self._names_of_git(found, line)
            elif self._begins_names():
                if found is not None and found.hunks:
                    return found
                found = found or _File(self._at + 1)
                self._names(found)
                self._hunks(found)
                return found
            elif found is not None:
                self._word_of_git(found, line)
            elif line.startswith("@@ ") or line == "@@":
                raise self._wrong("a hunk without '--- a/PATH' and '+++ b/PATH' before it")
            self._at += 1
        return found

    def _begins_names(self) -> bool:
        lines = self._lines[self._at : self._at + 2]
        return len(lines) == 2 and lines[0].startswith("--- ") and lines[1].startswith("+++ ")

    def _names_of_git(self, found: _File, line: str) -> None:
        """For files without a hunk, whose names stand nowhere else."""
        rest = line[len(_GIT) :]
        half = len(rest) // 2
        if rest[half : half + 1] == " " and rest[2:half] == rest[half + 3 :]:
            found.old, found.new = rest[:half], rest[half + 1 :]

    def _word_of_git(self, found: _File, line: str) -> None:
        if line.startswith(_REFUSED):
            raise self._wrong(
                f"{line[:40]!r}: copies and binary changes cannot be applied; use 'copy' or 'write'"
            )
        words = line.rsplit(" ", 1)
        if line.startswith(("new file mode ", "new mode ", "deleted file mode ")):
            found.is_new |= line.startswith("new file")
            found.is_gone |= line.startswith("deleted")
            if words[1][-3:] in ("755", "644"):
                found.mode = None if found.is_gone else int(words[1][-3:], 8)
            if words[1].startswith("12"):
                raise self._wrong("links cannot be patched; use 'command' with ln")
        elif line.startswith("rename from "):
            found.rename_from = file_name(line[12:])
        elif line.startswith("rename to "):
            found.rename_to = file_name(line[10:])

    def _names(self, found: _File) -> None:
        found.old = file_name(self._lines[self._at][4:])
        found.new = file_name(self._lines[self._at + 1][4:])
        self._at += 2

    def _hunks(self, found: _File) -> None:
        while self._at < len(self._lines) and self._lines[self._at].startswith("@@"):
            found.hunks.append(self._hunk())
        if not found.hunks and not (found.rename_to or found.mode):
            raise self._wrong("'@@ -1,3 +1,4 @@' was expected here")

    def _hunk(self) -> Hunk:
        head = _HEAD.fullmatch(self._lines[self._at])
        self._at += 1
        source = self._at
        counts = None
        if head is not None:
            counts = [1 if each is None else int(each) for each in (head[2], head[4])]
        body = _Body()
        while self._at < len(self._lines) and not body.has(counts):
            line = self._lines[self._at]
            if counts is None and (line.startswith(("@@", _GIT)) or self._begins_names()):
                break
            if not body.take(line):
                if counts is None:
                    raise self._wrong(f"{line[:80]!r} begins with neither ' ', '-' nor '+'")
                break
            self._at += 1
        while self._at < len(self._lines) and self._lines[self._at].startswith("\\"):
            body.take(self._lines[self._at])
            self._at += 1
        if counts is not None and (more := self._rest_of_hunk(counts, body)):
            raise self._wrong(more, source)
        if not body.changes:
            raise self._wrong("a hunk neither removes nor adds a line", source)
        line_number = int(head[1]) if head is not None else None
        return body.hunk(source, line_number)

    def _rest_of_hunk(self, counts: list[int], body: _Body) -> str:
        have = [len(body.old), len(body.new)]
        following = self._lines[self._at] if self._at < len(self._lines) else ""
        if have == counts and (following[:1] not in " +-" or not following or self._begins_names()):
            return ""
        if have == counts and following in ("-- ", "--"):  # a mail's signature
            return ""
        if have == counts:
            have = [have[0] + (following[0] != "+"), have[1] + (following[0] != "-")]
        more = " or more" if have != [len(body.old), len(body.new)] else ""
        return (
            f"the hunk's head tells of {counts[0]} old and {counts[1]} new lines, and it has {have[0]} and "
            f"{have[1]}{more}; correct the numbers, or write '@@ @@'"
        )

    def _section(self, found: _File) -> Section:
        old, new = _stripped(found.old, "a/"), _stripped(found.new, "b/")
        if found.is_new or old == _NOWHERE:
            return self._added(found, new)
        if found.is_gone or new == _NOWHERE:
            return Deleted(self._named(found, old), tuple(found.hunks))
        if found.rename_from is not None and found.rename_to is not None:
            return Updated(found.rename_from, tuple(found.hunks), found.rename_to, found.mode)
        if not found.hunks and found.mode is None:
            raise self._wrong("this file's head is followed by no change", found.line)
        return Updated(self._named(found, new), tuple(found.hunks), None, found.mode)

    def _added(self, found: _File, path: str | None) -> Section:
        if any(hunk.old for hunk in found.hunks) or len(found.hunks) > 1:
            raise self._wrong("a new file has no old lines, and one hunk", found.line)
        content = "".join(line for hunk in found.hunks for line in hunk.new)
        return Added(self._named(found, path), content, found.mode)

    def _named(self, found: _File, path: str | None) -> str:
        if not path or path == _NOWHERE:
            raise self._wrong("a file's name is missing", found.line)
        return path

    def _wrong(self, what: str, line: int | None = None) -> InvalidRequest:
        number = self._at + 1 if line is None else line
        return InvalidRequest(f"line {number} of the patch: {what}", field="patch", patch_line=number)


class _Body:
    """A hunk's lines, as they come."""

    def __init__(self) -> None:
        self.old: list[str] = []
        self.new: list[str] = []
        self.changes = False
        self._leading = self._trailing = 0
        self._last = ""

    def has(self, counts: list[int] | None) -> bool:
        return counts == [len(self.old), len(self.new)]

    def take(self, line: str) -> bool:
        """Whether ``line`` belongs to a hunk."""
        mark, text = line[:1] or " ", line[1:] + "\n"
        if mark == "\\":
            self._without_end()
            return True
        if mark not in " +-" or line == "\r":
            return False
        if mark != "+":
            self.old.append(text)
        if mark != "-":
            self.new.append(text)
        self._count(mark)
        self._last = mark
        return True

    def _count(self, mark: str) -> None:
        if mark != " ":
            self.changes, self._trailing = True, 0
        elif self.changes:
            self._trailing += 1
        else:
            self._leading += 1

    def _without_end(self) -> None:
        if self.old and self._last in " -":
            self.old[-1] = self.old[-1].removesuffix("\n")
        if self.new and self._last in " +":
            self.new[-1] = self.new[-1].removesuffix("\n")

    def hunk(self, source: int, line: int | None) -> Hunk:
        return Hunk(
            tuple(self.old),
            tuple(self.new),
            source,
            line,
            leading=self._leading,
            trailing=self._trailing,
        )


def _stripped(name: str | None, prefix: str) -> str | None:
    """
    >>> _stripped("a/src/x", "a/"), _stripped("src/x", "a/"), _stripped("/dev/null", "b/")
    ('src/x', 'src/x', '/dev/null')
    """
    return None if name is None else name.removeprefix(prefix)
