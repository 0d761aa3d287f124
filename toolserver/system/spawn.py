"""How a program is started: the one call that makes a process, and what its refusals mean.

The call is the C library's ``posix_spawn``: it shares our memory until the program is there, so starting
costs the same whatever the daemon holds, and it changes directory and session on the way, which
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
from collections.abc import Mapping, Sequence
from typing import Any

from protocol.errors import Busy, Forbidden, InvalidRequest, NotFound, TooLarge, ToolError

DEVNULL = -1
"""In place of a descriptor for standard input: nothing to read."""

_SETSIGDEF, _SETSID, _SETCGROUP = 0x04, 0x80, 0x100
_NAMED_CHARACTERS = 300
"""Of a program's name, in a refusal."""
_OBJECT_BYTES = 1024
"""For an attribute object, a list of file actions, a set of signals: glibc's largest has 336 bytes."""
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, 32, 33)
"""Ignored by this interpreter for its own sake, and by the C library's spawn for its threads'; programs
expect the default."""
_NEEDED = ("posix_spawn_file_actions_addchdir_np", "posix_spawn_file_actions_addclosefrom_np")


def spawn(  # noqa: PLR0913 - what a program is started with
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    tried: Sequence[str] | None = None,
    *,
    mark: tuple[str, str] | None = None,
    keep_lock: bool = True,
    group: int | None = None,
) -> int:
    """Start ``argv`` as the leader of a session of its own; its pid, after about half a millisecond.

    ``mark`` is one variable more, this program's own: apart from ``env``, of which many are given the same.
    ``tried`` is what the caller asked for, when ``argv`` is only the way there: refusals name it.
    ``keep_lock`` keeps the interpreter's lock: handed back for half a millisecond, a busy thread could keep
    it from us for five. ``group`` is a descriptor of a control group's directory (version 2), for the program
    to be born in, where ``births_into_groups``. Raises NotFound, Forbidden, InvalidRequest, TooLarge, Busy.
    """
    program = (tried or argv)[0][:_NAMED_CHARACTERS]
    streams = stdin, stdout, stderr
    try:
        # A descriptor below 3 would be overwritten before its turn: possible where ours were closed.
        if _library() is None or any(0 <= fd < 3 for fd in streams):
            return _by_subprocess(argv, cwd, _marked(env, mark), streams)
        return _by_library(
            found(argv[0], cwd, env), argv, cwd, _variables(env, mark), streams, keep_lock, group
        )
    except (OSError, ValueError) as error:
        raise not_started(error, program, cwd) from None


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
        return TooLarge(
            "arguments and environment are too long for the system, which takes 128 KiB in each; "
            "use a file or stdin, or 'shell' for a long line",
            limit="MAX_ARG_STRLEN",
            value=128 * 1024,
        )
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENOMEM):
        return Busy(f"the system has no room for another process: {error.strerror}")
    reason = (isinstance(error, OSError) and error.strerror) or error
    return InvalidRequest(f"{program!r} cannot be started: {reason}", program=program)


@functools.cache
def _library() -> ctypes.PyDLL | None:
    """The C library, when it can do all that is needed. ``PyDLL`` keeps the interpreter's lock."""
    library = ctypes.PyDLL(None)
    return library if all(hasattr(library, name) for name in _NEEDED) else None


@functools.cache
def _without_lock() -> ctypes.CDLL:
    """The C library, called without the interpreter's lock. Kept: opening it takes 40 microseconds."""
    return ctypes.CDLL(None)


def _by_library(
    program: str,
    argv: Sequence[str],
    cwd: str,
    variables: _Strings,
    streams: tuple[int, int, int],
    keep_lock: bool,
    group: int | None,
) -> int:
    library = _library()
    assert library is not None
    posix_spawn = library.posix_spawn if keep_lock else _without_lock().posix_spawn
    pid = ctypes.c_int()
    words = _strings(argv)
    actions = _Actions.of(streams, cwd)
    path = os.fsencode(program)
    attributes = _attributes() if group is None else _attributes_in(group)
    _checked(posix_spawn(ctypes.byref(pid), path, actions.list, attributes, words.array, variables.array))
    return pid.value


class _Strings:
    """``char *[]``, ended by a null pointer, and the bytes that it points to."""

    def __init__(self, array: Any, kept: object) -> None:
        self.array = array
        self._kept = kept


def _strings(values: Sequence[str]) -> _Strings:
    """Raises ValueError for a value with a NUL in it."""
    # Joined, because to encode one long string is ten times quicker than forty short ones.
    encoded = os.fsencode("\0".join(values)).split(b"\0") if values else []
    if len(encoded) != len(values):
        raise ValueError("embedded null byte")
    array = _array_type(len(encoded) + 1)(*encoded, None)
    return _Strings(array, array)


def _variables(env: Mapping[str, str], mark: tuple[str, str] | None) -> _Strings:
    """``env`` and ``mark``; what most programs are given alike is encoded once."""
    if mark is None or mark[0] in env:
        return _strings([f"{name}={value}" for name, value in _marked(env, mark).items()])
    common = _Common.of(env)
    if "\0" in mark[1]:
        raise ValueError("embedded null byte")
    array = _array_type(len(env) + 2).from_buffer_copy(common.room)
    array[len(env)] = os.fsencode("=".join(mark))
    return _Strings(array, common)


def _marked(env: Mapping[str, str], mark: tuple[str, str] | None) -> Mapping[str, str]:
    return env if mark is None else {**env, mark[0]: mark[1]}


class _Common:
    """The last variables that were encoded. Replaced whole, so any thread may read it."""

    _last: _Common | None = None

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        self.strings = _strings([f"{name}={value}" for name, value in env.items()])
        self.room = bytes(self.strings.array) + bytes(ctypes.sizeof(ctypes.c_char_p))
        """The pointers, with place for one more."""

    @classmethod
    def of(cls, env: Mapping[str, str]) -> _Common:
        """Encoded now, or the last time."""
        last = cls._last
        if last is None or last.env != env:
            last = cls._last = cls(env)
        return last


@functools.lru_cache(maxsize=64)
def _array_type(length: int) -> Any:
    """Kept, because making a type takes longer than all the rest."""
    return ctypes.c_char_p * length


class _Actions:
    """What happens to descriptors on the way, and the directory. Kept, for descriptors come again."""

    def __init__(self, streams: tuple[int, int, int], cwd: str) -> None:
        library = _library()
        assert library is not None
        self.list = _actions(library, streams, cwd)
        self._destroy = library.posix_spawn_file_actions_destroy

    def __del__(self) -> None:
        self._destroy(self.list)

    @classmethod
    def of(cls, streams: tuple[int, int, int], cwd: str) -> _Actions:
        """Those of a start; who holds them may use them, also when they are kept no more."""
        return _kept_actions(streams, cwd)


@functools.lru_cache(maxsize=64)
def _kept_actions(streams: tuple[int, int, int], cwd: str) -> _Actions:
    return _Actions(streams, cwd)


def _actions(library: ctypes.PyDLL, streams: tuple[int, int, int], cwd: str) -> Any:
    """These three descriptors, no others, and the directory. To be destroyed."""
    actions = ctypes.create_string_buffer(_OBJECT_BYTES)
    _checked(library.posix_spawn_file_actions_init(actions))
    for target, fd in enumerate(streams):
        if fd == DEVNULL:
            add = library.posix_spawn_file_actions_addopen
            _checked(add(actions, target, b"/dev/null", os.O_RDONLY, 0))
        else:
            _checked(library.posix_spawn_file_actions_adddup2(actions, fd, target))
    _checked(library.posix_spawn_file_actions_addclosefrom_np(actions, 3))
    _checked(library.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(cwd)))
    return actions


def births_into_groups() -> bool:
    """Whether ``group`` can be given."""
    library = _library()
    return library is not None and hasattr(library, "posix_spawnattr_setcgroup_np")


@functools.cache
def _attributes() -> Any:
    """What most programs are started with."""
    return _attributes_with(ctypes.PyDLL(None), _SETSID | _SETSIGDEF)


def _attributes_in(group: int) -> Any:
    """The same, and the control group that it is born in."""
    library = ctypes.PyDLL(None)
    attributes = _attributes_with(library, _SETSID | _SETSIGDEF | _SETCGROUP)
    _checked(library.posix_spawnattr_setcgroup_np(attributes, group))
    return attributes


def _attributes_with(library: ctypes.PyDLL, flags: int) -> Any:
    """A session of its own, and signals as programs expect them."""
    attributes = ctypes.create_string_buffer(_OBJECT_BYTES)
    _checked(library.posix_spawnattr_init(attributes))
    # Written bit by bit, as the kernel has it: ``sigaddset`` refuses the last two.
    signals = (ctypes.c_ulong * (_OBJECT_BYTES // ctypes.sizeof(ctypes.c_ulong)))()
    for number in _DEFAULT_SIGNALS:
        word, bit = divmod(int(number) - 1, ctypes.sizeof(ctypes.c_ulong) * 8)
        signals[word] |= 1 << bit
    _checked(library.posix_spawnattr_setsigdefault(attributes, signals))
    _checked(library.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)))
    return attributes


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
