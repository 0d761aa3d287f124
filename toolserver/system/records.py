"""The records of programs: of those that run, and of those that ended until they are too many or too old."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from protocol.errors import NotFound
from protocol.limits import Limits
from toolserver.system.census import Census
from toolserver.system.output import put_older_away
from toolserver.system.pipes import Pipes
from toolserver.system.process import Process
from toolserver.system.retention import Kept, too_many

ENDED_MEMORY_BYTES = 8 * 1024 * 1024
"""Of all ended programs' output; the rest is in files. 256 of them with 1 MB each held 80 MiB before."""


class Records:
    """All that are kept. Belongs to the event loop's thread."""

    def __init__(self, limits: Limits, pipes: Pipes, census: Census) -> None:
        self._limits = limits
        self._pipes = pipes
        self._census = census
        self._processes: dict[str, Process] = {}
        self._over: dict[str, Process] = {}
        """Those that have ended, in the order of their ends."""
        self._forgotten_bytes = 0

    def add(self, process: Process) -> None:
        """One that has just been started."""
        self._processes[process.id] = process

    def ended(self, process: Process) -> None:
        """From now on it counts among those that may have to go."""
        if self._processes.get(process.id) is process:
            self._over[process.id] = process

    def strike(self, process: Process) -> None:
        """Drop this one, where it is still kept."""
        if self._processes.get(process.id) is not process:
            return
        del self._processes[process.id]
        self._over.pop(process.id, None)
        self._forgotten_bytes += process.stdout.end + process.stderr.end
        self._census.strike(process.id)

    @property
    def output_bytes(self) -> int:
        """Written by all programs so far, whether it is still kept or not."""
        kept = sum(each.stdout.end + each.stderr.end for each in self._processes.values())
        return self._forgotten_bytes + kept

    def get(self, id: str) -> Process:
        """The process of that id; raises NotFound when there is none, or its record is gone."""
        try:
            return self._processes[id]
        except KeyError:
            raise NotFound(
                f"there is no process {id!r}, or its record is no longer kept; 'processes' lists them",
                process_id=id,
            ) from None

    def find(self, id: str) -> Process | None:
        """The process of that id, or None."""
        return self._processes.get(id)

    def all(self) -> list[Process]:
        """Every process with a record, in the order of their start."""
        return list(self._processes.values())

    def forget_old(self) -> None:
        """Drop the records that the limits keep no longer; one that somebody reads stays until he is done."""
        for id in self._too_many():
            process = self._processes[id]
            self.strike(process)
            process.stdout.abandon()
            process.stderr.abandon()
        if self._most_kept_bytes > ENDED_MEMORY_BYTES:
            self._put_away()

    @property
    def _most_kept_bytes(self) -> int:
        """Records hold no more than what was read, and the beginnings of it a second time."""
        return 2 * (self._pipes.read_bytes - self._forgotten_bytes)

    def _too_many(self) -> Sequence[str]:
        """Ids of the records to drop. To look at each of 256 keeps the loop for 0.7 ms, ten times a second
        while commands come and go: mostly it is only their number, and the oldest go."""
        now, limits = time.monotonic(), self._limits
        oldest = next(iter(self._over.values()), None)
        if oldest is None:
            return ()
        young = (now - (oldest.ended or now)) * 1000 <= limits.max_kept_process_age_ms
        if young and self._most_kept_bytes <= limits.max_kept_output_in_all_bytes:
            excess = max(0, len(self._over) - limits.max_kept_processes)
            free = (each.id for each in map(_kept, self._over.values()) if not (each.open or each.followed))
            found = list(itertools.islice(free, excess))
            if len(found) == excess:
                return found
        return too_many(map(_kept, self._over.values()), now, limits)

    def _put_away(self) -> None:
        ended = reversed(self._over.values())
        put_older_away((log for each in ended for log in (each.stdout, each.stderr)), ENDED_MEMORY_BYTES)


def _kept(process: Process) -> Kept:
    logs = process.stdout, process.stderr
    assert process.ended is not None
    return Kept(
        process.id,
        process.ended,
        sum(each.kept_bytes for each in logs),
        open=not all(each.closed for each in logs),
        followed=any(each.followed for each in logs),
    )
