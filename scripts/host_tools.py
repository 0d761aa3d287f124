"""The programs that isolation is stronger with, so that its tests run: ``python3 -m scripts.host_tools``.

Root gets Debian's packages for those that are missing. Where that cannot be, it says so, and the tests that
want them say for their part that they are skipped, and why: this never fails.
"""

from __future__ import annotations

import os
import shutil
import sys

from scripts import engine

PACKAGES = {"pasta": "passt", "bwrap": "bubblewrap"}
"""Program: package."""


def main() -> None:
    """Install what is missing, or say why not."""
    for program, package in PACKAGES.items():
        if shutil.which(program) is None:
            say(f"{program}: {installed(program, package)}")


def installed(program: str, package: str) -> str:
    """What became of it."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"not here, and only root with apt-get can change that ({package}); its tests are skipped"
    try:
        engine.install(program, package)
    except engine.NoEngine as error:
        return f"{error}; its tests are skipped"
    return f"installed with {package}"


def say(text: str) -> None:
    """One line on stderr."""
    print(f"host tools: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
