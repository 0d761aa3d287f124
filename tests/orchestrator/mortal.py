"""Orchestrators that are killed at a chosen step of a session's life, each a process of its own.

Usage: mortal.py DIRECTORY. One process per step: its data directory is DIRECTORY/N, and it is killed by
SIGKILL right before or right after its Nth step. Prints a line per process, ``N NAME``; the last one got
through and prints ``N end``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import processes
from orchestrator.backends import local_place
from orchestrator.paths import PathManager, UserId
from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish
from orchestrator.records import Records
from orchestrator.registry import Registry
from orchestrator.sessions import PortWishes, Sessions
from tests.orchestrator.test_local_backend import backend

ANN = UserId("ann")
WISHES = PortWishes(tool=Wish(9000, TOOL_PORTS), dev=Wish(8000, DEV_PORTS))
STEPS: tuple[tuple[Any, str], ...] = (
    (Registry, "write"),
    (local_place.Place, "make"),
    (subprocess, "Popen"),
    (local_place.Place, "write_label"),
    (local_place.Place, "remove"),
    (processes, "send"),
)


def sessions_in(data: Path) -> Sessions:
    """As an orchestrator that has just started has them, on daemons that are stand-ins."""
    paths = PathManager(data)
    return Sessions(paths, Records(paths.db_path("sessions")), {"local": backend(data)})


async def live(sessions: Sessions, said: Callable[[str], None]) -> None:
    """A whole life: begun, worked in, stopped, resumed, removed."""
    record = await sessions.ready(await sessions.begin(ANN, "site", WISHES, "local"))
    work = sessions.paths.workspace_dir(ANN, record.session_id) / "work.txt"
    work.write_text("mine")
    said("worked")
    await sessions.end(record)
    record = await sessions.get(ANN, record.session_id)
    record = await sessions.ready(await sessions.restart(record))
    said("removing")
    await sessions.destroy(ANN, record.session_id)


def mortal(doomed: int, log: Path) -> None:
    """Count the steps from now on, and die at one of them."""
    count = 0

    def step(name: str) -> None:
        nonlocal count
        if count == doomed:
            say(log, f"died {name}")
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    for owner, name in STEPS:
        original = getattr(owner, name)

        def wrapped(*values: Any, _original: Any = original, _name: str = name, **more: Any) -> Any:
            step(f"before {_name}")
            result = _original(*values, **more)
            step(f"after {_name}")
            return result

        setattr(owner, name, functools.update_wrapper(wrapped, original, updated=()))


def say(log: Path, word: str) -> None:
    """Write down how far it got."""
    with log.open("a") as file:
        file.write(f"{word}\n")


def main(directory: Path) -> None:
    """One process per step, until one gets through."""
    for doomed in range(1000):
        data = directory / str(doomed)
        data.mkdir()
        log = data / "log"
        child = os.fork()
        if child == 0:
            mortal(doomed, log)

            asyncio.run(live(sessions_in(data), functools.partial(say, log)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            print(f"{doomed} end {status}")
            return
        print(f"{doomed} {log.read_text().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
