"""The directory that the request under way may not leave, for whoever opens a file on its behalf.

Set once, where a request is let in, and asked in the one place where paths become descriptors (``disk``). It
goes along to tasks and worker threads that are started meanwhile, as context variables do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from protocol.errors import Forbidden
from protocol.paths import ROOT, WorkspacePath, is_within

_PREFIX: ContextVar[WorkspacePath] = ContextVar("confinement", default=ROOT)
_AS_IT_IS = contextlib.nullcontext()


def confined(prefix: WorkspacePath) -> contextlib.AbstractContextManager[None]:
    """While the caller may reach only ``prefix`` and what is below it."""
    return _AS_IT_IS if prefix == _PREFIX.get() else _confined(prefix)


@contextlib.contextmanager
def _confined(prefix: WorkspacePath) -> Iterator[None]:
    token = _PREFIX.set(prefix)
    try:
        yield
    finally:
        _PREFIX.reset(token)


def unconfined() -> contextlib.AbstractContextManager[None]:
    """While the tool server looks for itself, at what the request that made it look is shown nothing of.

    What it learns serves everybody (the past, which files are ignored): who asked first must not matter.
    """
    return confined(ROOT)


def confinement() -> WorkspacePath:
    """The directory; the root where nothing is confined."""
    return _PREFIX.get()


def admitted(path: WorkspacePath) -> WorkspacePath:
    """``path``, when the request may name it; raises Forbidden.

    >>> with confined(WorkspacePath("src")):
    ...     admitted(WorkspacePath("src/a.ts"))
    'src/a.ts'
    >>> with confined(WorkspacePath("src")):
    ...     admitted(WorkspacePath("."))
    Traceback (most recent call last):
    protocol.errors.Forbidden: this token is for 'src' and what is below it, not for '.'
    """
    prefix = _PREFIX.get()
    if prefix != ROOT and not is_within(path, (prefix,)):
        raise Forbidden(f"this token is for {prefix!r} and what is below it, not for {path!r}", path=path)
    return path
