"""Commands give way to the daemon where both want a processor, so that a busy workspace still answers.

Lowered are what people and agents run, after it has started: that needs no rights, while to wear the value
and take it off again would. Where Linux shares processors by session ("autogroup", on machines rather than in
containers) a process's own value counts only within its session, so the session's is lowered too. For that
the system takes ten a second of a user without rights; who was refused is asked for again while he runs.
"""

from __future__ import annotations

import contextlib
import errno
import os


def lower(pid: int, by: int) -> bool:
    """Have the session led by ``pid`` give way ``by`` steps; False when part of it is to be tried again.

    Whom it has started by now goes with it, by its process group.
    """
    if not by:
        return True
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, _lowered(by))
    return _lower_session(pid, by)


def lower_missed(pid: int, by: int) -> None:
    """Have whom ``lower`` missed in the group of ``pid`` give way too; nobody is changed where nobody was.

    Who was just being forked then was not in the group yet, and has his parent's value of before.
    """
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PGRP, pid) < _lowered(by):
            os.setpriority(os.PRIO_PGRP, pid, _lowered(by))


def _lowered(by: int) -> int:
    """The value of one that gives way."""
    return min(os.getpriority(os.PRIO_PROCESS, 0) + by, 19)


def _lower_session(pid: int, by: int) -> bool:
    try:
        fd = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or there are no such groups
    try:
        os.write(fd, b"%d" % by)
    except OSError as error:
        return error.errno != errno.EAGAIN
    finally:
        os.close(fd)
    return True
