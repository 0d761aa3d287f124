"""Who asks, and what they may: what is left of a token once it was believed."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import Conflict, Forbidden, Unauthorized
from protocol.operations import Operation
from protocol.paths import ROOT, WorkspacePath
from protocol.tokens import Scope

EXPIRED = "the token expired: fetch a new one"


@dataclass(frozen=True)
class Admission:
    """One token, believed. Made by the guard; every ``Call`` has one."""

    who: str
    """The user that the token names; ``static`` for the daemon's own token, ``anyone`` where none is asked
    for."""
    scopes: frozenset[Scope]
    path: WorkspacePath = ROOT
    """Only this directory and what is below it; the root: everything."""
    token_id: str | None = None
    """By which it is revoked; None for a token that cannot be."""
    expires: float | None = None
    """Seconds since 1970; None: never."""
    port: int | None = None
    binds: str | None = None
    """The session that this tool server may be bound to by it, and nothing else: it has none yet."""


@dataclass(frozen=True)
class Door:
    """What is done without an operation, by a door of its own, and what that needs."""

    name: str
    scope: Scope
    confined: bool = False
    """As for an operation."""


RAW_READ = Door("raw_read", Scope.READ, confined=True)
RAW_WRITE = Door("raw_write", Scope.WRITE, confined=True)
RAW_REMOVE = Door("raw_remove", Scope.WRITE, confined=True)
METRICS = Door("metrics", Scope.READ)
ARCHIVE_IN = Door("inject", Scope.ARCHIVE)
ARCHIVE_OUT = Door("save", Scope.ARCHIVE)
ARCHIVE_MANIFEST = Door("manifest", Scope.ARCHIVE)

STATIC = Admission("static", frozenset(Scope))
"""The daemon's own token is good for everything, for as long as the daemon runs."""
EVERYTHING = Admission("anyone", frozenset(Scope))
"""Where no token is asked for: on loopback."""


def refuse_over(admission: Admission, now: float) -> None:
    """Raise Unauthorized once its time is over; ``now`` is in seconds since 1970.

    >>> refuse_over(Admission("ann", frozenset(), expires=10), 10)
    """
    if admission.expires is not None and now > admission.expires:
        raise Unauthorized(EXPIRED)


def refuse_beyond(admission: Admission, what: Operation | Door) -> None:
    """Raise Forbidden unless the admission is good for it.

    >>> reader = Admission("ann", frozenset({Scope.READ}))
    >>> refuse_beyond(reader, RAW_READ)
    >>> refuse_beyond(reader, RAW_WRITE)
    Traceback (most recent call last):
    protocol.errors.Forbidden: raw_write needs the scope 'write'; this token has 'read'
    """
    if admission.binds is not None and what.name != "bind_session":
        raise Conflict("this tool server belongs to no session yet: bind it to one by bind_session")
    if what.scope not in admission.scopes:
        has = ", ".join(repr(scope.value) for scope in Scope if scope in admission.scopes) or "none"
        raise Forbidden(
            f"{what.name} needs the scope {what.scope.value!r}; this token has {has}",
            scope=what.scope.value,
            operation=what.name,
        )
    if admission.path != ROOT and not what.confined:
        raise Forbidden(
            f"{what.name} reaches the whole workspace, and this token is for {admission.path!r} alone",
            path=admission.path,
            operation=what.name,
        )
