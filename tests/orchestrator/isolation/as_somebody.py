"""``python as_somebody.py WHO DIRECTORY PROGRAM ...``: root runs PROGRAM with less than it has itself.

WHO is ``somebody``, a user without an account; ``somebody-routed``, the same where everybody may open
/dev/net/tun, as is usual; or ``root``, who may not mount, as in a plain container. This project and its
Python may lie where only root gets, so they are bound into a view of the file system in which DIRECTORY is
/tmp.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from orchestrator.isolation import kernel, probe, reach, view

SOMEBODY = 1_234_567
PROJECT = Path(__file__).parents[3]
TUNNEL = (10, 200)
_DROP_FROM_BOUNDS, _SYS_ADMIN = 24, 21


def main(who: str, directory: Path, program: list[str]) -> None:
    """Does not return."""
    needs = [PROJECT, *reach.python_needs()]
    covers = probe.outermost([*probe.closed(needs), "/tmp"])
    directory.chmod(0o777)
    view.enter(covers, [str(path) for path in needs], str(directory), "/etc/passwd")
    if who == "somebody-routed":
        _open_tunnel(Path("/tmp", "tun"))
    if who.startswith("somebody"):
        os.setgroups([])
        os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
    else:
        kernel.process_control(_DROP_FROM_BOUNDS, _SYS_ADMIN)
    os.environ |= {"TMPDIR": "/tmp", "HOME": "/tmp"}
    os.execv(program[0], program)


def _open_tunnel(node: Path) -> None:
    os.mknod(node, stat.S_IFCHR, os.makedev(*TUNNEL))
    node.chmod(0o666)
    kernel.mount(str(node), "/dev/net/tun", None, 4096)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
