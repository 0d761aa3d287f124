"""What becomes of programs in instants that no client can choose: families with a table in this process.

Its end takes all programs below this process along: so no daemon of a fixture may run in this file.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.errors import DevServerFailed
from protocol.limits import Limits
from protocol.messages.archives import InjectMode
from protocol.messages.devserver import DevStart, DevState, Install
from protocol.paths import WorkspacePath
from tests.builder import PATIENCE_SECONDS, some_turns, until
from tests.ports import free_port
from tests.toolserver.system.tables import opened
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.processes import Outcome, Process, ProcessTable
from toolserver.tools.archives import Archives
from toolserver.tools.call import Call
from toolserver.tools.devserver import DevServer
from toolserver.tools.errands import finish
from toolserver.tools.files import SMALL_BYTES
from toolserver.tools.install import Installs
from toolserver.tools.locks import PathLocks
from toolserver.tools.raw import Opened, RawFiles


async def test_an_install_that_is_cancelled_twice_is_over_when_another_may_begin(tmp_path: Path) -> None:
    limits = Limits(stop_grace_ms=100)
    async with opened(tmp_path, limits) as table:
        disk = Disk(tmp_path)
        installs = Installs(table, disk, os.environ, limits, cast(Any, SimpleNamespace(on=False)))
        deaf = "trap '' TERM; touch on; while :; do sleep 0.02; done"
        task = asyncio.create_task(installs.install(Install(command=deaf), Call("1")))
        await until((tmp_path / "on").exists)
        for _ in range(2):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not installs.running
        assert not any(each.running for each in table.all())
        disk.close()


class Deadly:
    """Looks after a dev server that dies once it has answered."""

    def __init__(self, table: ProcessTable) -> None:
        self.table = table
        self.told: list[str] = []

    def check(self, request: DevStart) -> None: ...

    async def launching(self, request: DevStart) -> None: ...

    async def answered(self, request: DevStart) -> None:
        for each in self.table.all():
            os.kill(each.pid, signal.SIGKILL)
            await each.wait()

    def ready(self, request: DevStart) -> None:
        self.told.append("ready")


async def test_a_dev_server_that_ends_before_it_is_told_to_be_ready_has_failed(tmp_path: Path) -> None:
    async with opened(tmp_path) as table:
        disk, port = Disk(tmp_path), free_port()
        dev = DevServer(table, disk, {"PATH": os.environ["PATH"]}, Limits(), "127.0.0.1", port)
        dev.observer = deadly = Deadly(table)
        serve = f"exec {sys.executable} -m http.server {port} --bind 127.0.0.1"
        with pytest.raises(DevServerFailed, match="ended with exit code 137 before it was ready"):
            await dev.dev_start(DevStart(command=serve), Call("1"))
        assert (dev.state, deadly.told) == (DevState.CRASHED, [])
        await dev.close()
        disk.close()


async def test_a_dev_server_that_is_asked_for_while_content_is_replaced_is_started_from_the_new(
    tmp_path: Path,
) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    root.mkdir()
    state.mkdir()
    (root / "which").write_text("old")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("which")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    async with opened(state) as table:
        disk, gate, port = Disk(root), Gate(), free_port()
        dev = DevServer(table, disk, {"PATH": os.environ["PATH"]}, Limits(), "127.0.0.1", port)
        archives = Archives(disk, state, gate, Limits(), replacing=dev.leaving)
        serve = f"cat which > {tmp_path}/seen; exec {sys.executable} -m http.server {port} --bind 127.0.0.1"
        async with gate.shared():
            inject = archives.inject_bytes(out.getvalue(), InjectMode.REPLACE, None, Call("1"))
            injecting = asyncio.create_task(inject)
            await until(lambda: not gate.free, "the injection to wait for its turn")
            starting = asyncio.create_task(dev.dev_start(DevStart(command=serve), Call("2")))
            for _ in range(500):  # as far as it gets, on threads too
                await asyncio.to_thread(int)
        await injecting
        await starting
        assert (tmp_path / "seen").read_text() == "new"
        await archives.close()
        await dev.end()
        await dev.close()
        disk.close()


async def test_a_download_that_is_cancelled_while_its_file_is_opened_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(bytes(SMALL_BYTES + 1))
    disk, begun, let = Disk(tmp_path), threading.Event(), threading.Event()
    files = RawFiles(disk, tmp_path, Gate(), PathLocks(), Limits(), cast(Any, None))
    open_now = files._open

    def slowly(path: WorkspacePath) -> Opened:
        file = open_now(path)
        descriptors.append(file.fd)
        begun.set()
        assert let.wait(PATIENCE_SECONDS)
        return file

    async def download() -> None:
        async with files.opened("file"):
            pass

    descriptors = list[int]()
    monkeypatch.setattr(files, "_open", slowly)
    task = asyncio.create_task(download())
    await until(begun.is_set)
    task.cancel()
    await asyncio.sleep(0)
    let.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])
    disk.close()


class Held:
    """A table's end of a program, which is not over before it is let."""

    def __init__(self, table: ProcessTable, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let = asyncio.Event(), asyncio.Event()
        self._stop = table.stop
        monkeypatch.setattr(table, "stop", self.stop)

    async def stop(self, process: Process, grace_ms: int | None = None) -> Outcome:
        self.begun.set()
        await self.let.wait()
        return await self._stop(process, 0)


async def test_an_errand_of_the_daemon_that_is_cancelled_twice_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as table:
        held = Held(table, monkeypatch)
        process = await table.start_soon(["sleep", "1000"], cwd=str(tmp_path), env=os.environ)
        task = asyncio.create_task(finish(table, process))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await held.begun.wait()
        for _ in range(2):
            task.cancel()
            await some_turns()
        assert table.find(process.id) is process
        held.let.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not process.running
        assert table.find(process.id) is None


async def test_an_errand_that_will_not_end_keeps_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_vain(process: Process, grace_ms: int | None = None) -> Outcome:
        return Outcome([], [process.pid])

    async with opened(tmp_path) as table:
        process = await table.start_soon(["sleep", "1000"], cwd=str(tmp_path), env=os.environ)
        with monkeypatch.context() as patch:
            patch.setattr(table, "stop", in_vain)
            await finish(table, process)
        assert table.find(process.id) is process


async def test_a_dev_server_whose_content_is_not_replaced_after_all_is_ended_whole_and_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as table:
        disk, port = Disk(tmp_path), free_port()
        dev = DevServer(table, disk, {"PATH": os.environ["PATH"]}, Limits(), "127.0.0.1", port)
        serve = f"exec {sys.executable} -m http.server {port} --bind 127.0.0.1"
        await dev.dev_start(DevStart(command=serve), Call("1"))
        held = Held(table, monkeypatch)
        leaving = asyncio.create_task(dev.leaving().__aenter__())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await held.begun.wait()
        for _ in range(2):
            leaving.cancel()
            await some_turns()
        held.let.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert dev.state is DevState.DOWN
        assert not any(each.running for each in table.all())
        again = await dev.dev_start(DevStart(), Call("2"))
        assert (again.state, again.command) == (DevState.READY, serve)
        await dev.close()
        disk.close()
