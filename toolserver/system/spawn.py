"""How a program is started: the one call that makes a process, and what its refusals mean.

The call is the C library's ``posix_spawn``: it shares our memory until the program is there, so starting
costs the same whatever the daemon holds, and it changes directory, session and cgroup on the way, which
``os.posix_spawn`` cannot. ``subprocess`` does the same by its vfork path and takes 0.1 ms longer, in Python;
it serves where the C library lacks a function. Never ``preexec_fn``: that forks.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from protocol.errors import Busy, Forbidden, InvalidRequest, NotFound, TooLarge, ToolError

DEVNULL = -1
"""In place of a descriptor for standard input: nothing to read."""

_SETSIGDEF, _SETSID, _SETCGROUP = 0x04, 0x80, 0x100
_OBJECT_BYTES = 1024
"""For an attribute object, a list of file actions, a set of signals: glibc's largest has 336 bytes."""
_PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by this interpreter for its own sake; programs expect the default."""
_NEEDED = ("posix_spawn_file_actions_addchdir_np", "posix_spawn_file_actions_addclosefrom_np")


def spawn(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    tried: Sequence[str] | None = None,
    cgroup: int | None = None,
) -> int:
    """Start ``argv`` as the leader of a session of its own; its pid, after about half a millisecond.

    ``tried`` is what the caller asked for, when ``argv`` is only the way there: refusals name it. ``cgroup``
    is the descriptor of a cgroup v2 directory to start in, see ``starts_in_cgroup``. Raises NotFound,
    Forbidden, InvalidRequest, TooLarge, Busy.
    """
    program = (tried or argv)[0]
    streams = stdin, stdout, stderr
    try:
        # A descriptor below 3 would be overwritten before its turn: possible where ours were closed.
        if _library() is None or any(0 <= fd < 3 for fd in streams):
            return _by_subprocess(argv, cwd, env, streams)
        return _by_library(found(argv[0], cwd, env), argv, cwd, env, streams, cgroup)
    except (OSError, ValueError) as error:
        raise not_started(error, program, cwd) from None


def starts_in_cgroup() -> bool:
    """Whether ``spawn`` can place a program in a cgroup before its first instruction (glibc 2.39)."""
    library = _library()
    return library is not None and hasattr(library, "posix_spawnattr_setcgroup_np")


def found(program: str, cwd: str, env: Mapping[str, str]) -> str:
    """``program`` as a path, looked up on the PATH of ``env``; as it is when it is nowhere there.

    >>> found("./run", "/", {}), found("no-such-program", "/", {"PATH": "/bin"})
    ('./run', 'no-such-program')
    """
    if "/" in program:
        return program
    places = (os.path.join(cwd, place, program) for place in env.get("PATH", os.defpath).split(os.pathsep))
    return next((each for each in places if os.access(each, os.X_OK) and not os.path.isdir(each)), program)


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


@functools.cache
def _library() -> ctypes.PyDLL | None:
    """The C library, when it can do all that is needed.

    ``PyDLL`` keeps the interpreter's lock: handed back during the half millisecond, a busy thread could
    keep it from us for five.
    """
    library = ctypes.PyDLL(None)
    return library if all(hasattr(library, name) for name in _NEEDED) else None


def _by_library(
    program: str,
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    streams: tuple[int, int, int],
    cgroup: int | None,
) -> int:
    library = _library()
    assert library is not None
    pid = ctypes.c_int()
    words = _strings(argv)
    variables = _strings([f"{name}={value}" for name, value in env.items()])
    with ExitStack() as stack:
        actions = stack.enter_context(_actions(library, streams, cwd))
        attributes = stack.enter_context(_attributes(library, cgroup))
        failed = library.posix_spawn(
            ctypes.byref(pid), os.fsencode(program), actions, attributes, words, variables
        )
    if failed:
        raise OSError(failed, os.strerror(failed))
    return pid.value


def _strings(values: Sequence[str]) -> Any:
    """``char *[]``, ended by a null pointer; raises ValueError for a value with a NUL in it."""
    encoded = [os.fsencode(each) for each in values]
    if any(b"\0" in each for each in encoded):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)


@contextmanager
def _actions(library: ctypes.PyDLL, streams: tuple[int, int, int], cwd: str) -> Iterator[Any]:
    """What happens to descriptors on the way: these three, no others, and the directory."""
    actions = ctypes.create_string_buffer(_OBJECT_BYTES)
    _checked(library.posix_spawn_file_actions_init(actions))
    try:
        for target, fd in enumerate(streams):
            if fd == DEVNULL:
                add = library.posix_spawn_file_actions_addopen
                _checked(add(actions, target, b"/dev/null", os.O_RDONLY, 0))
            else:
                _checked(library.posix_spawn_file_actions_adddup2(actions, fd, target))
        _checked(library.posix_spawn_file_actions_addclosefrom_np(actions, 3))
        _checked(library.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(cwd)))
        yield actions
    finally:
        library.posix_spawn_file_actions_destroy(actions)


@contextmanager
def _attributes(library: ctypes.PyDLL, cgroup: int | None) -> Iterator[Any]:
    """A session of its own, signals as programs expect them, and the cgroup."""
    attributes = ctypes.create_string_buffer(_OBJECT_BYTES)
    _checked(library.posix_spawnattr_init(attributes))
    try:
        flags = _SETSID | _SETSIGDEF
        _checked(library.posix_spawnattr_setsigdefault(attributes, _default_signals()))
        if cgroup is not None:
            flags |= _SETCGROUP
            _checked(library.posix_spawnattr_setcgroup_np(attributes, cgroup))
        _checked(library.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)))
        yield attributes
    finally:
        library.posix_spawnattr_destroy(attributes)


@functools.cache
def _default_signals() -> Any:
    library = ctypes.PyDLL(None)
    signals = ctypes.create_string_buffer(_OBJECT_BYTES)
    library.sigemptyset(signals)
    for number in _PYTHON_IGNORES:
        library.sigaddset(signals, int(number))
    return signals


def _checked(failed: int) -> None:
    if failed:
        raise OSError(failed, os.strerror(failed))


def _by_subprocess(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], streams: tuple[int, int, int]
) -> int:
    stdin, stdout, stderr = (subprocess.DEVNULL if fd == DEVNULL else fd for fd in streams)
    popen = subprocess.Popen(
        argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
    )
    # Its end is ours to learn; an object that does not know it would complain of a child left behind.
    popen.returncode = 0
    return popen.pid
