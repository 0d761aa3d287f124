"""One program: its leader, its output, its end, and who is told of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from toolserver.system.exits import Exit
from toolserver.system.group_files import met
from toolserver.system.input import Input
from toolserver.system.limit_group import Group
from toolserver.system.output import OutputLog


class Process:
    """One command: its leader, its output, its end. Made by ``ProcessTable.start``."""

    def __init__(
        self, id: str, pid: int, argv: Sequence[str], cwd: str, family: Callable[[str], set[int]]
    ) -> None:
        self.id = id
        self.pid = pid
        self.argv = list(argv)
        self.cwd = cwd
        self.started = datetime.now(UTC)
        self.ended: float | None = None
        self.stdout: OutputLog
        self.stderr: OutputLog
        self.input: Input | None = None
        """Where it is fed; None when its standard input is empty."""
        self.terminal_size: tuple[int, int] | None = None
        """Columns and rows that its terminal began with; None when it has none."""
        self.timed_out_ms: int | None = None
        """The clock that ended it."""
        self.timeout_ms: int | None = None
        self.timeout_clock: str | None = None
        """Whose limit that is: the request's field, or the name in ``Limits``."""
        self.asked: object = None
        """What a caller asked for, to tell a repeated request from another one of the same id."""
        self.survivors: list[int] = []
        """Pids that outlived its clock's kill."""
        self.placed = False
        """In a cgroup of its own."""
        self.group: Group | None = None
        """That holds it to its limits."""
        self.at_end: dict[str, int] = {}
        """How often it had met each of those by its end, by their names for callers."""
        self._family = family
        self._begun = time.monotonic()
        self._when_ended: list[Callable[[], object]] = []
        self.exit: Exit | None = None
        """How it ended, once it did."""

    @property
    def running(self) -> bool:
        """Whether the leader still runs."""
        return self.exit is None

    @property
    def limits_met(self) -> list[str]:
        """Limits of its own that it has met by its end."""
        return met(self.at_end)

    def met_so_far(self) -> dict[str, int]:
        """How often it has met each, now or by its end."""
        return self.group.counts() if self.group is not None and self.running else self.at_end

    @property
    def duration_ms(self) -> float:
        """Until its end, or until now."""
        return ((self.ended or time.monotonic()) - self._begun) * 1000

    async def wait(self) -> Exit:
        """Until the leader has ended and its output is in; what its children still write is recorded too."""
        if self.exit is None:
            # One of the caller's own, which its cancellation may cancel: a shield costs a turn of the loop.
            over = asyncio.get_running_loop().create_future()
            call = self.when_ended(lambda: None if over.done() else over.set_result(None))
            try:
                await over
            finally:
                self._when_ended = [each for each in self._when_ended if each is not call]
        assert self.exit is not None
        return self.exit

    def when_ended(self, call: Callable[[], object]) -> Callable[[], object]:
        """Have ``call`` called in the turn of the loop in which its end is learned; gives it back."""
        if self.exit is None:
            self._when_ended.append(call)
        else:
            call()
        return call

    def family(self) -> set[int]:
        """Live pids of the command and of everything it started. Blocks for a walk over /proc."""
        return self._family(self.id)

    def has_ended(self, end: Exit) -> None:
        """For the table, in the turn in which it learns of it: remembers, and calls who waits."""
        self.ended = time.monotonic()
        self.exit = end
        calls, self._when_ended = self._when_ended, []
        for call in calls:
            call()
