"""System calls that Python has no function for. Each raises OSError as ``os`` would."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_NO_NEW_PRIVS = 38


def system_call(number: int, *arguments: object) -> int:
    """Any system call by its number."""
    return _checked(_libc.syscall(number, *arguments))


def no_new_privileges() -> None:
    """From here on no program gives more rights than its caller has: set-user-id bits mean nothing."""
    process_control(_PR_SET_NO_NEW_PRIVS, 1)


def process_control(option: int, *arguments: object) -> None:
    """prctl(2); arguments that are left out are 0."""
    given = (*arguments, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(option, *(_word(each) for each in given)))


def unshare(flags: int) -> None:
    """Leave namespaces that are shared with the parent."""
    _checked(_libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    words = (source, target, kind)
    encoded = [None if word is None else os.fsencode(word) for word in words]
    options = None if data is None else os.fsencode(data)
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), options), target)


def _word(value: object) -> object:
    # Variadic: a bare int would be passed as 32 bits, and the upper half be whatever was there.
    return ctypes.c_ulong(value) if isinstance(value, int) else value


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
