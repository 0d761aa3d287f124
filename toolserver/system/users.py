"""Commands as another user, and the daemon's work on files in that user's name.

The daemon stays root, so that no signal and no trace of that user's reaches it. But what it writes has to be
the commands' to change, and what it may open is no more than they may: so its threads open and make files as
that user (the kernel's fsuid), and are root for all else. Threads inherit that from the one that calls this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from toolserver.system import kernel
from toolserver.system.domain import USER_VARIABLE, User
from toolserver.system.separation import SeparationMissing


def work_as(user: User, directories: Iterable[Path]) -> None:
    """From here on, files are that user's; ``directories`` are made, and given to him when they are empty.

    Raises SeparationMissing where that cannot be, or he may not write there.
    """
    if os.geteuid() != 0 or not kernel.knows_machine():
        raise SeparationMissing(
            f"{USER_VARIABLE} is user {user.uid}, and only root may start programs as another user: "
            "start the tool server as root, or leave the variable out"
        )
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        if not any(directory.iterdir()):
            os.chown(directory, user.uid, user.gid)
    kernel.treat_files_as(user.uid, user.gid)
    for directory in directories:
        try:
            os.utime(directory)
            os.scandir(directory).close()
        except OSError:
            raise SeparationMissing(
                f"{directory} is not for user {user.uid}, as whom commands run by {USER_VARIABLE}: give "
                f"it to him (chown -R {user.uid}:{user.gid}), and have the directories above it let him pass"
            ) from None
    programs = os.path.dirname(os.__file__)
    try:
        os.scandir(programs).close()
    except OSError:
        raise SeparationMissing(
            f"{programs}, the tool server's own Python, is not for user {user.uid}, as whom commands run by "
            f"{USER_VARIABLE}: use a Python that everybody may read"
        ) from None
