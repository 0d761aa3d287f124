"""Writes at the same time, of which one fails."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from protocol.errors import NotFound, ToolError
from tests.builder import PATIENCE_SECONDS, tree_of
from toolserver.system.disk import Disk


def written(directory: int, name: str) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)


def test_a_directory_that_was_found_may_go_with_a_write_that_fails(tmp_path: Path) -> None:
    disk, made, found, gone = Disk(tmp_path), threading.Event(), threading.Event(), threading.Event()

    def failing(directory: int, name: str) -> int:
        made.set()
        assert found.wait(PATIENCE_SECONDS)
        raise OSError(errno.EIO, "Input/output error")

    def fail() -> None:
        with pytest.raises(ToolError, match="Input/output error"):
            disk.adopt(disk.path("d/e/one"), failing)
        gone.set()

    def late(directory: int, name: str) -> int:
        found.set()
        assert gone.wait(PATIENCE_SECONDS)
        return written(directory, name)

    other = threading.Thread(target=fail)
    other.start()
    assert made.wait(PATIENCE_SECONDS)
    disk.adopt(disk.path("d/e/two"), late)
    other.join(PATIENCE_SECONDS)
    assert tree_of(tmp_path) == {"d": None, "d/e": None, "d/e/two": b""}
    disk.close()


def test_what_is_not_found_for_another_reason_is_told(tmp_path: Path) -> None:
    disk, calls = Disk(tmp_path), list[str]()

    def failing(directory: int, name: str) -> int:
        calls.append(name)
        raise OSError(errno.ENOENT, "No such file or directory")

    for path in ("one", "d/two"):
        with pytest.raises(NotFound):
            disk.adopt(disk.path(path), failing)
    assert len(calls) == 2
    assert tree_of(tmp_path) == {}
    disk.close()
