"""A start that is done on a thread is a start like any other, and a table that was used leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import NotFound
from protocol.limits import Limits
from tests.builder import exactly
from tests.toolserver.system.tables import opened
from toolserver.system import starting
from toolserver.system.cgroups import Cgroups
from toolserver.system.processes import ProcessTable
from toolserver.system.spawn import spawn
from toolserver.system.starting import Starter

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[ProcessTable]:
    async with opened(tmp_path, Limits(stop_grace_ms=200)) as table:
        yield table


@pytest.fixture(params=["at once", "on a thread"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_LONG_SECONDS", -1.0 if request.param == "on a thread" else 1e9)


@pytest.mark.usefixtures("_way")
class TestEitherWay:
    async def test_each_of_many_has_its_own_output_and_status(self, table: ProcessTable) -> None:
        orphan = "(sleep 0.01 &) ; (true &) ; "
        started = [
            table.start_soon(["sh", "-c", f"{orphan}echo {code}; exit {code}"], cwd="/", env=ENV)
            for code in range(30)
        ]
        for code, process in enumerate(await asyncio.gather(*started)):
            assert (await process.wait()).code == code
            assert process.stdout.read(0, 100).data == b"%d\n" % code

    async def test_what_is_not_there_is_refused_and_leaves_nothing_open(self, table: ProcessTable) -> None:
        before = descriptors()
        for pty in (None, (80, 24)):
            with pytest.raises(NotFound, match=exactly("there is no program './nothing'; check its name")):
                await table.start_soon(["./nothing"], cwd="/", env=ENV, pty=pty)
        assert descriptors() == before
        assert table.all() == []

    async def test_a_start_that_is_cancelled_is_known_before_its_caller_is_told(
        self, table: ProcessTable
    ) -> None:
        async def start_and_wait() -> None:
            process = await table.start_soon(["sleep", "1000"], cwd="/", env=ENV, id="one")
            try:
                await process.wait()
            except asyncio.CancelledError:
                await table.stop(process)
                raise

        task = asyncio.create_task(start_and_wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not table.get("one").running

    async def test_hundreds_in_a_row_leave_no_descriptor_no_task_and_no_thread(
        self, table: ProcessTable
    ) -> None:
        async def rounds(count: int) -> None:
            for _ in range(count):
                process = await table.start_soon(["true"], cwd="/", env=ENV)
                await process.wait()
                table.forget(process)

        def held() -> tuple[int, int, int]:
            return len(descriptors()), len(asyncio.all_tasks()), threading.active_count()

        await rounds(30)
        await asyncio.to_thread(int)
        before = held()
        await rounds(300)
        async with asyncio.timeout(30):
            while held() > (before[0], before[1], before[2] + 8):
                await asyncio.sleep(0.01)
        assert threading.active_count() <= before[2] + 8


async def test_a_start_that_is_cancelled_twice_leaves_no_program_that_nobody_knows(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(starting, "_LONG_SECONDS", -1.0)
    monkeypatch.setattr(starting, "spawn", lambda *args, **more: go_on.wait(60) and spawn(*args, **more))

    async def start_and_wait() -> None:
        process = await table.start_soon(["sleep", "1000"], cwd="/", env=ENV, id="one")
        try:
            await process.wait()
        finally:
            await table.stop(process)

    task = asyncio.create_task(start_and_wait())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not table.get("one").running


async def test_a_start_that_fails_after_a_cancellation_is_a_cancellation(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "_LONG_SECONDS", -1.0)
    task = asyncio.create_task(table.start_soon(["./nothing"], cwd="/", env=ENV))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert table.all() == []


async def test_a_limit_of_time_that_ends_a_start_is_told_as_one(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts cancellations: one more of ours, and it would take its own for somebody else's."""
    monkeypatch.setattr(starting, "_LONG_SECONDS", -1.0)

    async def start_and_wait() -> None:
        async with asyncio.timeout(0):
            process = await table.start_soon(["sleep", "1000"], cwd="/", env=ENV)
            await process.wait()

    with pytest.raises(TimeoutError):
        await start_and_wait()


async def test_a_program_that_is_found_is_known_by_what_was_asked(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the same request, sent again meanwhile, would be refused as another one."""
    monkeypatch.setattr(starting, "_LONG_SECONDS", -1.0)
    task = asyncio.create_task(table.start_soon(["true"], cwd="/", env=ENV, id="one", asked="this"))
    async with asyncio.timeout(60):
        while (process := table.find("one")) is None:
            await asyncio.sleep(0)
    assert process.asked == "this"
    await (await task).wait()


async def test_a_child_that_is_not_known_yet_is_not_reaped(table: ProcessTable) -> None:
    """Its status is its starter's: a sweep in between would take it."""

    def ended() -> int:
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], ENV)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    with table._reaper.starting():
        pid = await asyncio.to_thread(ended)
        table._reaper.sweep()
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7


async def test_a_command_and_what_it_starts_have_limits_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no control groups to hold them; ``test_limit_groups`` has those."""
    monkeypatch.setattr(Cgroups, "told", staticmethod(lambda: ("", "")))
    limits = Limits(command_open_files=99, command_memory_bytes=1 << 30, command_cpu_seconds=77)
    async with opened(tmp_path, limits) as table:
        asked = "(ulimit -n; ulimit -d; ulimit -t)"
        process = await table.start_soon(["sh", "-c", asked], cwd="/", env=ENV)
        assert (await process.wait()).code == 0
        said = process.stdout.read(0, 100).data.split()
        assert said == [b"99", b"%d" % (1 << 20), b"77"]
        with pytest.raises(
            NotFound, match=exactly("there is no program 'nothing' on the PATH; check its name")
        ):
            await table.start_soon(["nothing"], cwd="/", env=ENV)


def descriptors() -> list[str]:
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(each.readlink()))
    return sorted(found)


async def test_a_start_under_way_is_ended_with_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes to its end before anybody looks who is to be ended: whenever its thread gets on."""
    begun, go_on, close = threading.Event(), threading.Event(), Starter.close

    def slow(*given: Any, **more: Any) -> int:
        begun.set()
        assert go_on.wait(60)
        return spawn(*given, **more)

    def closing(starter: Starter) -> None:
        go_on.set()
        close(starter)

    monkeypatch.setattr(starting, "spawn", slow)
    monkeypatch.setattr(Starter, "close", closing)
    monkeypatch.setattr(Starter, "at_once", False)
    async with opened(tmp_path) as table:
        task = asyncio.create_task(table.start_soon(["sleep", "1000"], cwd="/", env=ENV))
        assert await asyncio.to_thread(begun.wait, 60)
    process = await task
    try:
        assert not process.running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
