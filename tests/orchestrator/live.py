"""``workspace`` as a person runs it: a real process, a real tool server, a data directory of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from orchestrator import processes
from orchestrator.backends.environment import marker
from orchestrator.cli import cli

WORKSPACE = [sys.executable, "-m", "orchestrator"]
WAIT_SECONDS = 60
"""Before a wait counts as a hang: half of what a whole test has."""


class Host:
    """One data directory, and the commands run on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.environ = {**os.environ, "DATA_DIR": str(self.data)}

    def run(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """A command to its end."""
        return subprocess.run(
            [*WORKSPACE, *words],
            cwd=self.directory,
            env=self.environ,
            input=stdin,
            capture_output=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def inside(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """The same inside this process: a third of a second less each."""
        result = CliRunner().invoke(
            cli, words, input=stdin, env={"DATA_DIR": str(self.data)}, prog_name="workspace"
        )
        return subprocess.CompletedProcess(words, result.exit_code, result.stdout_bytes, result.stderr_bytes)

    def json(self, *words: str) -> Any:
        """A command's answer; it has to go well."""
        done = self.inside(*words, "--json")
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    @contextmanager
    def up(self, *words: str) -> Iterator[Up]:
        """``workspace up ... --json``, killed at the end if it still runs."""
        process = subprocess.Popen(
            [*WORKSPACE, "up", *words, "--port", "0", "--json"],
            cwd=self.directory,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield Up(process)
            finally:
                process.kill()

    def sessions(self) -> list[str]:
        """Every session that has left anything in the data directory."""
        return [path.name.lstrip(".") for path in self.data.glob("workspaces/*/*")]

    def processes(self) -> set[int]:
        """Every live process of any session that left anything, or is in the registry."""
        known = {*self.sessions(), *(row["session"] for row in self.json("ls", "--all"))}
        return {pid for session in known for pid in processes.members(marker(session))}

    def end_everything(self) -> None:
        """So that a test that failed leaves nothing either."""
        if self.sessions():
            self.inside("down", "--all", "--remove")


class Up:
    """A ``workspace up`` that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: dict[str, Any] = {}

    def ready(self) -> Up:
        """Wait until it says where the workspace is; what it said instead is in the failure."""
        assert self.process.stdout is not None
        come, _, _ = select.select([self.process.stdout], [], [], WAIT_SECONDS)
        if not come:
            self.process.kill()
            raise AssertionError(f"not ready within {WAIT_SECONDS} s:\n{self.end()[1]}")
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.end()[1])
        self.said = json.loads(line)
        assert "error" not in self.said, self.said
        return self

    @property
    def session(self) -> str:
        """Its id."""
        return str(self.said["session"])

    def processes(self) -> set[int]:
        """What runs in the sandbox."""
        return processes.members(marker(self.session))

    def signal(self, number: signal.Signals) -> tuple[int, str]:
        """Send it, and wait for the end: exit code and what stood on stderr."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Wait for the end: exit code and what stood on stderr."""
        _, errors = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, errors


def get(url: str) -> tuple[int, bytes]:
    """Status and body. No proxy is asked: it is this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=WAIT_SECONDS) as response:
        return response.status, response.read()


def until(holds: Any) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"it does not hold after {WAIT_SECONDS} s"
        time.sleep(0.02)


def template(directory: Path, name: str, files: dict[str, str], **fields: Any) -> None:
    """A template in ``directory``/templates."""
    for path, content in files.items():
        file = directory / "templates" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    if fields:
        (directory / "templates" / name / "template.json").write_text(json.dumps(fields))
