"""Which records the table itself lets go of, whichever way it finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.limits import Limits
from tests.toolserver.system.tables import opened
from toolserver.system import records
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.retention import Kept


async def ended(table: ProcessTable, script: str, id: str) -> Process:
    """Run to its end, and to that of its output where nobody holds it."""
    process = table.start(["sh", "-c", script], cwd="/", env={"PATH": "/usr/bin:/bin"}, id=id)
    await process.wait()
    return process


def left(table: ProcessTable) -> list[str]:
    table.forget_old()
    return [each.id for each in table.all()]


async def test_above_the_number_the_oldest_go_but_not_what_is_read_or_written(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, Limits(max_kept_processes=3, stop_grace_ms=200)) as table:
        await ended(table, "sleep 1000 &", "written")
        read = table.start(["echo"], cwd="/", env={"PATH": "/usr/bin:/bin"}, id="read")
        running = table.start(["sleep", "1000"], cwd="/", env={"PATH": "/usr/bin:/bin"}, id="running")
        # From the start: the table also looks by itself, a tenth of a second after each.
        with read.stdout.being_read():
            await read.wait()
            for id in ("a", "b", "c"):
                await ended(table, "true", id)
            assert left(table) == ["written", "read", "running", "c"]
        await ended(table, "true", "d")
        assert left(table) == ["written", "running", "c", "d"]
        await table.stop(running)
        assert left(table) == ["written", "running", "d"]


async def test_where_all_others_are_read_also_one_that_is_still_written_goes(tmp_path: Path) -> None:
    async with opened(tmp_path, Limits(max_kept_processes=1, stop_grace_ms=200)) as table:
        await ended(table, "sleep 1000 &", "written")
        read = table.start(["echo"], cwd="/", env={"PATH": "/usr/bin:/bin"}, id="read")
        with read.stdout.being_read():
            await read.wait()
            assert left(table) == ["read"]


async def test_above_the_bytes_the_oldest_go(tmp_path: Path) -> None:
    limits = Limits(max_kept_output_in_all_bytes=250_000)
    async with opened(tmp_path, limits) as table:
        for id in ("a", "b", "c"):
            await ended(table, "head -c 100000 /dev/zero", id)
        assert left(table) == ["c"]  # 100 000 bytes, and the first 65 536 of them once more


async def test_the_old_go_for_their_age(tmp_path: Path) -> None:
    async with opened(tmp_path, Limits(max_kept_process_age_ms=50_000)) as table:
        old = await ended(table, "true", "a")
        assert old.ended is not None
        old.ended -= 60
        await ended(table, "true", "b")
        assert left(table) == ["b"]


async def test_few_records_are_not_looked_at_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = records._kept

    def counted(process: Process) -> Kept:
        looked.append(process.id)
        return look(process)

    monkeypatch.setattr(records, "_kept", counted)
    async with opened(tmp_path, Limits(max_kept_processes=5)) as table:
        for number in range(5):
            await ended(table, "echo", f"p{number}")
        assert len(left(table)) == 5
        assert looked == []
        await ended(table, "true", "one more")
        assert "p0" not in left(table)
        assert looked == ["p0"]
