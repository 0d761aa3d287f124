"""The tool server on a kernel without Landlock: its first call answers as if there were no such thing."""

from __future__ import annotations

import errno
import os

from protocol import landlock
from protocol.seccomp import program, refuse, when
from toolserver.__main__ import main
from toolserver.system import kernel

if __name__ == "__main__":
    kernel.no_new_privileges()
    kernel.filter_calls(program(os.uname().machine, when(landlock.CREATE_RULESET, refuse(errno.ENOSYS))))
    main()
