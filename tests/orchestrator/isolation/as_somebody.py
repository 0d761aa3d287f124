"""``python as_somebody.py DIRECTORY PROGRAM ...``: root runs PROGRAM as a user without an account.

This project and its Python may lie where only root gets, so they are bound into a view of the file system in
which DIRECTORY is /tmp and that user's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orchestrator.isolation import probe, reach, view

SOMEBODY = 1_234_567
PROJECT = Path(__file__).parents[3]


def main(directory: Path, program: list[str]) -> None:
    """Does not return."""
    needs = [PROJECT, *reach.python_needs()]
    covers = probe.outermost([*probe.closed(needs), "/tmp"])
    os.chown(directory, SOMEBODY, SOMEBODY)
    view.enter(covers, [str(path) for path in needs], str(directory), "/etc/passwd")
    os.setgroups([])
    os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
    os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
    os.environ |= {"TMPDIR": "/tmp", "HOME": "/tmp"}
    os.execv(program[0], program)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
