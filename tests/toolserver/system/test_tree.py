"""Who started whom, read without a look at processes that have nothing to do with it."""

from __future__ import annotations

import subprocess

from toolserver.system.tree import lineage


def test_a_process_and_all_below_it_are_found() -> None:
    line = "sh -c 'echo $$; exec sleep 1000' & sh -c 'echo $$; exec sleep 1000' & wait"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        below = {int(process.stdout.readline()) for _ in range(2)}
        assert {process.pid, *below} == set(lineage(process.pid))
        for pid in below:
            subprocess.run(["kill", "-9", str(pid)], check=True)


def test_of_one_that_is_gone_only_its_pid_is_left() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert lineage(process.pid) == [process.pid]
