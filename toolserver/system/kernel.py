"""System calls that Python has no function for. Each raises OSError as ``os`` would, and is for the thread
that calls it alone: the C library's own functions for users and groups would speak for all threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import struct

from protocol import landlock, seccomp

_CAPABILITY_VERSION = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_GET_SECCOMP = 23, 24, 38, 21

# machine: (setgroups, setresgid, setresuid, setfsuid, setfsgid)
_USER_CALLS = {"x86_64": (116, 119, 117, 122, 123), "aarch64": (159, 149, 147, 151, 152)}


def knows_machine() -> bool:
    """Whether the calls below whose numbers differ are known for this machine."""
    return os.uname().machine in _USER_CALLS


def become(uid: int, gid: int) -> None:
    """This thread, and what it starts, is that user's: without other groups, without a way back."""
    setgroups, setresgid, setresuid, _, _ = _USER_CALLS[os.uname().machine]
    _call(setgroups, 0, None)
    _call(setresgid, gid, gid, gid)
    _call(setresuid, uid, uid, uid)


def treat_files_as(uid: int, gid: int) -> None:
    """This thread, and threads that it starts, open and make files as that user; otherwise it stays root."""
    setgroups, _, _, setfsuid, setfsgid = _USER_CALLS[os.uname().machine]
    _call(setgroups, 0, None)
    _call(setfsgid, gid)
    _call(setfsuid, uid)


def no_new_privileges() -> None:
    """No program started from here gives more rights than its starter has: set-user-id bits mean nothing."""
    _control(_PR_SET_NO_NEW_PRIVS, 1)


def may_gain(capability: int) -> bool:
    """Whether a program that is started as root has that capability."""
    return _control(_PR_CAPBSET_READ, capability) == 1


def give_up(capability: int) -> None:
    """No program started from here has it."""
    _control(_PR_CAPBSET_DROP, capability)


def hand_no_rights_on() -> None:
    """No program started from here inherits a capability that its user does not have by himself."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    held = ctypes.create_string_buffer(24)
    _call(_capget(), header, held)
    effective, permitted, _, effective_2, permitted_2, _ = struct.unpack("=6I", held.raw)
    _call(_capget() + 1, header, struct.pack("=6I", effective, permitted, 0, effective_2, permitted_2, 0))


def _capget() -> int:
    return {"x86_64": 125, "aarch64": 90}[os.uname().machine]


def has_filters() -> bool:
    """Whether this kernel filters system calls."""
    try:
        return _control(_PR_GET_SECCOMP) >= 0
    except OSError:
        return False


def filter_calls(code: bytes) -> None:
    """Put a filter (``protocol.seccomp``) on this thread, and on what it starts."""
    instructions = ctypes.create_string_buffer(code, len(code))
    told = seccomp.descriptor(code, ctypes.addressof(instructions))
    _control(seccomp.PR_SET_SECCOMP, seccomp.MODE_FILTER, ctypes.c_char_p(told))


def landlock_abi() -> int:
    """The version of Landlock's interface; 0 where the kernel has none, or is told not to use it."""
    try:
        return _call(landlock.CREATE_RULESET, None, 0, landlock.ASK_VERSION)
    except OSError:
        return 0


class Ruleset:
    """Landlock's rules in the making. ``restrict`` ties the calling thread to them."""

    def __init__(self, abi: int) -> None:
        self._abi = abi
        asked = landlock.ruleset(abi, by_port=False)
        self._fd = _call(landlock.CREATE_RULESET, asked, len(asked), 0)

    def allow(self, kind: str, path: str) -> None:
        """Grant ``landlock.KINDS[kind]`` below ``path``; nothing where that is gone, a link, or not ours."""
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            mode = os.fstat(fd).st_mode
            rights = landlock.granted(kind, self._abi, stat.S_ISDIR(mode))
            if rights and not stat.S_ISLNK(mode):
                _call(landlock.ADD_RULE, self._fd, landlock.PATH_BENEATH, landlock.path_rule(rights, fd), 0)
        finally:
            os.close(fd)

    def restrict(self) -> None:
        """From here on, for good. Needs ``no_new_privileges`` first, unless root."""
        _call(landlock.RESTRICT_SELF, self._fd, 0)

    def close(self) -> None:
        """The rules stay where they were applied."""
        os.close(self._fd)


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    return _checked(_library().syscall(number, *map(_word, arguments)))


def _control(option: int, *arguments: object) -> int:
    given = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_library().prctl(option, *map(_word, given)))


def _word(value: object) -> object:
    # Variadic: a bare int would be passed as 32 bits, and the upper half be whatever was there.
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
