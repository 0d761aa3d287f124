"""Who started whom, read without a look at processes that have nothing to do with it."""

from __future__ import annotations

import signal
import subprocess
import sys

from toolserver.system.tree import is_starved, lineage


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


def test_who_does_not_want_a_signal_is_not_starved() -> None:
    code = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}); print(flush=True)\n"
    argv = [sys.executable, "-c", code + "while True: pass"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        assert not is_starved(process.pid, signal.SIGUSR1)
        process.kill()
        process.wait()
        assert not is_starved(process.pid, signal.SIGKILL)
