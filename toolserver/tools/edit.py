"""edit: exact replacements in one file or several, all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import AmbiguousMatch, InvalidRequest, NoMatch, NotAFile, ToolError
from protocol.limits import Limits
from protocol.messages.edits import Edit, EditAnswer, EditedFile, Replacement
from protocol.paths import WorkspacePath
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.threads import whole
from toolserver.tools.call import Call
from toolserver.tools.diff import unified_diff
from toolserver.tools.files import read_within, refuse_stale, refuse_too_large
from toolserver.tools.locks import PathLocks
from toolserver.tools.text import as_text, content_hash

_Wanted = list[tuple[WorkspacePath, Replacement]]
_SHOWN_LINES = 20
"""Line numbers named in an error; more say nothing new."""


class Edits:
    """The handler."""

    def __init__(self, disk: Disk, gate: Gate, locks: PathLocks, limits: Limits) -> None:
        self._disk = disk
        self._gate = gate
        self._locks = locks
        self._limits = limits

    async def edit(self, request: Edit, call: Call) -> EditAnswer:
        """Plan every file first; only when all of it holds is anything written."""
        wanted = [(self._disk.path(each.path), each) for each in replacements(request)]
        async with self._gate.shared():
            files = await asyncio.to_thread(self._files, wanted)
            async with self._locks.hold(*files):
                return await whole(self._edit, files, request.dry_run)

    def _files(self, wanted: _Wanted) -> dict[WorkspacePath, _Wanted]:
        """The edits by the file that they really go to: a link and what it leads to are one file."""
        files: dict[WorkspacePath, _Wanted] = {}
        for path, edit in wanted:
            files.setdefault(self._disk.real_path(path), []).append((path, edit))
        return files

    def _edit(self, files: dict[WorkspacePath, _Wanted], dry_run: bool) -> EditAnswer:
        planned = [self._plan(edits) for edits in files.values()]
        # Before anything is written: the diff of a large change takes its time.
        answer = _answer(planned)
        if not dry_run:
            self._commit(planned)
        return answer

    def _plan(self, wanted: _Wanted) -> Edited:
        path, edits = wanted[0][0], [edit for _, edit in wanted]
        old = read_within(self._disk, path, self._limits.max_read_bytes)
        for each in edits:
            if each.expected_hash is not None:
                refuse_stale(path, old, True, each.expected_hash)
        text = as_text(old)
        if text is None:
            raise NotAFile(f"{path!r} is not UTF-8 text; replace it whole with 'write'", path=path)
        new, count = apply_replacements(path, text, edits)
        refuse_too_large(len(new.encode()), self._limits.max_write_bytes, "maxWriteBytes", path)
        return Edited(path, text, new, count)

    def _commit(self, planned: Sequence[Edited]) -> None:
        """Write all; when one cannot be written, those written before it get their old content back."""
        written: list[Edited] = []
        try:
            for each in planned:
                self._disk.replace(each.path, each.new.encode(), create_parents=False)
                written.append(each)
        except ToolError:
            for each in reversed(written):
                self._disk.replace(each.path, each.old.encode(), create_parents=False)
            raise


@dataclass(frozen=True)
class Edited:
    """One file, planned: the whole text before and after."""

    path: WorkspacePath
    old: str
    new: str
    replacements: int

    def described(self) -> EditedFile:
        """For the answer."""
        content = self.new.encode()
        return EditedFile(
            path=self.path,
            replacements=self.replacements,
            size=len(content),
            hash=content_hash(content),
            diff=unified_diff(self.path, self.old, self.new),
        )


def replacements(request: Edit) -> list[Replacement]:
    """The request's replacements, whichever way it gives them.

    >>> replacements(Edit())
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: give 'path', 'oldText' and 'newText', or a list in 'edits'
    """
    alone = (request.path, request.old_text, request.new_text)
    if request.edits:
        if any(value is not None for value in (*alone, request.expected_hash)) or request.replace_all:
            raise InvalidRequest(
                "give one edit by its own fields or several in 'edits', not both", field="edits"
            )
        return request.edits
    path, old_text, new_text = alone
    if path is None or old_text is None or new_text is None:
        raise InvalidRequest("give 'path', 'oldText' and 'newText', or a list in 'edits'", field="edits")
    return [
        Replacement(
            path=path,
            old_text=old_text,
            new_text=new_text,
            replace_all=request.replace_all,
            expected_hash=request.expected_hash,
        )
    ]


def apply_replacements(path: str, text: str, edits: Sequence[Replacement]) -> tuple[str, int]:
    """``text`` after each of ``edits`` in turn, and how many places changed.

    >>> every = Replacement(path="a", old_text="x", new_text="z", replace_all=True)
    >>> apply_replacements("a", "x y x", [every])
    ('z y z', 2)
    >>> apply_replacements("f", "x\\nx", [Replacement(path="f", old_text="x", new_text="z")])
    Traceback (most recent call last):
    protocol.errors.AmbiguousMatch: old text is in 'f' 2 times, on lines 1, 2; add context or set replaceAll
    """
    total = 0
    for each in edits:
        found = occurrences(text, each.old_text)
        if not each.old_text:
            raise InvalidRequest("'oldText' is empty; use 'write' to create a file", field="oldText")
        if not found:
            raise NoMatch(f"old text does not occur in {path!r}{_hint(text, each.old_text)}", path=path)
        if len(found) > 1 and not each.replace_all:
            raise _ambiguous(path, [line_number(text, at) for at in found])
        text = text.replace(each.old_text, each.new_text)
        total += len(found)
    return text, total


def occurrences(text: str, part: str) -> list[int]:
    """Where ``part`` begins, without overlap.

    >>> occurrences("aXbXX", "X"), occurrences("aaa", "aa")
    ([1, 3, 4], [0])
    """
    found = []
    at = text.find(part) if part else -1
    while at >= 0:
        found.append(at)
        at = text.find(part, at + len(part))
    return found


def line_number(text: str, at: int) -> int:
    """The line of position ``at``, from 1."""
    return text.count("\n", 0, at) + 1


def _ambiguous(path: str, lines: list[int]) -> AmbiguousMatch:
    named = ", ".join(map(str, lines[:_SHOWN_LINES])) + (", …" if len(lines) > _SHOWN_LINES else "")
    return AmbiguousMatch(
        f"old text is in {path!r} {len(lines)} times, on lines {named}; add context or set replaceAll",
        path=path,
        lines=lines[:_SHOWN_LINES],
        count=len(lines),
    )


def _hint(text: str, part: str) -> str:
    """What would help: the same text but for line ends or spaces, if it is there, with its line."""
    plain, wanted = _folded(text), _folded(part)
    at = plain.find(wanted) if wanted.strip() else -1
    if at < 0:
        return "; read the file again and copy the text exactly"
    line = line_number(plain, at)
    return f"; on line {line} it differs only in spaces or line ends, copy it exactly from there"


def _folded(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n"))


def _answer(edited: Sequence[Edited]) -> EditAnswer:
    files = [each.described() for each in edited]
    return EditAnswer(
        files=files,
        replacements=sum(each.replacements for each in files),
        diff="".join(each.diff for each in files),
        hash=files[0].hash if len(files) == 1 else None,
    )
