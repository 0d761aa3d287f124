"""edit: many changes to many files, planned in memory and then made in one step.

    read all -> plan (pure, see ``editing``) -> expected hashes -> commit (see ``edit_journal``)

From reading to commit the files' locks are held, so what was checked is what is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from protocol.errors import Conflict, NotAFile, NotFound, TooLarge, ToolError
from protocol.limits import Limits
from protocol.messages.edits import Edit, EditAnswer, EditedFile, FileEdit
from protocol.paths import ROOT, WorkspacePath
from toolserver.system import edit_journal
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.threads import whole
from toolserver.tools.call import Call
from toolserver.tools.diagnostics import Diagnostics
from toolserver.tools.files import refuse_stale, refuse_too_large
from toolserver.tools.locks import PathLocks

if TYPE_CHECKING:
    from toolserver.tools.editing.changes import Act, Planned
    from toolserver.tools.editing.described import Result

Around = Callable[..., contextlib.AbstractContextManager[None]]
"""``(request id, "edit", *real paths)``: the context, on a worker thread, in which these paths change."""
Mark = Callable[[Call, tuple[str, ...]], contextlib.AbstractContextManager[None]]
"""Makes the context in which a caller touches these paths."""
_MAX_TOLD = 1000
"""Edits told of one by one in an answer."""
_FRESH_BYTES = 64 * 1024
"""Of a file's content, and of the diff, that a conflict carries."""


async def load() -> None:
    """Have what reads and plans edits loaded, before it is imported where it is used.

    By the first who edits, on a thread: a few milliseconds, and half a MB that an idle daemon does not have.
    """
    if "toolserver.tools.editing.described" not in sys.modules:
        await asyncio.to_thread(importlib.import_module, "toolserver.tools.editing.described")


@dataclass
class Changed:
    """What came of a request."""

    planned: Planned
    results: list[Result]
    files: list[EditedFile]


@dataclass
class _Loaded:
    """The files that a request names, by real path."""

    shown: dict[WorkspacePath, str] = field(default_factory=dict)
    before: dict[WorkspacePath, bytes] = field(default_factory=dict)
    stats: dict[WorkspacePath, os.stat_result] = field(default_factory=dict)


class Edits:
    """The handler, and the way for others that change files as one."""

    def __init__(
        self,
        disk: Disk,
        state: Path,
        gate: Gate,
        locks: PathLocks,
        limits: Limits,
        mark: Mark = lambda *_: contextlib.nullcontext(),
        around: Around = lambda *_: contextlib.nullcontext(),
        dev: Diagnostics | None = None,
    ) -> None:
        self._disk = disk
        self._state = state
        self._gate = gate
        self._locks = locks
        self._limits = limits
        self._mark = mark
        self._around = around
        self._dev = dev

    async def edit(self, request: Edit, call: Call) -> EditAnswer:
        """Plan every file first; only when all of it holds is anything written."""
        await load()
        from toolserver.tools.editing.changes import acts_of
        from toolserver.tools.editing.steps import steps

        edits = steps(request)
        has_patch = any(each.patch is not None for each in edits)  # which may be long
        acts = await asyncio.to_thread(acts_of, edits) if has_patch else acts_of(edits)
        dev = self._dev if request.wait_for_dev and not request.dry_run else None
        number = await dev.listening() if dev is not None else 0
        changed = await self.change(acts, call, expected=edits, dry_run=request.dry_run)
        answer = _answer(changed)
        if dev is None:
            return answer
        told = await dev.feedback(number, [each.path for each in answer.files])
        return msgspec.structs.replace(answer, dev=told)

    async def change(
        self, acts: Sequence[Act], call: Call, *, expected: Sequence[FileEdit] = (), dry_run: bool = False
    ) -> Changed:
        """Make all of ``acts``, or none; ``expected`` are those whose hashes must hold."""
        async with self._gate.shared():
            names = self._names_now(acts)
            if names is None:
                names = await asyncio.to_thread(self._names, acts)
            # As tuples: what is held until the end is what was there at the beginning.
            paths = tuple(dict.fromkeys(names.values()))
            async with self._locks.hold(*paths):
                loaded, changed = await asyncio.to_thread(self._read_and_plan, acts, names, expected)
                if not dry_run:
                    await self._commit(changed, loaded, call)
                return changed

    async def _commit(self, changed: Changed, loaded: _Loaded, call: Call) -> None:
        found = [each.write(loaded.stats) for each in changed.results]
        writes = [each for each in found if each is not None]
        touched = [each.path for each in writes]
        if not writes:
            return
        with self._mark(call, tuple(touched)):
            await whole(self._write, call.request_id, writes)

    def _write(self, request_id: str, writes: Sequence[edit_journal.Write]) -> None:
        with self._around(request_id, "edit", *(each.path for each in writes)):
            edit_journal.commit(self._disk, self._state, writes)

    def _names(self, acts: Sequence[Act]) -> dict[str, WorkspacePath]:
        """The real path of each name: a link and what it leads to are one file."""
        names: dict[str, WorkspacePath] = {}
        for act in acts:
            for raw in act.paths:
                path = self._disk.path(raw)
                names[raw] = self._real(path)
                if act.is_of_the_name:
                    self._refuse_link(path)
        if len(set(names.values())) > self._limits.max_edit_files:
            limit = self._limits.max_edit_files
            raise TooLarge(
                f"{len(set(names.values()))} files are named, and one request changes at most {limit}",
                limit="maxEditFiles",
                value=limit,
            )
        return names

    def _names_now(self, acts: Sequence[Act]) -> dict[str, WorkspacePath] | None:
        """``_names`` of one file that is there, where that needs no disk: a thread would take longer."""
        if len(acts) != 1 or acts[0].is_of_the_name or len(acts[0].paths) != 1:
            return None
        (raw,) = acts[0].paths
        real = self._disk.real_path_now(self._disk.path(raw))
        return None if real is None else {raw: real}

    def _real(self, path: WorkspacePath) -> WorkspacePath:
        """``path`` with every link on it resolved, as far as there is anything."""
        try:
            return self._disk.real_path(path)
        except NotFound:
            above, _, name = path.rpartition("/")
        if self._is_link(path):
            raise NotFound(
                f"{path!r} is a link to something that is not there; write that, or remove the link",
                path=path,
            )
        real = self._real(WorkspacePath(above)) if above else ROOT
        return WorkspacePath(name if real == ROOT else f"{real}/{name}")

    def _refuse_link(self, path: WorkspacePath) -> None:
        if self._is_link(path):
            raise NotAFile(f"{path!r} is a link; use 'move' or 'remove' for the link itself", path=path)

    def _is_link(self, path: WorkspacePath) -> bool:
        try:
            return stat.S_ISLNK(self._disk.stat(path).st_mode)
        except NotFound:
            return False

    def _load(self, names: Mapping[str, WorkspacePath]) -> _Loaded:
        loaded = _Loaded()
        room = self._limits.max_edit_bytes
        for raw, path in names.items():
            if path in loaded.shown:
                continue
            loaded.shown[path] = self._disk.path(raw)
            with contextlib.suppress(NotFound):
                data, info = self._disk.read(path, self._limits.max_read_bytes)
                size = max(len(data), info.st_size)
                refuse_too_large(size, self._limits.max_read_bytes, "maxReadBytes", loaded.shown[path])
                room -= size
                self._refuse_too_much(room)
                loaded.before[path], loaded.stats[path] = data, info
        return loaded

    def _refuse_too_much(self, room: int) -> None:
        if room < 0:
            limit = self._limits.max_edit_bytes
            raise TooLarge(
                f"the files have more than {limit} bytes together; change them in several requests",
                limit="maxEditBytes",
                value=limit,
            )

    def _read_and_plan(
        self, acts: Sequence[Act], names: Mapping[str, WorkspacePath], expected: Sequence[FileEdit]
    ) -> tuple[_Loaded, Changed]:
        loaded = self._load(names)
        return loaded, self._plan(acts, names, loaded, expected)

    def _plan(
        self,
        acts: Sequence[Act],
        names: Mapping[str, WorkspacePath],
        loaded: _Loaded,
        expected: Sequence[FileEdit],
    ) -> Changed:
        from toolserver.tools.editing.changes import plan
        from toolserver.tools.editing.described import described, results

        self._refuse_stale(acts, names, loaded, expected)
        planned = plan(acts, names, loaded.before)
        found = list(results(planned, loaded.shown))
        for each in found:
            size = len(each.new or b"")
            refuse_too_large(size, self._limits.max_write_bytes, "maxWriteBytes", each.shown)
        # Before anything is written: the diff of a large change takes its time.
        files = list(described(found, loaded.shown, self._limits.max_edit_diff_bytes))
        return Changed(planned, found, files)

    def _refuse_stale(
        self,
        acts: Sequence[Act],
        names: Mapping[str, WorkspacePath],
        loaded: _Loaded,
        expected: Sequence[FileEdit],
    ) -> None:
        for edit in expected:
            if edit.expected_hash is None or edit.path is None:
                continue
            path = names[edit.path]
            old = loaded.before.get(path)
            try:
                refuse_stale(loaded.shown[path], old, old is not None, edit.expected_hash)
            except Conflict as error:
                error.details |= self._fresh(acts, names, loaded, path)
                raise

    def _fresh(
        self,
        acts: Sequence[Act],
        names: Mapping[str, WorkspacePath],
        loaded: _Loaded,
        path: WorkspacePath,
    ) -> dict[str, str | None]:
        """For who was too late: the content now, and what the request would make of it if it still fits."""
        from toolserver.tools.editing.changes import plan
        from toolserver.tools.editing.described import described, results
        from toolserver.tools.editing.documents import document_of

        content = diff = None
        with contextlib.suppress(ToolError):
            data = loaded.before.get(path, b"")
            content = document_of(path, data).text if len(data) <= _FRESH_BYTES else None
            found = list(results(plan(acts, names, loaded.before), loaded.shown))
            made = next(described([each for each in found if each.path == path], loaded.shown, _FRESH_BYTES))
            diff = made.diff or None
        return {"content": content, "diff": diff}


def _answer(changed: Changed) -> EditAnswer:
    files = changed.files
    return EditAnswer(
        files=files,
        replacements=sum(each.replacements for each in files),
        diff="".join(each.diff for each in files),
        hash=files[0].hash if len(files) == 1 else None,
        edits=changed.planned.applied[:_MAX_TOLD],
    )
