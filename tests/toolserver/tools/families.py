"""Programs that get away from who started them, each in another way; told where they are by a file."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.builder import Json, is_alive, until

_DAEMON = """
import os, resource, signal, sys, time
def fork_away():
    # The parent is gone before the child goes on, so the child is somebody else's.
    parent = os.getpid()
    if os.fork(): os._exit(0)
    while os.getppid() == parent: time.sleep(0.001)
where, *ways = sys.argv[1:]
if "wait" in ways:
    while not os.path.exists(where + ".go"): time.sleep(0.01)
if "unlimited" in ways: resource.setrlimit(10, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
if "deaf" in ways:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
if "keeps" in ways and os.fork():
    while True: signal.pause()
if "setsid" in ways: os.setsid()
if "twice" in ways: fork_away(); os.setsid(); fork_away()
environ = {} if "scrubbed" in ways else dict(os.environ)
code = "import os,signal,sys\\nfd=os.open(sys.argv[1]+'.new',os.O_WRONLY|os.O_CREAT)\\n" \
       "os.write(fd,str(os.getpid()).encode()); os.close(fd); os.rename(sys.argv[1]+'.new',sys.argv[1])\\n" \
       "while True: signal.pause()"
os.execve(sys.executable, [sys.executable, "-c", code, where], environ)
"""


def runaway(where: Path, *ways: str) -> list[str]:
    """argv of a program that stays until it is killed, and writes its final pid to ``where``.

    ``ways``: ``setsid``, ``twice`` (double fork), ``scrubbed`` (empty environment), ``unlimited`` (takes the
    mark on its limit away), ``deaf`` (ignores TERM), ``keeps`` (its first process stays as well), ``wait``
    (for the file ``where``.go).
    """
    return [sys.executable, "-c", _DAEMON, str(where), *ways]


async def pid_in(where: Path) -> int:
    """The pid that a program has written there by now: a shell's ``>`` makes the file before it is filled."""
    await until(lambda: where.exists() and where.read_text(), f"{where.name} to hold a pid")
    return int(await asyncio.to_thread(where.read_text))


async def gone(*pids: int) -> None:
    """None of them lives any more."""
    await until(lambda: not any(map(is_alive, pids)), f"{pids} to be gone")


def killed_by(answer: Json) -> dict[int, str]:
    """Of an answer of ``stop``: who got which signal last."""
    return {each["pid"]: each["signal"] for each in answer["killed"]}
