"""Resident memory, of a server and all that it started but the commands it was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.arena import Arena
from benchmarks.measure import Figure, Kind, missing, value
from benchmarks.peers.tools import Tools

IDLE_COMMANDS = 64
_SLEEP = "sleep"


async def memory(arena: Arena) -> AsyncGenerator[list[Figure], None]:
    """Before anything was asked of them; then with 64 commands that sleep, where that can be asked."""
    with_process = [each for each in arena.peers if each.pid is not None]
    yield [
        value("memory, idle", "ours", resident_mib(arena.client.pid or 0), "MiB", Kind.OURS),
        *(
            value("memory, idle", each.name, resident_mib(each.pid or 0), "MiB", Kind.PEER)
            for each in with_process
        ),
    ]
    case = f"memory, {IDLE_COMMANDS} idle commands"
    yield [await _crowded(case, each) for each in (arena.client, *with_process) if each.offers("idle")]


def _idle(peer: Tools) -> Figure:
    return value("memory, idle", peer.name, resident_mib(peer.pid or 0), "MiB", Kind.PEER)


async def _crowded(case: str, tools: Tools) -> Figure:
    try:
        for _ in range(IDLE_COMMANDS):
            await tools.idle()
        return value(case, tools.name, resident_mib(tools.pid or 0), "MiB", tools.kind)
    except Exception as error:  # one that cannot is a line in the report
        return missing(case, tools.name, error, tools.kind)


def resident_mib(pid: int) -> float:
    """MiB of a process and its descendants, but for the sleeping commands and shells around them."""
    kib, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        try:
            fields = _status(each)
            children = Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii").split()
        except OSError:
            continue
        waiting += map(int, children)
        if each == pid or fields["Name"] not in (_SLEEP, "bash", "sh"):
            kib += int(fields.get("VmRSS", "0 kB").split()[0])
    return round(kib / 1024, 1)


def _status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in text.splitlines())}
