"""How a program is started: the one call that makes a process, and what its refusals mean.

``subprocess.Popen`` on its vfork path: no ``preexec_fn``, which forks and grows with our memory. Whatever
the system says against it becomes a sentence that names the program and what to do.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence

from protocol.errors import Busy, Forbidden, InvalidRequest, NotFound, TooLarge, ToolError


def spawn(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    tried: Sequence[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` as the leader of a session of its own, in about a millisecond.

    ``tried`` is what the caller asked for, when ``argv`` is only the way there: refusals name it. Raises
    NotFound, Forbidden, InvalidRequest, TooLarge, Busy.
    """
    program = (tried or argv)[0]
    try:
        return subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise not_started(error, program, cwd) from None


def refuse_missing(program: str, cwd: str) -> None:
    """For a program that a shell is to become: what ``spawn`` would say, before there is a shell."""
    if not os.access(os.path.join(cwd, program), os.X_OK):
        there = os.path.exists(os.path.join(cwd, program))
        raise not_started(PermissionError() if there else FileNotFoundError(), program, cwd)


def not_started(error: OSError | ValueError, program: str, cwd: str) -> ToolError:
    """The refusal that a failed start becomes."""
    if isinstance(error, FileNotFoundError):
        if os.path.exists(os.path.join(cwd, program)):
            what = f"{program!r} is there, but the program that its first line names is not"
        else:
            what = (
                f"there is no program {program!r}{'' if '/' in program else ' on the PATH'}; check its name"
            )
        return NotFound(what, program=program)
    if isinstance(error, PermissionError):
        return Forbidden(f"{program!r} may not be executed; is its x bit set?", program=program)
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return TooLarge("arguments and environment are too long for the system; use a file or stdin")
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENOMEM):
        return Busy(f"the system has no room for another process: {error.strerror}")
    reason = (isinstance(error, OSError) and error.strerror) or error
    return InvalidRequest(f"{program!r} cannot be started: {reason}", program=program)
