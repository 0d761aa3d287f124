"""A plan as its answer tells it, and as the disk is to be changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from protocol.errors import NotAFile
from protocol.messages.edits import EditedFile, FileAction
from protocol.paths import WorkspacePath
from toolserver.system.edit_journal import Write
from toolserver.tools import diff
from toolserver.tools.editing.changes import File, Planned
from toolserver.tools.editing.documents import document_of
from toolserver.tools.text import content_hash

Stats = Mapping[WorkspacePath, os.stat_result]


@dataclass(frozen=True)
class Result:
    """One file, before and after."""

    path: WorkspacePath
    shown: str
    """As the caller named it."""
    action: FileAction
    places: int
    old: bytes | None
    """What the diff begins from: for one that was moved, what it was where it came from."""
    new: bytes | None
    moved_from: WorkspacePath | None = None
    mode: int | None = None

    def write(self, seen: Stats) -> Write | None:
        """The change on disk, if there is one."""
        if self.action is FileAction.UNCHANGED:
            return None
        moved = None if self.moved_from is None else seen.get(self.moved_from)
        mode = self.mode
        if mode is None and moved is not None and self.path in seen:
            mode = stat.S_IMODE(moved.st_mode)
        is_same = moved is not None and self.new == self.old and self.mode is None
        source = self.moved_from if is_same else None
        return Write(self.path, self.new, seen.get(self.path), mode, source, moved)


def results(planned: Planned, shown: Mapping[WorkspacePath, str]) -> Iterator[Result]:
    """Every file that the request touched, in the order in which it names them."""
    before = planned.before
    origins = {file.origin: path for path, file in planned.after.items() if file.origin != path}
    for path, name in shown.items():
        file, old = planned.after.get(path), before.get(path)
        places = planned.places.get(path, 0)
        if file is not None:
            yield _result(planned, file, old, name, places)
        elif old is not None:
            if path not in origins:
                yield Result(path, name, FileAction.DELETED, max(places, 1), old, None)
            else:
                yield Result(path, name, FileAction.MOVED, 0, old, None)


def _result(planned: Planned, file: File, old: bytes | None, name: str, places: int) -> Result:
    new, origin = file.content, file.origin
    if origin != file.path and origin in planned.before:
        was = planned.before[origin]
        return Result(file.path, name, FileAction.MOVED, places, was, new, origin, file.mode)
    action = FileAction.CREATED if old is None else FileAction.MODIFIED
    if old == new and file.mode is None:
        action = FileAction.UNCHANGED
    return Result(file.path, name, action, places, old, new, None, file.mode)


def described(
    found: list[Result], shown: Mapping[WorkspacePath, str], max_diff_bytes: int
) -> Iterator[EditedFile]:
    """For the answer; a file that was moved is told once, where it is now."""
    room = max_diff_bytes
    for each in found:
        if each.action is FileAction.MOVED and each.new is None:
            continue
        origin = None if each.moved_from is None else shown[each.moved_from]
        text = diff_of(each, origin) if room > 0 else ""
        room -= len(text)
        is_long = room <= 0
        lines = text.split("\n") if text else []
        yield EditedFile(
            path=each.shown,
            replacements=each.places,
            size=len(each.new or b""),
            hash=None if each.new is None else content_hash(each.new),
            diff="" if is_long else text,
            action=each.action,
            moved_from=origin,
            added_lines=sum(line.startswith("+") and not line.startswith("+++ ") for line in lines),
            removed_lines=sum(line.startswith("-") and not line.startswith("--- ") for line in lines),
            diff_truncated=is_long,
        )


def diff_of(each: Result, origin: str | None) -> str:
    """A unified diff, empty for what is no text."""
    try:
        old, new = _text(each.shown, each.old), _text(each.shown, each.new)
    except NotAFile:
        return ""
    if each.action is FileAction.CREATED:
        return diff.created_diff(each.shown, new, 0o644 if each.mode is None else each.mode)
    if each.action is FileAction.DELETED:
        return diff.deleted_diff(each.shown, old)
    if origin is not None:
        return diff.moved_diff(origin, each.shown, old, new)
    return diff.unified_diff(each.shown, old, new)


def _text(path: str, data: bytes | None) -> str:
    if data is None:
        return ""
    document = document_of(path, data)
    return document.mark + document.text
