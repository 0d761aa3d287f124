"""Disks as the tests want them: one whose writing is waited for, one that holds every write."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from toolserver.system.spill import Ring, the_writer

LIMIT_SECONDS = 60.0


class _Mark:
    """Stands in the writer's queue like a ring, and tells when it is its turn."""

    def __init__(self) -> None:
        self.reached = threading.Event()

    def step(self) -> None:
        self.reached.set()


def on_the_disk() -> None:
    """Until nothing that was spilled is on its way any more, and what was let go of is closed."""
    _one_round()
    while the_writer().in_flight_bytes:
        _one_round()
    # A file that is closed after a write has its turn behind what was due meanwhile.
    _one_round()


def _one_round() -> None:
    mark = _Mark()
    the_writer().due(cast(Ring, mark))
    assert mark.reached.wait(LIMIT_SECONDS)


class HeldDisk:
    """Takes nothing before it is let go on; whoever writes waits."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        """Somebody waits for it."""
        self._free = threading.Event()
        self._write = os.pwritev

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        self.asked.set()
        assert self._free.wait(LIMIT_SECONDS)
        return self._write(fd, buffers, offset)

    def go_on(self) -> None:
        self._free.set()


@contextlib.contextmanager
def held_disk() -> Iterator[HeldDisk]:
    """In here every write of spilled output waits for ``go_on``."""
    disk = HeldDisk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", disk.pwritev)
        try:
            yield disk
        finally:
            disk.go_on()
            on_the_disk()


def open_files_in(directory: Path) -> list[Path]:
    """The descriptors by which this process holds files of ``directory``, unlinked ones too."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        # The descriptor that lists them is gone by then.
        with contextlib.suppress(OSError):
            if each.readlink().is_relative_to(directory):
                found.append(each)
    return found
