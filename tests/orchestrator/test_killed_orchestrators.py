"""Orchestrators killed at every step of a session's life, and the next one, who puts all in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.backends.environment import area_marker
from orchestrator.paths import PathManager
from orchestrator.records import Records
from orchestrator.session_states import State
from tests.orchestrator.mortal import ANN, sessions_in

STEPS_AT_LEAST = 40
"""Of a whole life; fewer would mean that the killing itself no longer works."""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The data directories that orchestrators left, one for each step at which one was killed."""
    directory = tmp_path_factory.mktemp("deaths")
    command = [sys.executable, "-m", "tests.orchestrator.mortal", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    *killed, last = done.stdout.splitlines()
    assert last == f"{len(killed)} end 0"
    yield [directory / line.partition(" ")[0] for line in killed]
    processes.send(left_running(directory), signal.SIGKILL)


async def put_in_order(data: Path) -> str:
    """The outcome, after everything that must hold was looked at."""
    said = (data / "log").read_text().splitlines()
    sessions = sessions_in(data)
    # Two at once, for both may come by.
    await asyncio.gather(sessions.reconcile(), sessions_in(data).reconcile())
    assert await sessions_in(data).reconcile() == []
    seen = await sessions.list(ANN, stopped=True)
    assert len(seen) <= 1
    outcome = seen[0].state if seen else "gone"
    where = f"{said[-1]}: {outcome}"
    roots = [path for path in data.glob("workspaces/ann/*") if not path.name.startswith(".")]
    areas = list(data.glob("workspaces/ann/.*"))
    if outcome == "running":
        (area,) = areas
        assert processes.members(area_marker(PathManager(data).session_area("ann", area.name[1:]))), where
    else:
        assert outcome in ("stopped", "gone"), where
        assert areas == [], where
        assert left_running(data) == set(), where
        assert ports_held(data) == frozenset(), where
    assert (outcome == "gone") == (roots == []), where
    if "worked" in said and "removing" not in said:
        assert (roots[0] / "work.txt").read_text() == "mine", where
    await use_and_remove(data)
    return outcome


async def use_and_remove(data: Path) -> None:
    """Whatever there is can be stopped, resumed and removed; then nothing is left."""
    sessions = sessions_in(data)
    for seen in await sessions.list(ANN, stopped=True):
        record = seen.record
        if record.state is State.STOPPED:
            record = await sessions.ready(await sessions.restart(record))
        await sessions.destroy(ANN, record.session_id)
    assert list(data.glob("workspaces/ann/*")) == []
    assert left_running(data) == set()
    assert await sessions.list(ANN, stopped=True) == []
    assert Records(sessions.paths.db_path("sessions")).workspaces(ANN) == []


def left_running(data: Path) -> set[int]:
    """Processes of any session of this data directory, whatever became of its files."""
    prefix = f"WORKSPACE_SESSION_AREA={data}/".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(each.startswith(prefix) for each in variables):
            found.add(int(path.parent.name))
    return found


def ports_held(data: Path) -> frozenset[int]:
    """As whoever chooses next would see it."""
    held: list[frozenset[int]] = []

    def chosen(taken: frozenset[int]) -> None:
        held.append(taken)
        raise LookupError

    with pytest.raises(LookupError):
        Records(PathManager(data).db_path("sessions")).add(chosen)  # type: ignore[arg-type]
    return held[0]


# Some fifty lives one after another, each begun by a process of its own and put in order by two.
@pytest.mark.timeout(600)
async def test_at_whatever_step_one_is_killed_the_next_puts_all_in_order(deaths: list[Path]) -> None:
    assert len(deaths) >= STEPS_AT_LEAST
    outcomes = [await put_in_order(data) for data in deaths]
    # Killed early: nothing was there. Later: its work is kept, stopped or still running. At last: removed.
    assert (outcomes[0], outcomes[-1]) == ("gone", "gone")
    assert {"gone", "stopped", "running"} == set(outcomes)
