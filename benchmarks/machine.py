"""What the figures were made on and with; names of hosts, users and directories left out."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("aiohttp", "uvloop", "msgspec", "isal", "zstandard", "websockets")
_TOOLS = (("tar", "--version"), ("git", "--version"), ("bash", "--version"), ("zstd", "--version"))


def machine(scratch: Path, rg: str, node: str) -> dict[str, object]:
    """Facts by name; ``scratch`` is where the files of the run are."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "file system": file_system(scratch, Path("/proc/self/mounts").read_text(encoding="utf-8")),
        "load before the run": ", ".join(f"{each:.1f}" for each in os.getloadavg()),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "ripgrep": _told(rg, "--version"),
        "node": _told(node, "--version"),
        **{name: _told(name, *words) for name, *words in _TOOLS},
    }


def file_system(path: Path, mounts: str) -> str:
    r"""The kind that ``path`` (absolute) is on, by the kernel's table of mounts; the longest place wins.

    >>> file_system(Path("/tmp/x"), "a / ext4 rw 0 0\nb /tmp tmpfs rw 0 0\nc /tm xfs rw 0 0\n")
    'tmpfs'
    """
    found, longest = "unknown", -1
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        if path.is_relative_to(place) and len(place) > longest:
            found, longest = kind, len(place)
    return found


@contextlib.contextmanager
def placed(cores: Mapping[int, int]) -> Iterator[None]:
    """Each of these programs, by its pid, has all of its threads on one core; then on any again.

    Which core the scheduler gives to who is asked over and over decides more than what he does.
    """
    any_core = os.sched_getaffinity(0)
    try:
        for pid, core in cores.items():
            _place(pid, {core})
        yield
    finally:
        for pid in cores:
            _place(pid, any_core)


def _place(pid: int, cores: set[int]) -> None:
    with contextlib.suppress(FileNotFoundError):  # it has ended
        for each in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(each.name), cores)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _told(*argv: str) -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
        return next(iter(done.stdout.splitlines()), "unknown").strip()
    return "none"
