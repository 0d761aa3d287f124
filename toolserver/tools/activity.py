"""activity: what goes on in the workspace, and for how long nothing has.

A dev server runs for as long as the workspace does, and a kept shell waits for its next line: neither is work
by itself. What a command left running when it ended is, for somebody may be waiting for it.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from protocol.messages.activity import ActiveProcess, Activity, ActivityAnswer
from toolserver.system import ports
from toolserver.system.members import command_line
from toolserver.system.processes import Process, ProcessTable
from toolserver.system.pulse import Pulse
from toolserver.tools.call import Call

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Standing:
    """Programs that stay without being work: ids of commands."""

    dev_server: str | None = None
    shells: Collection[str] = ()


def work(
    leaders: Mapping[str, int], marks: Mapping[int, str | None], standing: Standing
) -> list[tuple[str | None, int]]:
    """Command and pid of each program at work: running commands by their leader, then what others left.

    ``leaders`` are the running commands' own pids, ``marks`` all live pids with the command that they say
    they belong to. Of a kept shell only what it has started is work.

    >>> leaders, marks = {"p1": 10, "dev": 20, "sh": 30}, {10: "p1", 11: "p1", 20: "dev", 21: "dev", 30: "sh"}
    >>> work(leaders, marks, Standing("dev", ["sh"]))
    [('p1', 10)]
    >>> work(leaders, {**marks, 31: "sh", 40: "gone", 50: None}, Standing("dev", ["sh"]))
    [('p1', 10), ('sh', 31), ('gone', 40), (None, 50)]
    """
    quiet = {standing.dev_server, *standing.shells}
    commands: list[tuple[str | None, int]] = [(id, pid) for id, pid in leaders.items() if id not in quiet]
    known = set(leaders) - set(standing.shells) | ({standing.dev_server} if standing.dev_server else set())
    left = [
        (mark, pid)
        for pid, mark in sorted(marks.items())
        if mark not in known and pid not in leaders.values()
    ]
    return commands + left


class Activities:
    """The handler."""

    def __init__(
        self,
        table: ProcessTable,
        pulse: Pulse,
        standing: Callable[[], Standing],
        dev_port: Callable[[], int],
        changed: Callable[[int, Sequence[str]], Awaitable[tuple[int, bool]]],
    ) -> None:
        """``changed`` gives the number to come back with, and whether files changed after the last one."""
        self._table = table
        self._pulse = pulse
        self._standing = standing
        self._dev_port = dev_port
        self._changed = changed
        self._seen_left = 0.0

    async def activity(self, request: Activity, call: Call) -> ActivityAnswer:
        """What goes on."""
        seen = await self._table.look()
        marks: dict[int, str | None] = {proc.pid: None for proc in seen.strays}
        marks |= {proc.pid: id for id, family in seen.families.items() for proc in family}
        connections = await asyncio.to_thread(ports.connections, self._dev_port())
        running = {each.id: each for each in self._table.all() if each.running}
        at_work = work({id: each.pid for id, each in running.items()}, marks, self._standing())
        if connections or any(id not in running for id, _ in at_work):
            self._seen_left = (
                time.monotonic()
            )  # nobody tells when these end: as long as they were seen, it was not idle
        number, changed = None, None
        if request.since is not None:
            number, changed = await self._changed(request.since, request.ignore)
        ended = [each.ended for each in self._table.all() if each.ended is not None]
        return ActivityAnswer(
            idle_ms=round(self._pulse.idle_seconds(self._seen_left, *ended) * 1000),
            requests=self._pulse.requests,
            sockets=self._pulse.sockets,
            dev_connections=connections,
            processes=await asyncio.to_thread(_shown, at_work, running),
            number=number,
            changed=changed,
        )


def _shown(at_work: Sequence[tuple[str | None, int]], running: Mapping[str, Process]) -> list[ActiveProcess]:
    """With their commands: a running one's as it was asked for, another's as the kernel tells it. Blocks."""
    argvs = {each.pid: each.argv for each in running.values()}
    return [
        ActiveProcess(process_id=id, pid=pid, command=as_written(argvs.get(pid) or command_line(pid)))
        for id, pid in at_work
    ]


def as_written(argv: Sequence[str]) -> str:
    """A command as a person would write it: what a shell was given to run, without the shell.

    >>> as_written(["/bin/bash", "-c", "npm test"]), as_written(["cat", "my file"])
    ('npm test', "cat 'my file'")
    """
    shell = len(argv) == 3 and argv[0].rpartition("/")[2] in ("sh", "bash") and argv[1] in ("-c", "-lc")
    return (argv[2] if shell else shlex.join(argv))[:_SHOWN_CHARACTERS]
