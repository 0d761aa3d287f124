"""What a kept shell knows of the jobs that earlier commands left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from toolserver.system.kept_shell import _children

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
