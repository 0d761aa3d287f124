"""The end of a family that goes on forking: stopped, then killed, and never left standing still."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, cast

import pytest

from protocol.limits import Limits
from tests.builder import PATIENCE_SECONDS, until
from toolserver.system import ending as module
from toolserver.system import tree
from toolserver.system.census import Snapshot
from toolserver.system.cgroups import Cgroups
from toolserver.system.ending import Ending
from toolserver.system.tree import Proc


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[bytes]]:
    """A program that takes no TERM."""
    line = ["sh", "-c", "trap '' TERM; echo; exec sleep 1000"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield program
        program.kill()


class Looks:
    """A census of one family, whose third look, after the family was stopped, is not answered or fails."""

    def __init__(self, proc: Proc, error: OSError | None) -> None:
        self.proc = proc
        self.error = error
        self.looks = 0
        self.stopped = asyncio.Event()

    async def look(self) -> Snapshot:
        self.looks += 1
        if self.looks == 3:
            self.stopped.set()
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        return Snapshot({"p": [self.proc]}, [])

    def chase(self, seen: Snapshot, id: str | None) -> list[Proc]:
        return []


async def never() -> None:
    await asyncio.Event().wait()


async def broken_off(
    deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> asyncio.Task[Any]:
    """The end of a family, at the moment in which all of it was stopped."""
    monkeypatch.setattr(module, "_PLAIN_KILLS", 0)
    proc = tree.process(deaf.pid)
    assert proc is not None
    looks = Looks(proc, error)
    ending = asyncio.create_task(Ending(cast(Any, looks), Cgroups(), Limits()).end("p", 0, never))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await looks.stopped.wait()
    return ending


async def killed(program: subprocess.Popen[bytes]) -> None:
    await until(lambda: program.poll() is not None, "its end")
    assert program.returncode == -signal.SIGKILL


async def test_who_was_stopped_is_killed_also_when_it_is_broken_off(
    deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = await broken_off(deaf, monkeypatch, None)
    await until(lambda: (proc := tree.process(deaf.pid)) is not None and proc.stopped, "the stop")
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    await killed(deaf)


async def test_who_was_stopped_is_killed_also_when_nobody_can_be_looked_for_any_more(
    deaf: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    ending = await broken_off(deaf, monkeypatch, full)
    with pytest.raises(OSError, match="Too many open files"):
        await ending
    await killed(deaf)
