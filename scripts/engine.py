"""A Docker engine to build and test the image with: the one that answers, else one started for the while.

    with engine():
        ...                # `docker` works in here

Where no engine answers, root gets one: Debian's package when there is none installed, and `dockerd` as a
child of this process, ended by its id when the block ends. Images and layers stay on the disk for the next
time. Anybody else is told what is missing. An engine that answers already is never touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ANSWER_SECONDS = 120.0
"""From the start of dockerd to its first answer; 1.5 s measured, the rest is for a busy disk."""
ASK_SECONDS = 30.0
"""For one answer. An engine that is silent for as long is none; 0.1 s measured."""
PID_FILE = Path("/var/run/docker.pid")
LOCK_SECONDS = 300
"""For another apt to be done: a fresh machine often looks for updates by itself."""
STOP_SECONDS = 60.0
"""For dockerd to end its containers and itself; each container has 10 s of its own."""


class NoEngine(Exception):
    """There is no engine and none can be started; the message says what to do."""


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """An engine that answers inside the block. Raises NoEngine."""
    if answers():
        yield
        return
    if "DOCKER_HOST" in os.environ:
        raise NoEngine(
            f"no engine answers at DOCKER_HOST, {os.environ['DOCKER_HOST']!r}: start it, or unset DOCKER_HOST"
        )
    if os.geteuid() != 0:
        raise NoEngine(
            "no Docker engine answers `docker version`: start one, or run this as root to have one started"
        )
    install("dockerd", "docker.io")
    install("docker", "docker-cli")
    if answers():
        yield
        return
    with own_engine():
        yield


def answers() -> bool:
    """Whether `docker` is there and reaches an engine."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            check=False,
            timeout=ASK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def install(program: str, package: str) -> None:
    """Debian's ``package`` unless ``program`` is there; raises NoEngine when apt cannot."""
    if shutil.which(program):
        return
    if shutil.which("apt-get") is None:
        raise NoEngine(
            f"{program} is not installed and this is no Debian: install Docker by its own instructions"
        )
    say(f"installing {package}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    told = ""
    for arguments in (["update"], ["install", "-y", package]):
        # Not checked: one foreign source out of reach fails `update`, and what counts is the program.
        done = subprocess.run(
            ["apt-get", "-qq", "-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}", *arguments],
            env=environ,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        told += done.stdout
    if shutil.which(program) is None:
        sys.stderr.write(told)
        raise NoEngine(f"apt-get could not install {package}; the reason stands above")


@contextlib.contextmanager
def own_engine() -> Iterator[None]:
    """A dockerd of our own, ended when the block ends."""
    with tempfile.TemporaryDirectory(prefix="dockerd-") as scratch:
        log = Path(scratch, "log")
        with log.open("wb") as output:
            # A session of its own: Ctrl-C is for the tests, which then still have an engine to clean up with.
            dockerd = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
        try:
            wait_for(dockerd, log)
            say(f"started dockerd, pid {dockerd.pid}")
            yield
        finally:
            end(dockerd)


def wait_for(dockerd: subprocess.Popen[bytes], log: Path) -> None:
    """Until one answers; raises NoEngine with the end of its log when it ended or took too long.

    It also ends where the package's own service was begun by the installation, and answers a moment later.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while not answers():
        if (dockerd.poll() is not None and not another_begins()) or time.monotonic() > deadline:
            sys.stderr.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-10:]))
            raise NoEngine("dockerd does not answer; the end of its log stands above")
        time.sleep(0.2)


def another_begins() -> bool:
    """Whether a dockerd runs that has noted its process id."""
    try:
        return Path("/proc", PID_FILE.read_text().strip(), "comm").read_text() == "dockerd\n"
    except OSError:
        return False


def end(dockerd: subprocess.Popen[bytes]) -> None:
    """TERM, a grace, KILL."""
    dockerd.terminate()
    try:
        dockerd.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        dockerd.kill()
        dockerd.wait()


def docker(*arguments: str) -> str:
    """Run the client to its end and give what it printed; raises CalledProcessError, its complaint shown."""
    done = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def clients() -> Iterator[str]:
    """Every `docker` on PATH, first one first."""
    seen: set[Path] = set()
    for directory in os.get_exec_path():
        found = shutil.which("docker", path=directory)
        if found and (real := Path(found).resolve()) not in seen:
            seen.add(real)
            yield found


def buildkit_client() -> str | None:
    """A client that speaks to BuildKit here: one with buildx, or one old enough to have it built in.

    Debian's packages and a newer client may lie beside each other; each is asked.
    """
    return next((client for client in clients() if _speaks_buildkit(client)), None)


def _speaks_buildkit(client: str) -> bool:
    if _succeeds([client, "buildx", "version"]):
        return True
    done = subprocess.run(
        [client, "version", "--format", "{{.Client.Version}}"], capture_output=True, text=True, check=False
    )
    major = done.stdout.partition(".")[0]
    # From 23 on the client leaves BuildKit to buildx.
    return major.isdecimal() and int(major) < 23


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def say(text: str) -> None:
    """One line of progress on stderr."""
    print(f"engine: {text}", file=sys.stderr, flush=True)
