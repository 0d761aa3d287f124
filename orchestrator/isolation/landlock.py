"""Landlock: a process gives up what is not on a list, for itself and all that it will ever start.

The rights and their numbers are ``protocol.landlock``; which of them a kernel knows is told by its ABI.
Landlock binds the calling thread: apply it before there is a second one.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from orchestrator.isolation import kernel
from protocol.landlock import (
    ADD_RULE,
    ASK_VERSION,
    BIND_TCP,
    CONNECT_TCP,
    CREATE_RULESET,
    KINDS,
    MIN_ABI,
    NET_ABI,
    NET_PORT,
    PATH_BENEATH,
    RESTRICT_SELF,
    SCOPE_ABI,
    TRUNCATE_ABI,
    granted,
    path_rule,
    port_rule,
    ruleset,
)

__all__ = ["KINDS", "MIN_ABI", "NET_ABI", "SCOPE_ABI", "TRUNCATE_ABI", "abi", "restrict_self"]


def abi() -> int:
    """The kernel's version of the interface; 0 when it has none, or is told not to use it."""
    try:
        return kernel.system_call(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    except OSError:
        return 0


def restrict_self(
    abi: int, paths: Iterable[tuple[str, str]], bind: Iterable[int], connect: Iterable[int]
) -> None:
    """Tie the calling thread down: to ``paths`` (kind, path), and to TCP ports where the kernel can.

    Without any port TCP is not judged. A path that is not there is passed over. Needs ``no_new_privileges``
    first, unless root.
    """
    by_port = bool([*bind, *connect])
    asked = ruleset(abi, by_port=by_port)
    rules = kernel.system_call(CREATE_RULESET, asked, ctypes.c_size_t(len(asked)), 0)
    try:
        for kind, path in paths:
            _allow_path(rules, abi, kind, path)
        if by_port and abi >= NET_ABI:
            for access, ports in ((BIND_TCP, bind), (CONNECT_TCP, connect)):
                for port in ports:
                    kernel.system_call(ADD_RULE, rules, NET_PORT, port_rule(access, port), 0)
        kernel.system_call(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow_path(rules: int, abi: int, kind: str, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        access = granted(kind, abi, stat.S_ISDIR(os.fstat(fd).st_mode))
        if access:
            kernel.system_call(ADD_RULE, rules, PATH_BENEATH, path_rule(access, fd), 0)
    finally:
        os.close(fd)
