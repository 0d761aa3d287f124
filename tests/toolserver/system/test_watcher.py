"""The watcher by itself: whatever becomes of one look, who follows is told all, or that he was not."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Unavailable
from protocol.limits import Limits
from tests.builder import until
from toolserver.system import watcher as watchers
from toolserver.system.inotify import Inotify
from toolserver.system.tree_index import Change, Look, TooMany, TreeIndex, What
from toolserver.system.watcher import Watcher


@pytest.fixture
async def watcher(tmp_path: Path) -> AsyncIterator[Watcher]:
    root = os.open(tmp_path, os.O_RDONLY)
    watcher = Watcher(root, Limits())
    try:
        yield watcher
    finally:
        await watcher.close()
        os.close(root)


def told(watcher: Watcher, since: int) -> list[tuple[What, str]] | None:
    """What came after that number; None when it is lost."""
    changes = watcher.since(since)
    return None if changes is None else [(each.change.what, each.change.path) for each in changes]


class Hand:
    """Holds the first look that begins while it is on, and may have it fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.failing: list[Exception] = [] if error is None else [error]

    def hold(self, patch: pytest.MonkeyPatch) -> None:
        look = TreeIndex.refresh

        def refresh(index: TreeIndex, suspects: Mapping[str, Look]) -> list[Change]:
            found = look(index, suspects)
            self.begun.set()
            assert self.go_on.wait(60)
            if self.failing:
                raise self.failing.pop()
            return found

        patch.setattr(TreeIndex, "refresh", refresh)


async def test_what_a_look_found_is_told_when_who_asked_for_it_is_gone(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watcher.start()
    before, hand = watcher.number, Hand()
    hand.hold(monkeypatch)
    (tmp_path / "new").touch()
    asked = asyncio.create_task(watcher.index())
    assert await asyncio.to_thread(hand.begun.wait, 60)
    asked.cancel()
    hand.go_on.set()
    await asyncio.wait([asked])
    assert asked.cancelled()
    await watcher.index()
    assert told(watcher, before) == [(What.CREATED, "new")]


async def test_a_look_that_failed_is_made_again_and_told_as_not_all(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "_BLIND_SECONDS", 0.05)
    await watcher.start()
    before, hand = watcher.number, Hand(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    hand.go_on.set()
    hand.hold(monkeypatch)
    (tmp_path / "new").touch()
    async with asyncio.timeout(60):
        await watcher.wait_past(before)
    assert hand.failing == []
    assert told(watcher, before) is None
    monkeypatch.undo()
    now = watcher.number
    (tmp_path / "newer").touch()
    assert "newer" in (await watcher.index()).entries
    assert told(watcher, now) == [(What.CREATED, "newer")]


async def test_followers_are_told_when_another_finds_that_the_tree_is_too_large(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watcher.start()
    waits = asyncio.create_task(watcher.wait_past(watcher.number))
    monkeypatch.setattr(TreeIndex, "_add", _too_many)
    (tmp_path / "new").touch()
    with pytest.raises(Unavailable, match="maxIndexedEntries"):
        await watcher.index()
    with pytest.raises(Unavailable, match="maxIndexedEntries"):
        async with asyncio.timeout(60):
            await waits
    monkeypatch.undo()
    assert "new" in (await watcher.index()).entries


def _too_many(*_: object) -> None:
    raise TooMany


async def test_who_asks_again_once_there_are_notices_to_be_had_gets_them(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Inotify) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Inotify, "__init__", refused)
        with pytest.raises(Unavailable, match="max_user_instances"):
            await watcher.start()
    await watcher.start()
    (tmp_path / "new").touch()
    assert "new" in (await watcher.index()).entries


async def test_the_index_knows_of_more_files_than_one_read_of_notices_tells(
    watcher: Watcher, tmp_path: Path
) -> None:
    await watcher.start()
    names = {f"{number:04}{'x' * 200}" for number in range(1000)}
    for name in names:
        (tmp_path / name).touch()
    assert set((await watcher.index()).entries) == names


async def test_who_may_open_no_more_files_does_not_tell_that_all_are_gone(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").touch()
    await watcher.start()
    before, failed = watcher.number, threading.Event()
    look = os.stat

    def none_left(path: Any, **given: Any) -> os.stat_result:
        if path == "file" and not failed.is_set():
            failed.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return look(path, **given)

    monkeypatch.setattr(watchers, "_BLIND_SECONDS", 0.05)
    monkeypatch.setattr(os, "stat", none_left)
    (tmp_path / "d/file").chmod(0o600)
    await until(failed.is_set)
    assert "d/file" in (await watcher.index()).entries
    assert (What.DELETED, "d/file") not in (told(watcher, before) or [])


async def test_a_copy_of_what_is_there_is_never_taken_in_the_middle_of_a_look(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").touch()
    index = await watcher.index()
    begun, go_on, look = threading.Event(), threading.Event(), TreeIndex.refresh

    def between(_: TreeIndex, suspects: Mapping[str, Look]) -> list[Change]:
        missing = index.entries.pop("d/file", None)
        begun.set()
        assert go_on.wait(60)
        if missing is not None:
            index.entries["d/file"] = missing
        return look(index, suspects)

    async def up_to_date() -> TreeIndex:
        return index  # and the next look begins right after that

    monkeypatch.setattr(TreeIndex, "refresh", between)
    (tmp_path / "d").rename(tmp_path / "moved")
    assert await asyncio.to_thread(begun.wait, 60)
    monkeypatch.setattr(watcher, "index", up_to_date)
    asked = asyncio.create_task(watcher.entries())
    for _ in range(5):
        await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(60):
        assert sorted(await asked) == ["moved", "moved/file"]
