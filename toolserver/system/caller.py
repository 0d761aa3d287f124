"""On whose behalf something is begun: of whoever's request is under way, or of nobody but the daemon.

Set once, where a request is let in, and asked where what is begun is counted. It goes along to tasks that are
started meanwhile, as context variables do.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

NOBODY = ""
_WHO: ContextVar[str] = ContextVar("caller", default=NOBODY)


def begin(who: str) -> Token[str]:
    """From here on it is ``who``, until ``end`` of what this gives."""
    return _WHO.set(who)


def end(before: Token[str]) -> None:
    """Whoever it was before."""
    _WHO.reset(before)


def caller() -> str:
    """The user that the request's token names; NOBODY outside of requests."""
    return _WHO.get()
