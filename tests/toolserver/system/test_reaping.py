"""Ends are learned once, whatever else goes wrong; and a reaper that was closed looks at nobody any more."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.builder import until
from tests.toolserver.system import tables
from toolserver.system import tree
from toolserver.system.reaping import Reaper
from toolserver.system.spawn import DEVNULL, spawn

ENV = {"PATH": os.environ.get("PATH", os.defpath)}


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_look_is_due_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    due: list[asyncio.TimerHandle] = []
    later = loop.call_later

    def noted(*given: Any, **more: Any) -> asyncio.TimerHandle:
        due.append(later(*given, **more))
        return due[-1]

    monkeypatch.setattr(loop, "call_later", noted)
    reaper = Reaper()
    reaper.open()
    reaper.sweep()
    reaper.close()
    assert due
    assert all(each.cancelled() for each in due)


async def test_what_goes_wrong_when_an_end_is_told_leaves_nothing_behind() -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("told")

    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(str(context.get("exception"))))
    reaper = Reaper()
    reaper.open()
    try:
        before = descriptors()
        reaper.watch(spawn(["true"], "/", ENV, DEVNULL, DEVNULL, DEVNULL), wrong)
        await until(lambda: told == ["told"])
        # Only what all programs share stays open.
        await until(lambda: descriptors() <= before + 1)
    finally:
        reaper.close()
        loop.set_exception_handler(None)


async def test_a_program_whose_end_could_not_be_learned_is_ended_and_was_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    started: list[int] = []
    open_after = []
    async with tables.opened(tmp_path) as table:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", none_left)
            for _ in range(3):
                with pytest.raises(OSError, match="open files"):
                    await table.start_soon(["sleep", "1000"], cwd="/", env=ENV, fed=True)
                table._spare.make()
                open_after.append(descriptors())
        assert len(set(open_after)) == 1
        assert (table.all(), table._shares.total) == ([], 0)
        await until(lambda: not set(started) & set(tree.children_of_this_process()))
        process = await table.start_soon(["true"], cwd="/", env=ENV)
        assert (await process.wait()).code == 0
