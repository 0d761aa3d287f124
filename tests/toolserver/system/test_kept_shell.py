"""What a kept shell knows of the jobs that earlier commands left behind, and how it is given up."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import Internal
from protocol.limits import Limits
from tests.builder import until
from tests.toolserver.system.tables import opened
from toolserver.system import tree
from toolserver.system.kept_shell import KeptShell, _children
from toolserver.system.output import OutputLog
from toolserver.system.pipes import Pipes

COUNT = 900
"""More than the kernel tells in one page."""
MANY = f"""
import os, signal
for _ in range({COUNT}):
    if not os.fork():
        signal.pause()
print("there", flush=True)
signal.pause()
"""


def test_jobs_are_told_apart_from_a_command_however_many_they_are() -> None:
    if _children(os.getpid()) is None:
        pytest.skip("this kernel does not tell a process's children")
    with subprocess.Popen(
        [sys.executable, "-ISc", MANY], stdout=subprocess.PIPE, start_new_session=True
    ) as shell:
        try:
            assert shell.stdout is not None
            assert shell.stdout.readline() == b"there\n"
            assert len(_children(shell.pid) or ()) == COUNT
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


async def test_a_shell_that_nothing_ends_is_told_of_and_takes_no_other_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_vain(shell: KeptShell, *_: object) -> None:
        """As to one whom the kernel keeps waiting for a disk: it does nothing any more, and does not end."""
        pid = shell.process.pid
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: (proc := tree.process(pid)) is not None and proc.stopped)

    monkeypatch.setattr(KeptShell, "_interrupt", in_vain)
    limits, pipes = Limits(), Pipes()
    async with opened(tmp_path) as table:
        shell = KeptShell(tmp_path / "sh", table, pipes, limits)
        bash = shutil.which("bash")
        assert bash is not None
        await shell.start(bash, str(tmp_path), os.environ)
        output = OutputLog(tmp_path, 1000), OutputLog(tmp_path, 1000)
        unwanted = asyncio.get_running_loop().create_future()
        unwanted.set_result(None)
        with pytest.raises(Internal, match="did not end although it was killed; ask again for a fresh one"):
            await shell.run("sleep 1000", None, output, 1000, unwanted)
        assert shell.process.running
        assert not shell.alive
        assert not (tmp_path / "sh").exists()
    for log in output:
        log.release()
    pipes.close()
