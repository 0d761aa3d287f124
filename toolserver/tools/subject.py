"""What a request is about, for the audit: paths and a program's name; never content or a whole command."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

_MAX_PATHS = 10
_LONGEST = 300
_PATHS = ("path", "to", "paths", "cwd", "files", "edits")
"""Fields of requests that hold a path, paths, or parts that have them."""
_PATH_ALONE = ("path",)
_COMMANDS = ("argv", "command")
_CHECKPOINTS = frozenset(("checkpoint_diff", "rollback"))
"""Their ``to`` is a checkpoint's name."""
_BY_ANSWER = frozenset(("edit", "replace"))
"""Which files these change, only the answer tells: a patch is content."""
_PROGRAM = re.compile(r"[\w./+-]{1,200}(?=\s|$)", re.ASCII)


def subject(line: dict[str, Any], operation: str, request: object, answer: object = None) -> None:
    """Put ``paths`` and ``program`` into ``line``, as far as there are any.

    ``request`` is a message, or the path itself.

    >>> from protocol.messages.commands import Command
    >>> line = {}
    >>> subject(line, "command", Command(command="curl -H 'Token: hush' example.org", cwd="src"))
    >>> line
    {'paths': ['src'], 'program': 'curl'}
    """
    kind: Any = type(request)
    fields = _fields(kind)
    if fields == _PATH_ALONE:
        line["paths"] = list(map(_readable, _paths(operation, request)))
        return
    if not fields and kind is not str:
        return
    paths = list(_paths(operation, request))
    if operation in _BY_ANSWER and answer is not None:
        paths = list(_paths(operation, answer))
    if paths:
        paths = list(dict.fromkeys(paths))
        line["paths"] = [_readable(each) for each in paths[:_MAX_PATHS]]
        if len(paths) > _MAX_PATHS:
            line["morePaths"] = len(paths) - _MAX_PATHS
    command = getattr(request, "argv", None) or getattr(request, "command", None)
    if command is not None:
        line["program"] = program(command)


def program(command: object) -> str:
    """The name of what a command runs first, where that is plain; never more of it.

    >>> program(["/usr/bin/git", "push", "https://me:hush@example.org"]), program("npm  run build")
    ('git', 'npm')
    >>> program("TOKEN=hush deploy"), program("(cd a; make)"), program("hush@host")
    ('sh', 'sh', 'sh')
    """
    first = command[0] if isinstance(command, list) and command else command
    found = _PROGRAM.match(first.strip()) if isinstance(first, str) else None
    return (found[0].rpartition("/")[2] or "sh")[:64] if found else "sh"


@functools.cache
def _fields(kind: Any) -> tuple[str, ...]:
    """Those of a message's fields that tell what it is about."""
    return tuple(name for name in (*_PATHS, *_COMMANDS) if name in getattr(kind, "__struct_fields__", ()))


def _paths(operation: str, value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        return
    kind: Any = type(value)
    for name in _fields(kind):
        if name in _COMMANDS:
            return
        held = getattr(value, name)
        if isinstance(held, str):
            if not (name == "to" and operation in _CHECKPOINTS):
                yield held
        elif isinstance(held, list):
            for each in held:
                yield from _paths(operation, each)


def _readable(path: str) -> str:
    """As the log and the wire can have it: a file's name need not be UTF-8.

    >>> _readable("caf\\udce9"), len(_readable("a" * 5000))
    ('caf\\\\udce9', 300)
    """
    return path[:_LONGEST] if path.isascii() else path[:_LONGEST].encode(errors="backslashreplace").decode()
