"""The harness goes its whole way, with one group and no peers; and what breaks in it breaks nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.arena import Bench
from benchmarks.groups import ALONE, Group, all_groups
from benchmarks.peers.all import Field
from benchmarks.peers.environments import Unobtainable, newest_python
from benchmarks.scale import QUICK


@pytest.mark.timeout(300)
async def test_a_run_of_one_group_is_kept(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "--no-peers", "--only", "watch", "--patience", "20"),
        *("--results", str(tmp_path / "results")),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(240):
        told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    kept = json.loads((tmp_path / "results/part-quick.json").read_text())
    assert [each["candidate"] for each in kept["figures"]["watch"]] == ["inotify", "ours, watch"]
    assert all(each["runs"] for each in kept["figures"]["watch"])
    assert set(kept["notRun"]) == set(kept["peers"])


async def test_a_group_that_breaks_or_takes_too_long_is_a_line_and_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(bench: Bench):  # type: ignore[no-untyped-def]
        yield []
        raise OSError("the disk is gone")

    async def endless(bench: Bench):  # type: ignore[no-untyped-def]
        yield []
        await asyncio.Event().wait()

    groups = {Group("broken", 60, 60): broken, Group("endless", 0.01, 60): endless}
    before = list(ALONE)
    for each in before:
        monkeypatch.delitem(ALONE, each)
    for group, make in groups.items():
        monkeypatch.setitem(ALONE, group, make)
    bench = Bench(tmp_path, shutil.which("rg") or "rg", QUICK, Field())
    done = [each async for each in all_groups(bench, False, frozenset(("broken", "endless")))]
    assert [each.figures[0].not_run for each in done] == ["the disk is gone", "its 0.01 s were over"]


async def test_a_peer_that_needs_a_newer_python_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(Unobtainable, match=r"it needs Python 3\.99 or newer"):
        await newest_python((3, 99))


async def test_a_name_that_is_no_interpreter_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = tmp_path / "python3.18"
    stub.write_text("#!/bin/sh\nexit 127\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(Unobtainable):
        await newest_python((3, 18))
