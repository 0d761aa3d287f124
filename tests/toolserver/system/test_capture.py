"""What a look at the tree must not take for an absence: that it may open no more files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Busy
from protocol.limits import Limits
from toolserver.system import disk as disks
from toolserver.system.capture import Capture, glance
from toolserver.system.checkpoint_store import Store
from toolserver.system.disk import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "root/d").mkdir(parents=True)
    (tmp_path / "root/d/file").write_text("x")
    disk = Disk(tmp_path / "root")
    yield disk
    disk.close()


@pytest.mark.parametrize("name", ["d", "file"])
def test_what_could_not_be_opened_is_not_taken_for_absent_or_closed(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    opened = os.open

    def none_left(path: Any, *given: Any, **more: Any) -> int:
        if path == name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *given, **more)

    capture = Capture(disk, Store(tmp_path, Limits()), 1000)
    assert sorted(capture.below("d")) == ["d", "d/file"]
    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(OSError, match="open files"):
        capture.below("d")


def test_a_glance_that_is_not_to_be_had_says_so(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert glance(disk, "d/file").is_file
    assert not glance(disk, "d/gone").exists
    monkeypatch.setattr(disks, "_openat2", none_left)
    with pytest.raises(Busy):
        glance(disk, "d/file")
