"""Injections that end before their archive does."""

from __future__ import annotations

import asyncio
import io
import tarfile
import threading
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path

import pytest

from protocol.limits import KIB, MIB, Limits
from protocol.messages.archives import InjectMode
from tests.builder import PATIENCE_SECONDS
from toolserver.system import swap
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.tarballs.extraction import Extraction
from toolserver.system.tarballs.writer import TreeWriter
from toolserver.tools.archives import Archives
from toolserver.tools.call import Call


def one_file(size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("large.bin")
        member.size = size
        tar.addfile(member, io.BytesIO(bytes(size)))
    return out.getvalue()


async def test_a_piece_that_a_slow_disk_still_writes_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, goes_on, released = threading.Event(), threading.Event(), []
    write = TreeWriter.write

    def slowly(self: TreeWriter, data: memoryview) -> None:
        if threading.current_thread().name.startswith("archive"):
            writes.set()
            released.append(goes_on.wait(PATIENCE_SECONDS))
        write(self, data)

    ends = threading.Event()
    abort = Extraction.abort

    def noticed(self: Extraction) -> None:
        ends.set()
        abort(self)

    monkeypatch.setattr(TreeWriter, "write", slowly)
    monkeypatch.setattr(Extraction, "abort", noticed)
    root, state = tmp_path / "root", tmp_path / "state"
    root.mkdir()
    state.mkdir()
    (root / "old").touch()
    archive = one_file(4 * MIB)

    async def source() -> AsyncGenerator[bytes]:
        for at in range(0, 2 * MIB, 512 * KIB):
            yield archive[at : at + 512 * KIB]
            if at >= MIB:
                assert await asyncio.to_thread(writes.wait, PATIENCE_SECONDS)
                raise ConnectionResetError("the sender is gone")

    disk = Disk(root)
    archives = Archives(disk, state, Gate(), Limits(), replacing=nullcontext)
    injecting = asyncio.create_task(archives.inject_stream(source(), InjectMode.REPLACE, None, Call("1")))
    assert await asyncio.to_thread(ends.wait, PATIENCE_SECONDS)
    goes_on.set()
    with pytest.raises(ConnectionResetError):
        await injecting
    assert released
    assert all(released)
    assert [path.name for path in root.iterdir()] == ["old"]
    assert list(state.iterdir()) == []
    disk.close()


async def test_what_an_injection_leaves_that_a_stop_ends_is_removed_at_the_next_start(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    for each in (root, state / "trash-of-another"):
        each.mkdir(parents=True)
    disk = Disk(root)
    archives = Archives(disk, state, Gate(), Limits(), replacing=nullcontext)
    await archives.close()

    async def source() -> AsyncGenerator[bytes]:
        yield one_file(KIB)
        raise ConnectionResetError("the tool server stops")

    with pytest.raises(ConnectionResetError):
        await archives.inject_stream(source(), InjectMode.REPLACE, None, Call("1"))
    left = sorted(path.name for path in state.iterdir())
    assert len(left) == 2
    assert all(name.startswith("trash-") for name in left)
    swap.recover(root, state)
    assert list(state.iterdir()) == []
    assert list(root.iterdir()) == []
    disk.close()
