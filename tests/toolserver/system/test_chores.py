"""What is done some time after a command's start is done for each of them, however many start at once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.limits import Limits
from tests.builder import until
from tests.toolserver.system.tables import opened
from toolserver.system import chores as module
from toolserver.system.census import Snapshot
from toolserver.system.cgroups import Cgroups
from toolserver.system.chores import Chores


class SlowKernel(Cgroups):
    """Places nobody until it is let."""

    works = True
    used = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.let = threading.Event()

    def place(self, id: str, pids: Iterable[int]) -> bool:
        self.asked.append(id)
        return self.let.wait(60)


class Looks:
    """A census of nobody."""

    async def look(self) -> Snapshot:
        return Snapshot({}, [])


async def test_whom_the_first_look_misses_gives_way_after_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, steps = os.getpriority(os.PRIO_PROCESS, 0), Limits().command_nice
    monkeypatch.setattr(module, "lower", lambda pid, by: True)
    async with opened(tmp_path) as table:
        process = await table.start_soon(["sleep", "1000"], cwd=str(tmp_path), env=os.environ)
        table.give_way(process)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == own
        await until(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == min(own + steps, 19))


def command(id: str) -> Any:
    return SimpleNamespace(id=id, running=True, placed=False, duration_ms=1000.0)


async def test_a_command_that_is_due_while_others_are_being_placed_is_placed_after_them() -> None:
    commands = [command("first")]
    records = SimpleNamespace(all=lambda: list(commands), forget_old=lambda: None)
    kernel = SlowKernel()
    chores = Chores(
        Limits(),
        cast(Any, records),
        cast(Any, Looks()),
        kernel,
        cast(Any, SimpleNamespace(works=False, used=False)),
    )
    chores.soon(0)
    await until(lambda: kernel.asked == ["first"])
    commands.append(command("second"))
    chores.soon(0)
    due = chores._timer
    await until(lambda: chores._timer is not due, "the second's turn to come")
    kernel.let.set()
    await until(lambda: commands[1].placed, "the second to be placed")
    chores.closing = True
    await chores.close()


async def test_a_command_that_could_not_be_placed_is_placed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind(Looks):
        tries = 0

        async def look(self) -> Snapshot:
            self.tries += 1
            if self.tries == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return await super().look()

    monkeypatch.setattr(module, "_TIDY_SECONDS", 0.05)
    late, kernel = command("late"), SlowKernel()
    kernel.let.set()
    chores = Chores(
        Limits(),
        cast(Any, SimpleNamespace(all=lambda: [late], forget_old=lambda: None)),
        cast(Any, Blind()),
        kernel,
        cast(Any, SimpleNamespace(works=False, used=False)),
    )
    chores.soon(0)
    await until(lambda: late.placed)
    chores.closing = True
    await chores.close()
