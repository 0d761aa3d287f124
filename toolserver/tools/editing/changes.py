"""Edits applied to files in memory, one after the other, each to what those before it have left.

Files are told apart by their real path, so that two names of one file are one file. Nothing is changed until
all of it holds: whoever holds the result has the whole content of every file, before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from protocol.errors import AlreadyExists, InvalidRequest, NoMatch, NotFound
from protocol.messages.edits import AppliedEdit, EditKind, FileEdit, Rung
from protocol.paths import WorkspacePath
from toolserver.tools.editing import matching
from toolserver.tools.editing.documents import (
    Document,
    document_of,
    has_final_end,
    lines_of,
    tidied,
    unmarked,
    with_ending,
)
from toolserver.tools.editing.hunks import SHOWN_LINES, ambiguous, hint, patched, unclear
from toolserver.tools.editing.patches import Added, Deleted, Section, Updated
from toolserver.tools.editing.splices import Splice, spliced
from toolserver.tools.editing.steps import kind_of, patch_sections
from toolserver.tools.text import line_range

_INSERTED_LINE_HELP = "lines count from 1; 0 inserts at the top, -1 at the end"


@dataclass(frozen=True)
class Act:
    """One thing to be done."""

    edit: int
    """Of the request's edits, from 0."""
    what: FileEdit | Section | Splice

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it names, as it names them."""
        to = getattr(self.what, "to", None)
        return tuple(each for each in (self.what.path, to) if each is not None)

    @property
    def is_of_the_name(self) -> bool:
        """Whether it is the entry that is meant, not what a link there leads to."""
        what = self.what
        if isinstance(what, FileEdit):
            return kind_of(what) in (EditKind.DELETE, EditKind.MOVE)
        return isinstance(what, Deleted) or (isinstance(what, Updated) and what.to is not None)


@dataclass
class File:
    """A file in memory."""

    path: WorkspacePath
    data: bytes
    origin: WorkspacePath
    """Where it was before the request; itself when it was nowhere."""
    mode: int | None = None
    document: Document | None = None
    """Its text once somebody has asked for it; then ``data`` is behind."""

    @property
    def text(self) -> Document:
        """Raises NotAFile for what is none."""
        if self.document is None:
            self.document = document_of(self.path, self.data)
        return self.document

    @property
    def content(self) -> bytes:
        """As it is by now."""
        return self.data if self.document is None else self.document.encoded(self.path)


@dataclass
class Planned:
    """Files by real path, before and after, and how each edit found its place."""

    before: Mapping[WorkspacePath, bytes]
    after: dict[WorkspacePath, File] = field(default_factory=dict)
    applied: list[AppliedEdit] = field(default_factory=list)
    places: dict[WorkspacePath, int] = field(default_factory=dict)
    """How many places changed in a file."""


def acts_of(edits: Sequence[FileEdit]) -> list[Act]:
    """The request's edits, with each patch taken apart."""
    acts: list[Act] = []
    for number, edit in enumerate(edits):
        parts = patch_sections(edit.patch) if edit.patch is not None else [edit]
        acts += [Act(number, part) for part in parts]
    return acts


def plan(
    acts: Sequence[Act], names: Mapping[str, WorkspacePath], before: Mapping[WorkspacePath, bytes]
) -> Planned:
    """What ``acts`` make of the files ``before``; ``names`` has the real path of each path they name.

    Raises NoMatch, AmbiguousMatch, AlreadyExists, NotFound, NotAFile, InvalidRequest.
    """
    planned = Planned(before)
    planned.after = {path: File(path, data, path) for path, data in before.items()}
    for act in acts:
        _Applying(planned, names, act).apply()
    return planned


class _Applying:
    """One act on its way."""

    def __init__(self, planned: Planned, names: Mapping[str, WorkspacePath], act: Act) -> None:
        self._planned = planned
        self._names = names
        self._act = act

    def apply(self) -> None:
        match self._act.what:
            case FileEdit() as edit:
                _KINDS[kind_of(edit)](self, edit)
            case Added() as added:
                self._create(added.path, added.content, overwrite=False, mode=added.mode)
            case Deleted() as deleted:
                self._deleted(deleted)
            case Updated() as updated:
                self._updated(updated)
            case Splice() as splice:
                self._spliced(splice)

    def replace(self, edit: FileEdit) -> None:
        file = self._file(edit.path)
        text, old, new = file.text.text, unmarked(edit.old_text or ""), unmarked(edit.new_text or "")
        spans, rung = _chosen(file.path, text, old, edit)
        parts: list[str] = []
        cursor, put = 0, ""
        for span in spans:
            if rung is not Rung.EXACT or not parts:  # of an exact match, the same everywhere
                put = _fitted(file.path, text, span, old, new, rung)
            parts += [text[cursor : span[0]], put]
            cursor = span[1]
        file.document = file.text.with_text("".join([*parts, text[cursor:]]))
        self._tell(file, _line_numbers(text, [start for start, _ in spans]), rung, len(spans))

    def replace_lines(self, edit: FileEdit) -> None:
        file = self._file(edit.path)
        lines = lines_of(file.text.text)
        end = edit.start_line if edit.end_line is None else edit.end_line
        first, last = line_range(len(lines), edit.start_line, end)
        self._put_lines(file, first - 1, last, edit.new_text or "")

    def insert(self, edit: FileEdit) -> None:
        file = self._file(edit.path)
        total, after = len(lines_of(file.text.text)), edit.after_line or 0
        at = total + 1 + after if after < 0 else after
        if not 0 <= at <= total:
            raise InvalidRequest(
                f"line {after} of {file.path!r} does not exist, it has {total}; {_INSERTED_LINE_HELP}",
                field="afterLine",
                total_lines=total,
            )
        self._put_lines(file, at, at, edit.new_text or "")

    def create(self, edit: FileEdit) -> None:
        self._create(edit.path or "", edit.content or "", overwrite=edit.overwrite, mode=None)

    def delete(self, edit: FileEdit) -> None:
        self._remove(self._file(edit.path))

    def move(self, edit: FileEdit) -> None:
        self._move(self._file(edit.path), edit.to or "", overwrite=edit.overwrite)

    def _put_lines(self, file: File, first: int, last: int, new: str) -> None:
        """``new`` in place of the lines from index ``first`` up to ``last``."""
        document = file.text
        lines, added = lines_of(document.text), lines_of(with_ending(unmarked(new), document.ending))
        if added and last < len(lines) and not added[-1].endswith("\n"):
            added[-1] += document.ending
        final = has_final_end(document.text) if document.text else None
        made = [*lines[:first], *added, *lines[last:]]
        file.document = document.with_text(tidied(made, document.ending, has_final_end=final))
        self._tell(file, [first + 1])

    def _create(self, name: str, content: str, *, overwrite: bool, mode: int | None) -> None:
        path = self._names[name]
        there = self._planned.after.get(path)
        if there is not None and not overwrite:
            raise AlreadyExists(f"{name!r} is there already; edit it, or say 'overwrite'", path=name)
        file = File(path, _utf8(content), path, there.mode if there is not None else None)
        file.mode = file.mode if mode is None else mode
        self._planned.after[path] = file
        self._tell(file, [1])

    def _deleted(self, deleted: Deleted) -> None:
        file = self._file(deleted.path)
        if deleted.hunks:
            rest, _ = patched(file.path, file.text.text, deleted.hunks)
            if rest:
                raise NoMatch(
                    f"{file.path!r} has more lines than the patch deletes; read it again", path=file.path
                )
        self._remove(file)

    def _updated(self, updated: Updated) -> None:
        file = self._file(updated.path)
        if updated.hunks:
            text, places = patched(file.path, file.text.text, updated.hunks)
            file.document = file.text.with_text(text)
            for place in places:
                self._tell(file, [place.line], place.rung, 1, place.offset, place.fuzz)
        if updated.mode is not None:
            file.mode = updated.mode
        if updated.to is not None and self._names[updated.to] != file.path:
            self._move(file, updated.to, overwrite=False)

    def _spliced(self, splice: Splice) -> None:
        file = self._file(splice.path)
        file.data, file.document = spliced(splice, file.content), None
        self._planned.places[file.path] = len(splice.pieces)

    def _move(self, file: File, to: str, *, overwrite: bool) -> None:
        path = self._names[to]
        if path == file.path:
            raise InvalidRequest(f"{to!r} cannot be moved to itself", field="to", path=to)
        if path in self._planned.after and not overwrite:
            raise AlreadyExists(f"{to!r} is there already; remove it, or say 'overwrite'", path=to)
        self._remove(file)
        self._planned.places.pop(path, None)
        self._planned.places[path] = self._planned.places.pop(file.path, 0)
        file.path = path
        self._planned.after[path] = file

    def _remove(self, file: File) -> None:
        del self._planned.after[file.path]

    def _file(self, name: str | None) -> File:
        path = self._names[name or ""]
        file = self._planned.after.get(path)
        if file is None:
            raise NotFound(f"there is nothing at {name!r}; 'list' shows what there is", path=name)
        return file

    def _tell(
        self,
        file: File,
        lines: list[int],
        rung: Rung = Rung.EXACT,
        count: int = 1,
        offset: int = 0,
        fuzz: int = 0,
    ) -> None:
        told = AppliedEdit(
            edit=self._act.edit,
            path=file.path,
            lines=lines,
            rung=rung,
            count=count,
            offset=offset,
            fuzz=fuzz,
        )
        self._planned.applied.append(told)
        self._planned.places[file.path] = self._planned.places.get(file.path, 0) + count


_KINDS: dict[EditKind, Callable[[_Applying, FileEdit], None]] = {
    EditKind.REPLACE: _Applying.replace,
    EditKind.REPLACE_LINES: _Applying.replace_lines,
    EditKind.INSERT: _Applying.insert,
    EditKind.CREATE: _Applying.create,
    EditKind.DELETE: _Applying.delete,
    EditKind.MOVE: _Applying.move,
}


def _chosen(path: str, text: str, old: str, edit: FileEdit) -> tuple[list[matching.Span], Rung]:
    """The places to change; raises NoMatch, and AmbiguousMatch for another number than the caller means."""
    found = matching.find(text, old)
    if found is None:
        near = matching.nearest(text, old)
        raise NoMatch(f"old text does not occur in {path!r}{hint(near)}", path=path, nearest=list(near or ()))
    if edit.expected_count is None and not edit.replace_all:
        if len(found.spans) > 1:
            lines = _line_numbers(text, [start for start, _ in found.spans])
            advice = "add context or set replaceAll"
            raise ambiguous(path, lines, "old text", advice, len(found.spans))
        return found.spans, found.rung
    spans = found.apart()
    if edit.expected_count not in (None, len(spans)):
        lines = _line_numbers(text, [start for start, _ in spans])
        advice = f"{edit.expected_count} were expected"
        raise ambiguous(path, lines, "old text", advice, len(spans))
    return spans, found.rung


def _line_numbers(text: str, starts: Sequence[int]) -> list[int]:
    numbers, line, cursor = [], 1, 0
    for start in starts[:SHOWN_LINES]:
        line, cursor = line + text.count("\n", cursor, start), start
        numbers.append(line)
    return numbers


def _fitted(path: str, text: str, span: matching.Span, old: str, new: str, rung: Rung) -> str:
    try:
        return matching.fitted(text, span, old, new, rung)
    except matching.UnclearIndentation:
        raise unclear(path, matching.line_number(text, span[0])) from None


def _utf8(content: str) -> bytes:
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("'content' holds half a character", field="content") from None
