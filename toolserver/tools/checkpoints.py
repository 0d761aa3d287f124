"""checkpoint, checkpoints, checkpoint_diff, rollback, undo, redo.

A view is what some paths were or are. Everything here is two views beside each other: told as a diff, or made
true by one swap. Whatever goes back first keeps what it replaces, so that it can be undone itself.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from protocol.errors import InvalidRequest, NotFound, TooLarge, Unavailable
from protocol.limits import Limits
from protocol.messages.checkpoints import (
    ChangedKind,
    ChangedPath,
    Checkpoint,
    CheckpointAnswer,
    CheckpointDiff,
    CheckpointDiffAnswer,
    CheckpointEntry,
    Checkpoints,
    CheckpointsAnswer,
    Redo,
    Rollback,
    RollbackAnswer,
    Undo,
)
from protocol.paths import is_within
from toolserver.system.capture import Capture, TooMuch, glance
from toolserver.system.checkpoint_store import Damaged, Point, Store
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.mirror import Mirror, differing
from toolserver.system.past import ABSENT, Plan, State, directories_above, plan, same
from toolserver.system.restoring import carried_out
from toolserver.system.threads import whole
from toolserver.system.tree_index import MAX_DEPTH, Entry, TooMany, TreeIndex
from toolserver.system.watcher import Watcher
from toolserver.tools.call import Call
from toolserver.tools.text import as_text, printable
from toolserver.tools.undo import Undoing, told_unkept

NOW = "now"
_MAX_NAME = 200
_TOLD_CHANGES = 1000
_MAX_TEXT_BYTES = 1024 * 1024
"""Of one side of a diff: more lines than anybody reads."""

View = Mapping[str, State]


class CheckpointFamily:
    """The handlers."""

    def __init__(
        self,
        disk: Disk,
        state: Path,
        gate: Gate,
        watcher: Watcher,
        store: Store,
        undoing: Undoing,
        limits: Limits,
    ) -> None:
        self._disk = disk
        self._state = state
        self._gate = gate
        self._watcher = watcher
        self._store = store
        self._undoing = undoing
        self._limits = limits
        self._mirror = Mirror(disk, store, limits)
        self._turn = asyncio.Lock()
        undoing.known = self._mirror.by_identity

    async def checkpoint(self, request: Checkpoint, call: Call) -> CheckpointAnswer:
        """Keep the tree."""
        _refuse_name(request.name)
        async with self._turn, self._gate.shared():
            return await whole(self._checkpoint, request.name, await self._entries(), call)

    async def checkpoints(self, request: Checkpoints, call: Call) -> CheckpointsAnswer:
        """List them."""
        if request.limit < 1:
            raise InvalidRequest("'limit' is 1 or more", field="limit")
        return await asyncio.to_thread(self._checkpoints, request)

    async def checkpoint_diff(self, request: CheckpointDiff, call: Call) -> CheckpointDiffAnswer:
        """Two views beside each other."""
        paths = self._paths(request.paths)
        async with self._turn, self._gate.shared():
            entries = await self._entries()
            return await whole(self._diff, request, paths, entries)

    async def rollback(self, request: Rollback, call: Call) -> RollbackAnswer:
        """Make a view true."""
        paths = self._paths(request.paths)
        async with self._turn:
            point = await asyncio.to_thread(self._found, request.to)
            if point.whole:
                # What takes long is done beside the others; alone, only what has changed meanwhile is.
                await whole(self._mirror.refresh, await self._entries())
            async with self._gate.exclusive():
                entries = await self._entries() if point.whole else {}
                return await whole(self._rollback, point, paths, entries, request.dry_run, call)

    async def undo(self, request: Undo, call: Call) -> RollbackAnswer:
        """Back to before the last request."""
        async with self._turn, self._gate.exclusive():
            return await whole(self._undo, request, call)

    async def redo(self, request: Redo, call: Call) -> RollbackAnswer:
        """Back to before the last undo."""
        async with self._turn, self._gate.exclusive():
            return await whole(self._redo, request, call)

    async def close(self) -> None:
        """Let go of the store, once what is under way is done."""
        async with self._turn:
            await asyncio.to_thread(self._store.close)

    async def _entries(self) -> dict[str, Entry]:
        """All that is there: from the watcher's index, or where there can be none, by a walk."""
        try:
            return await self._watcher.entries()
        except Unavailable:
            return await whole(self._walked)

    def _walked(self) -> dict[str, Entry]:
        index = TreeIndex(self._disk.descriptor, self._limits.max_archive_entries)
        try:
            index.fill()
        except TooMany:
            most = self._limits.max_archive_entries
            raise TooLarge(
                f"the workspace has more than {most} entries; a checkpoint of so many is not kept",
                limit="maxArchiveEntries",
                value=most,
            ) from None
        return index.entries

    def _checkpoint(self, name: str | None, entries: dict[str, Entry], call: Call) -> CheckpointAnswer:
        store = self._store
        with store.capturing():
            states = self._mirror.refresh(entries)
            changed = differing(store.known(), states)
            self._refuse_too_much(states)
            files = sum(stat.S_ISREG(state.mode) for state in states.values())
            new = Point(
                0, True, name, "checkpoint", call.request_id, time.time_ns(), files, self._mirror.stored,
                told_unkept(states),
            )  # fmt: skip
            point = store.add_whole(new, changed)
        dropped = store.shrink() if store.is_over() else []
        told = msgspec.structs.asdict(_described(point))
        return CheckpointAnswer(**told, dropped=[str(each.id) for each in dropped])

    def _refuse_too_much(self, states: View) -> None:
        most = self._limits.max_checkpoint_bytes
        if self._store.bytes_kept() <= most:
            return
        contents = {state.content for state in states.values() if state.is_file and state.content}
        needed = self._store.bytes_of(contents)
        if needed > most:
            raise TooLarge(
                f"the workspace's content takes {needed} bytes, and maxCheckpointBytes is {most}; remove "
                "what need not be kept, or raise it",
                limit="maxCheckpointBytes",
                value=most,
                size=needed,
            )

    def _checkpoints(self, request: Checkpoints) -> CheckpointsAnswer:
        points = [each for each in self._store.points() if each.whole or request.automatic]
        return CheckpointsAnswer(
            checkpoints=[_described(each) for each in points[::-1][: request.limit]],
            total=len(points),
            bytes=self._store.bytes_kept(),
            max_bytes=self._limits.max_checkpoint_bytes,
            dropped=self._store.dropped(),
            set_aside=self._store.set_aside,
        )

    # ---- views

    def _found(self, wanted: str) -> Point:
        """By id, else the newest of that name; raises NotFound."""
        points = self._store.points()
        for point in reversed(points):
            if wanted in (str(point.id), point.name):
                return point
        near = ", ".join(repr(each.name or str(each.id)) for each in points[-5:])
        raise NotFound(
            f"there is no checkpoint {wanted[:_MAX_NAME]!r}; "
            + (f"the newest are {near}, and 'checkpoints' lists all" if near else "'checkpoint' makes one"),
            checkpoint=wanted[:_MAX_NAME],
        )

    def _diff(
        self, request: CheckpointDiff, paths: list[str], entries: dict[str, Entry]
    ) -> CheckpointDiffAnswer:
        with self._store.capturing():
            before, after = self._views(request, entries)
            found = list(_different(before, after, paths))
            room = self._limits.max_diff_bytes if request.diff else 0
            changes, cut = [], len(found) > _TOLD_CHANGES
            for path in found[:_TOLD_CHANGES]:
                old, new = before.get(path, ABSENT), after.get(path, ABSENT)
                diff = self._text_diff(path, old, new) if request.diff else None
                if diff is not None and len(diff) > room:
                    diff, cut = None, True
                room -= len(diff or "")
                changes.append(changed_path(path, old, new, diff))
        return CheckpointDiffAnswer(
            from_=request.from_, to=request.to, changes=changes, total=len(found), truncated=cut
        )

    def _views(self, request: CheckpointDiff, entries: dict[str, Entry]) -> tuple[View, View]:
        sides = [None if each == NOW else self._found(each) for each in (request.from_, request.to)]
        partial = [each for each in sides if each is not None and not each.whole]
        if not partial:
            views = [self._mirror.refresh(entries) if each is None else self._tree(each) for each in sides]
            return views[0], views[1]
        known = {each.id: self._store.before_all(each.id) for each in partial}
        paths = {path for view in known.values() for path in view}
        now = self._now(dict.fromkeys(paths, ABSENT), deep=False)
        found = [self._side(each, paths, known, now) for each in sides]
        return found[0], found[1]

    def _side(self, point: Point | None, paths: Iterable[str], known: Mapping[int, View], now: View) -> View:
        if point is None:
            return now
        view = self._tree(point) if point.whole else {**now, **known[point.id]}
        return {path: view.get(path, ABSENT) for path in paths}

    def _tree(self, point: Point) -> View:
        return self._store.tree_at(point.id)

    def _now(self, wanted: View, *, deep: bool = True) -> dict[str, State]:
        """What is there now, as far as it matters to what is wanted; contents are kept."""
        capture = self._undoing.capture()
        now: dict[str, State] = {}
        for path, state in sorted(wanted.items()):
            if path in now:
                continue
            if deep and not state.is_directory:
                now |= _below(capture, path)
            else:
                now[path] = capture.state(path)
            for above in directories_above(path):
                if above not in now:
                    now[above] = glance(self._disk, above)
        capture.flush()
        return now

    def _text_diff(self, path: str, old: State, new: State) -> str | None:
        if max(old.size, new.size) > _MAX_TEXT_BYTES or not any(each.is_file for each in (old, new)):
            return None
        texts = [self._text(path, each) for each in (old, new)]
        if texts[0] is None or texts[1] is None:
            return None
        from toolserver.tools.diff import unified_diff  # likewise by the first who asks

        return unified_diff(printable(path), texts[0], texts[1])

    def _text(self, path: str, state: State) -> str | None:
        if not state.exists or state.is_directory:
            return ""
        if not state.is_file or state.content is None:
            return None
        return as_text(self._store.get(state.content, path))

    # ---- going back

    def _rollback(
        self, point: Point, paths: list[str], entries: dict[str, Entry], dry_run: bool, call: Call
    ) -> RollbackAnswer:
        with self._store.capturing():
            view = self._tree(point) if point.whole else self._store.before_all(point.id)
            wanted = {path: state for path, state in view.items() if is_within(path, paths)}
            if point.whole:
                now: View = self._mirror.refresh(entries)
                missing = (path for path in now if path not in view and is_within(path, paths))
                wanted |= dict.fromkeys(missing, ABSENT)
                wanted |= _directories_of(wanted, now, view)
            else:
                now = self._now(wanted)
            staying = self._mirror.outside if point.whole else ()
            return self._go(point, "rollback", now, wanted, staying, dry_run, call)

    def _undo(self, request: Undo, call: Call) -> RollbackAnswer:
        point = self._undoing.last()
        return self._back(point, "undo", request, call)

    def _redo(self, request: Redo, call: Call) -> RollbackAnswer:
        point = self._undoing.last_undo()
        answer = self._back(point, "redo", request, call)
        if not request.dry_run and point.undoes is not None:
            self._store.mark_undone(point.undoes, False)
        return answer

    def _back(self, point: Point, cause: str, request: Undo | Redo, call: Call) -> RollbackAnswer:
        with self._store.capturing():
            wanted = self._store.befores(point.id)
            now = self._now(wanted)
            if not request.force:
                here = {path: now.get(path, ABSENT) for path in wanted}
                self._undoing.refuse_touched(point, here)
            answer = self._go(point, cause, now, wanted, (), request.dry_run, call)
            if not request.dry_run:
                self._store.mark_undone(point.id, True)
            return answer

    def _go(
        self,
        point: Point,
        cause: str,
        now: View,
        wanted: View,
        staying: Iterable[str],
        dry_run: bool,
        call: Call,
    ) -> RollbackAnswer:
        different = {path: state for path, state in wanted.items() if not same(now.get(path, ABSENT), state)}
        skipped = sorted(path for path, state in different.items() if state.is_unkept)
        for path in skipped:
            del different[path]
        planned = plan(now, different, [*staying, *skipped])
        befores = {path: now.get(path, ABSENT) for path in _touched(planned, now, different)}
        self._refuse_losing(befores)
        self._refuse_damaged(planned)
        number = None
        if not (dry_run or planned.is_empty):
            number = self._store.add_partial(
                cause, call.request_id, befores, undoes=point.id, unkept=told_unkept(befores)
            )
            self._carry_out(planned, number, befores)
        changes = [
            changed_path(path, before, planned.arriving.get(path, different.get(path, ABSENT)), None)
            for path, before in sorted(befores.items())[:_TOLD_CHANGES]
        ]
        return RollbackAnswer(
            checkpoint=str(point.id),
            cause=point.cause,
            undo_checkpoint=None if number is None else str(number),
            changes=changes,
            total=len(befores),
            skipped=[printable(path) for path in skipped],
        )

    def _carry_out(self, planned: Plan, number: int, befores: View) -> None:
        try:
            with carried_out(planned, self._disk, self._store, self._state):
                pass
        except BaseException:
            self._store.forget(number)
            raise
        self._undoing.settle(number, befores)

    def _refuse_losing(self, befores: View) -> None:
        """What goes back must lead back again: nothing is replaced that could not be kept."""
        unkept = sorted(path for path, state in befores.items() if state.is_unkept)
        if unkept:
            raise TooLarge(
                f"{printable(unkept[0])!r} would be replaced, and is too large to be kept "
                "(maxCheckpointFileBytes); move it away first, or name other 'paths'",
                paths=[printable(path) for path in unkept[:20]],
                limit="maxCheckpointFileBytes",
                value=self._limits.max_checkpoint_file_bytes,
            )

    def _refuse_damaged(self, planned: Plan) -> None:
        for path, state in planned.arriving.items():
            if state.is_file and self._store.size_of(state.content or b"") != state.size:
                raise Damaged(f"the kept content of {printable(path)!r} is gone; nothing was changed")

    def _paths(self, given: list[str]) -> list[str]:
        return [self._disk.path(each) for each in given] or ["."]


def _directories_of(wanted: View, now: View, view: View) -> dict[str, State]:
    """The directories that wanted paths lie in, as they were."""
    above = {each for path, state in wanted.items() if state.exists for each in directories_above(path)}
    return {each: view[each] for each in above if each in view and not now.get(each, ABSENT).is_directory}


def _touched(planned: Plan, now: View, different: View) -> set[str]:
    """Every path that a plan changes, and that is there before or after."""
    tops = {change.path for change in planned.changes}
    left = {change.path for change in planned.changes if change.leaves}
    found = {*tops, *planned.arriving, *planned.modes}
    for path, state in now.items():
        if state.exists and (path in left or any(above in left for above in directories_above(path))):
            found.add(path)
    return found


def _different(before: View, after: View, paths: list[str]) -> Iterable[str]:
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path, ABSENT), after.get(path, ABSENT)
        if old is not new and not same(old, new) and is_within(path, paths):
            yield path


def changed_path(path: str, old: State, new: State, diff: str | None) -> ChangedPath:
    """For an answer.

    >>> changed_path("a", ABSENT, State(0o100644, 3, b"x"), None).kind
    <ChangedKind.CREATED: 'created'>
    """
    return ChangedPath(
        path=printable(path),
        kind=_kind(old, new),
        mode_before=stat.S_IMODE(old.mode) if old.exists else None,
        mode_after=stat.S_IMODE(new.mode) if new.exists else None,
        size_before=old.size if old.exists else None,
        size_after=new.size if new.exists else None,
        diff=diff or None,
    )


def _kind(old: State, new: State) -> ChangedKind:
    if not old.exists:
        return ChangedKind.CREATED
    if not new.exists:
        return ChangedKind.DELETED
    is_mode = stat.S_IFMT(old.mode) == stat.S_IFMT(new.mode) and old.content == new.content
    return ChangedKind.MODE if is_mode and not old.is_unkept else ChangedKind.MODIFIED


def _described(point: Point) -> CheckpointEntry:
    return CheckpointEntry(
        id=str(point.id),
        name=point.name,
        created=datetime.fromtimestamp(point.created / 1e9, UTC).isoformat(),
        cause=point.cause,
        automatic=not point.whole,
        files=point.files,
        bytes=point.stored,
        request_id=point.request,
        undone=point.undone,
        incomplete=point.unkept,
    )


def _refuse_name(name: str | None) -> None:
    """
    >>> _refuse_name("12")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: 'name' is 1 to 200 characters, not digits alone and not 'now'
    """
    if name is not None and (not 0 < len(name) <= _MAX_NAME or name.isdecimal() or name == NOW):
        raise InvalidRequest(
            f"'name' is 1 to {_MAX_NAME} characters, not digits alone and not 'now'", field="name"
        )


def _below(capture: Capture, path: str) -> dict[str, State]:
    try:
        return capture.below(path)
    except TooMuch:
        raise TooLarge(
            f"{path!r} now holds directories deeper than {MAX_DEPTH}, which cannot be kept; remove it first",
            path=path,
            limit="maxArchiveDepth",
            value=MAX_DEPTH,
        ) from None
